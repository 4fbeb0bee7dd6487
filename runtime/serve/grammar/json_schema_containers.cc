// Arrays and objects.
#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "core/io/foreign_text.h"
#include "runtime/serve/grammar/code_points.h"
#include "runtime/serve/grammar/json_schema.h"
#include "runtime/serve/grammar/schema_keywords.h"
#include "runtime/serve/grammar/string_pattern.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;
using Node = AutomatonBuilder::Node;

// A member of a schema; null: there is none.
const Json* Find(const Json& schema, const char* key) {
  const auto found = schema.find(key);
  return found == schema.end() ? nullptr : &*found;
}

const Json& AnyValue() {
  static const Json any = true;
  return any;
}

std::u32string CodePointsOf(absl::string_view text) {
  std::u32string points;
  for (size_t pos = 0; pos < text.size();) points.push_back(DecodeUtf8(text, pos));
  return points;
}

// Texts of a JSON string, without its quotes, that are none of some names.
class OtherNames {
 public:
  explicit OtherNames(AutomatonBuilder& builder)
      : builder_(builder), end_(builder.NewNode()), free_(builder.NewNode()) {
    builder_.Join(free_, end_);
  }

  // `names`: what may not follow `at`.
  absl::StatusOr<Node> Append(Node at, const std::vector<std::u32string>& names) {
    TF_RETURN_IF_ERROR(AddCharacters(free_, Complement({}), free_));
    TF_RETURN_IF_ERROR(AppendTrie(at, {names.begin(), names.end()}));
    return end_;
  }

 private:
  absl::Status AddCharacters(Node from, const CodePointSet& set, Node to) {
    AppendCharacter(from, set, to, builder_);
    return builder_.Spend(100 + static_cast<int64_t>(set.size()));
  }

  // A list of places instead of a recursion, which would be as deep as the longest name.
  absl::Status AppendTrie(Node at, std::vector<std::u32string_view> names) {
    std::vector<std::pair<Node, std::vector<std::u32string_view>>> open = {{at, std::move(names)}};
    while (!open.empty() && !builder_.too_large()) {
      const auto [from, rests] = std::move(open.back());
      open.pop_back();
      std::map<char32_t, std::vector<std::u32string_view>> by_first;
      bool is_name = false;
      for (const std::u32string_view rest : rests) {
        if (rest.empty()) {
          is_name = true;
        } else {
          by_first[rest[0]].push_back(rest.substr(1));
        }
      }
      if (!is_name) builder_.Join(from, end_);
      CodePointSet firsts;
      for (auto& [first, further] : by_first) {
        firsts.push_back({first, first});
        const Node next = builder_.NewNode();
        TF_RETURN_IF_ERROR(AddCharacters(from, {{first, first}}, next));
        open.emplace_back(next, std::move(further));
      }
      TF_RETURN_IF_ERROR(AddCharacters(from, Complement(std::move(firsts)), free_));
    }
    return absl::OkStatus();
  }

  AutomatonBuilder& builder_;
  const Node end_, free_;  // free_: it is another name already
};

}  // namespace

JsonSchema::NodeOr JsonSchema::Array(Node at, const Json& schema, const Place& place) {
  const auto least = CountOf(schema, "minItems", 0);
  auto most = CountOf(schema, "maxItems", -1);
  if (!least.ok() || !most.ok()) return place.Error((least.ok() ? most : least).status().message());
  // The first items may have schemas of their own. Before 2020 `items` listed these, and `additionalItems` was the
  // rest.
  const Json *items = Find(schema, "items"), *first = Find(schema, "prefixItems"),
             *more = Find(schema, "additionalItems");
  const char* first_key = "prefixItems";
  if (first == nullptr && items != nullptr && items->is_array()) {
    first_key = "items";
    first = std::exchange(items, std::exchange(more, nullptr));
  }
  if (more != nullptr) return place.Error("'additionalItems' without a list of 'items' is not supported");
  if (first != nullptr && !first->is_array()) return place.In(first_key).Error("must be a list of schemas");
  const int64_t num_first = first == nullptr ? 0 : static_cast<int64_t>(first->size());
  if (items != nullptr && *items == false) most = *most < 0 ? num_first : std::min(*most, num_first);
  if (*most >= 0 && *most < *least) return place.Error("maxItems is less than minItems");
  if (items == nullptr && num_first == 0 && *least == 0 && *most < 0) return pieces_.Array(at);
  const auto item = [&](Node from, int64_t idx) {
    if (idx < num_first) return Value(from, (*first)[idx], place.In(first_key).In(absl::StrCat(idx)));
    return Value(from, items == nullptr ? AnyValue() : *items, place.In("items"));
  };
  const Node inside = pieces_.Space(builder_.Byte(at, '[', '[')), end = builder_.NewNode();
  if (*least == 0) builder_.Join(inside, end);
  Node next = builder_.NewNode();  // where an item may begin
  builder_.Join(inside, next);
  // The items that have a number of their own; behind them, where there is no limit, any more.
  const int64_t num_counted = *most >= 0 ? *most : std::max<int64_t>(*least, num_first + 1);
  for (int64_t i = 0; i < num_counted; ++i) {
    TF_ASSIGN_OR_RETURN(const Node value, item(next, i));
    if (i + 1 >= *least) builder_.Join(pieces_.Space(value), end);
    const bool is_last = i + 1 == num_counted;
    if (is_last && *most >= 0) break;  // no comma: nothing may follow it
    const Node comma = pieces_.Space(builder_.Byte(value, ',', ','));
    if (is_last) {
      builder_.Join(comma, next);
    } else {
      next = comma;
    }
  }
  return builder_.Byte(end, ']', ']');
}

absl::StatusOr<JsonSchema::ObjectForm> JsonSchema::ReadObject(const Json& schema, const Place& place) {
  ObjectForm form;
  const Json *properties = Find(schema, "properties"), *patterns = Find(schema, "patternProperties"),
             *names = Find(schema, "propertyNames"), *additional = Find(schema, "additionalProperties");
  for (const Json* given : {properties, patterns}) {
    if (given == nullptr || given->is_object()) continue;
    return place.In(given == properties ? "properties" : "patternProperties").Error("must be an object");
  }
  if (additional != nullptr && !additional->is_boolean() && !additional->is_object()) {
    return place.In("additionalProperties").Error("must be an object, true or false");
  }
  const Place of_properties = place.In("properties"), of_others = place.In("additionalProperties"),
              of_names = place.In("propertyNames");
  if (properties != nullptr) {
    for (const auto& [name, value] : properties->items())
      form.members.push_back({name, &value, of_properties.In(name)});
  }
  const bool is_closed = additional != nullptr && *additional == false;
  const bool has_schema = additional != nullptr && additional->is_object() && !additional->empty();
  // Where there are properties, others come only where a schema says of what kind.
  if (!is_closed && (form.members.empty() || has_schema)) {
    form.others = OtherMembers{has_schema ? additional : &AnyValue(), of_others, nullptr, of_names, std::nullopt};
  }
  if (patterns != nullptr && !patterns->empty()) {
    if (patterns->size() > 1 || !form.members.empty() || names != nullptr) {
      return place.Error(
          "'patternProperties' of several patterns, or beside 'properties' or 'propertyNames', is not supported");
    }
    const auto only = patterns->begin();
    form.others = OtherMembers{&*only, place.In("patternProperties").In(only.key()), nullptr, of_names, only.key()};
  }
  if (names == nullptr) return form;
  if (!form.members.empty()) return place.Error("'propertyNames' beside 'properties' is not supported");
  if (!names->is_object()) return of_names.Error("must be an object");
  if (!form.others) return form;
  const Json* const listed = Find(*names, "enum");
  if (listed == nullptr) {
    form.others->names = names;
    return form;
  }
  // Names that are listed are properties, each of which may come once.
  const std::string other = OtherKeyword(*names, {"enum", "type"});
  if (!other.empty() || !listed->is_array() || names->value("type", Json("string")) != "string") {
    return of_names.Error("of an 'enum' must be a list of texts and nothing else");
  }
  std::set<std::string> seen;
  for (const Json& name : *listed) {
    if (!name.is_string()) return of_names.Error("of an 'enum' must be a list of texts");
    if (seen.insert(name.get<std::string>()).second) form.members.push_back({name, form.others->schema, of_others});
  }
  form.others.reset();
  return form;
}

absl::Status JsonSchema::ReadRequired(const Json& schema, const Place& place, ObjectForm* form) {
  const auto least = CountOf(schema, "minProperties", 0), most = CountOf(schema, "maxProperties", -1);
  if (!least.ok() || !most.ok()) return place.Error((least.ok() ? most : least).status().message());
  if (const Json* const required = Find(schema, "required")) {
    if (!required->is_array()) return place.In("required").Error("must be a list of names");
    TF_RETURN_IF_ERROR(Spend(static_cast<int64_t>(form->members.size() + required->size()), place));
    std::set<absl::string_view> known;
    for (const Member& member : form->members) known.insert(member.name);
    for (const Json& name : *required) {
      const bool is_known = name.is_string() && known.contains(name.get_ref<const std::string&>());
      const std::string shown = Excerpt(name.is_string() ? name.get<std::string>() : name.dump());
      if (!is_known) return place.In("required").Error(absl::StrCat("'", shown, "' is not among the properties"));
      form->required.insert(name.get<std::string>());
    }
  }
  // Names that are not listed may come twice, which counts once.
  form->is_never_empty = *least > 0;
  if (*least > std::max<int64_t>(1, static_cast<int64_t>(form->required.size()))) {
    return place.Error("'minProperties' above 1, and above the number of required ones, is not supported");
  }
  if (*most >= 0 && (form->others || *most < static_cast<int64_t>(form->members.size()))) {
    return place.Error("'maxProperties' below the number of properties, or where there may be any, is not supported");
  }
  return absl::OkStatus();
}

JsonSchema::NodeOr JsonSchema::Object(Node at, const Json& schema, const Place& place) {
  TF_ASSIGN_OR_RETURN(ObjectForm form, ReadObject(schema, place));
  TF_RETURN_IF_ERROR(ReadRequired(schema, place, &form));
  const bool is_free = form.members.empty() && !form.is_never_empty && form.others && !form.others->names &&
                       !form.others->pattern && form.others->schema == &AnyValue();
  return is_free ? NodeOr(pieces_.Object(at)) : Members(at, form);
}

// From `{` to `}`. There are two rows of nodes, one for texts that have no member yet, one for those that have and need
// a comma.
JsonSchema::NodeOr JsonSchema::Members(Node at, const ObjectForm& form) {
  Node none = pieces_.Space(builder_.Byte(at, '{', '{')), some = builder_.NewNode();
  for (const Member& member : form.members) {
    const std::string key = absl::StrCat(Json(member.name).dump(), ":");
    const Node first = builder_.Text(none, key);
    builder_.Join(builder_.Text(pieces_.Space(builder_.Byte(some, ',', ',')), key), first);
    TF_ASSIGN_OR_RETURN(const Node value, Value(pieces_.Space(first), *member.schema, member.place));
    const Node next_none = builder_.NewNode(), next_some = builder_.NewNode();
    builder_.Join(value, next_some);
    if (!form.required.contains(member.name)) {
      builder_.Join(none, next_none);
      builder_.Join(some, next_some);
    }
    none = next_none;
    some = next_some;
  }
  if (form.others) {
    const Node name = builder_.NewNode(), any_some = builder_.NewNode();
    builder_.Join(some, any_some);
    builder_.Join(none, name);
    builder_.Join(pieces_.Space(builder_.Byte(any_some, ',', ',')), name);
    TF_ASSIGN_OR_RETURN(const Node behind, OtherName(name, form));
    const Node colon = pieces_.Space(builder_.Byte(behind, ':', ':'));
    TF_ASSIGN_OR_RETURN(const Node value, Value(colon, *form.others->schema, form.others->place));
    builder_.Join(value, any_some);
    some = any_some;
  }
  const Node end = builder_.NewNode();
  if (!form.is_never_empty) builder_.Join(none, end);
  builder_.Join(pieces_.Space(some), end);
  return builder_.Byte(end, '}', '}');
}

// With its quotes.
JsonSchema::NodeOr JsonSchema::OtherName(Node at, const ObjectForm& form) {
  const OtherMembers& others = *form.others;
  if (others.names != nullptr) {
    const Place& place = others.names_place;
    const std::string other = OtherKeyword(*others.names, {"type", "minLength", "maxLength", "pattern"});
    if (!other.empty()) return place.Error(absl::StrCat("'", Excerpt(other), "' is not supported"));
    if (others.names->value("type", Json("string")) != "string") return place.Error("names are of type 'string'");
    return String(at, *others.names, place);
  }
  if (others.pattern) {
    const NodeOr end = AppendMatchingString(at, *others.pattern, {}, builder_);
    return end.ok() ? end : NodeOr(others.place.Error(end.status().message()));
  }
  if (form.members.empty()) return pieces_.String(at);
  std::vector<std::u32string> names;
  for (const Member& member : form.members) names.push_back(CodePointsOf(member.name));
  TF_ASSIGN_OR_RETURN(const Node end, OtherNames(builder_).Append(builder_.Byte(at, '"', '"'), names));
  return builder_.Byte(end, '"', '"');
}

}  // namespace tokenferry
