#include "runtime/serve/grammar/json_schema.h"

#include <algorithm>
#include <cmath>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "core/check.h"
#include "core/io/foreign_text.h"
#include "runtime/serve/grammar/schema_overlap.h"
#include "runtime/serve/grammar/string_pattern.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;
using Node = AutomatonBuilder::Node;

constexpr absl::string_view kAnnotations[] = {"title",     "description", "default",     "examples",     "$schema",
                                              "$id",       "$comment",    "format",      "deprecated",   "readOnly",
                                              "writeOnly", "$defs",       "definitions", "discriminator"};

bool Has(const Json& schema, const char* key) { return schema.contains(key); }

// The first keyword that is neither an annotation nor one of these; empty: none.
std::string OtherKeyword(const Json& schema, std::initializer_list<absl::string_view> known) {
  for (const auto& [key, value] : schema.items()) {
    if (!absl::c_linear_search(kAnnotations, key) && !absl::c_linear_search(known, key)) return key;
  }
  return "";
}

// A text member; null: there is none.
const std::string* TextAt(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? nullptr : found->get_ptr<const std::string*>();
}

// The references that stand in a schema, but for those in what it only defines. Returns how many values it looked at.
int64_t CollectReferences(const Json& schema, std::set<std::string>& references) {
  int64_t num_values = 1;
  for (const auto& [key, value] : schema.items()) {
    if (schema.is_object() && (key == "$defs" || key == "definitions" || key == "enum" || key == "const")) continue;
    if (schema.is_object() && key == "$ref" && value.is_string()) references.insert(value.get<std::string>());
    num_values += value.is_structured() ? CollectReferences(value, references) : 1;
  }
  return num_values;
}

}  // namespace

absl::Status JsonSchema::Place::Error(absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(path.empty() ? "the schema" : Excerpt(path), ": ", what));
}

absl::Status JsonSchema::Spend(int64_t num_steps, const Place& place) {
  const absl::Status spent = builder_.Spend(num_steps);
  return spent.ok() ? spent : place.Error(spent.message());
}

absl::StatusOr<Node> JsonSchema::Append(Node at) { return Value(at, root_, {}); }

JsonSchema::NodeOr JsonSchema::Value(Node at, const Json& schema, const Place& place) {
  if (place.depth > kMaxSchemaDepth) return place.Error(absl::StrCat("is nested more than ", kMaxSchemaDepth, " deep"));
  if (builder_.too_large()) return place.Error(absl::StrCat("takes more than ", kMaxAutomatonStates, " states"));
  TF_RETURN_IF_ERROR(Spend(1 + static_cast<int64_t>(place.path.size()), place));
  if (schema == true) return pieces_.Value(at);
  if (!schema.is_object()) return place.Error("must be an object, or true");
  for (const absl::string_view key : {"$ref", "enum", "const", "anyOf", "oneOf", "allOf"}) {
    if (!schema.contains(key)) continue;
    const bool lists_values = key == "enum" || key == "const";
    const std::string other = OtherKeyword(schema, {key, lists_values ? "type" : key});
    if (!other.empty()) {
      return place.Error(absl::StrCat("'", Excerpt(other), "' beside '", key, "' is not supported"));
    }
    const Json& value = schema.at(std::string(key));
    if (key == "$ref") return Reference(at, value, place);
    if (key == "const") return OneOfValues(at, Json::array({value}), schema, place.In(key));
    if (key == "enum") return OneOfValues(at, value, schema, place.In(key));
    if (key == "anyOf") return AnyOf(at, value, place.In(key));
    if (key == "oneOf") return OneOf(at, value, place.In(key));
    if (value.is_array() && value.size() == 1) return Value(at, value[0], place.In(key));
    return place.Error("'allOf' of more than one schema is not supported");
  }
  TF_ASSIGN_OR_RETURN(std::vector<std::string> types, TypesOf(schema, place));
  // Without a type any other value would be valid too, but this is what was meant.
  if (types.empty() && Has(schema, "properties")) types = {"object"};
  if (types.empty() && Has(schema, "items")) types = {"array"};
  if (types.empty()) {
    const std::string other = OtherKeyword(schema, {});
    if (other.empty()) return pieces_.Value(at);
    return place.Error(absl::StrCat("'", Excerpt(other), "' is not supported, or not without a type"));
  }
  const Node end = builder_.NewNode();
  for (const std::string& type : types) {
    TF_ASSIGN_OR_RETURN(const Node value, OfType(at, type, schema, place));
    builder_.Join(value, end);
  }
  // A keyword may be of any of the types.
  const std::string other = OtherKeyword(
      schema, {"type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "minLength",
               "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"});
  if (!other.empty()) return place.Error(absl::StrCat("'", Excerpt(other), "' is not supported"));
  return end;
}

JsonSchema::NodeOr JsonSchema::OfType(Node at, const std::string& type, const Json& schema, const Place& place) {
  if (type == "string") return String(at, schema, place);
  if (type == "integer") return Integer(at, schema, place);
  if (type == "number") {
    for (const char* key : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}) {
      if (Has(schema, key)) return place.Error(absl::StrCat("'", key, "' is not supported but for integers"));
    }
    return pieces_.Number(at);
  }
  if (type == "boolean") return pieces_.Boolean(at);
  if (type == "null") return pieces_.Null(at);
  if (type == "array") return Array(at, schema, place);
  TF_CHECK(type == "object");
  return Object(at, schema, place);
}

JsonSchema::NodeOr JsonSchema::AnyOf(Node at, const Json& alternatives, const Place& place) {
  if (!alternatives.is_array() || alternatives.empty()) return place.Error("must be a list of schemas, at least one");
  const Node end = builder_.NewNode();
  for (size_t i = 0; i < alternatives.size(); ++i) {
    TF_ASSIGN_OR_RETURN(const Node value, Value(at, alternatives[i], place.In(absl::StrCat(i))));
    builder_.Join(value, end);
  }
  return end;
}

// Where no value is of two alternatives, "exactly one" is "any".
JsonSchema::NodeOr JsonSchema::OneOf(Node at, const Json& alternatives, const Place& place) {
  std::vector<const Json*> schemas;
  for (const Json& alternative : alternatives) {
    const Json* schema = &alternative;
    for (int i = 0; i < kMaxSchemaDepth && schema->is_object() && TextAt(*schema, "$ref") != nullptr; ++i) {
      TF_ASSIGN_OR_RETURN(schema, Resolve(*TextAt(*schema, "$ref"), place));
    }
    schemas.push_back(schema);
  }
  for (size_t i = 0; i < schemas.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const auto spend = [&](int64_t num_steps) { return Spend(num_steps, place); };
      TF_ASSIGN_OR_RETURN(const bool disjoint, AreDisjoint(*schemas[i], *schemas[j], spend));
      if (disjoint) continue;
      return place.Error(absl::StrCat("alternatives ", j, " and ", i,
                                      " may have a value in common, as far as types, enum, const and required "
                                      "properties tell; use anyOf"));
    }
  }
  return AnyOf(at, alternatives, place);
}

absl::StatusOr<std::vector<std::string>> JsonSchema::TypesOf(const Json& schema, const Place& place) {
  std::vector<std::string> types;
  if (!Has(schema, "type")) return types;
  const Json& given = schema["type"];
  if (given.is_array() && given.empty()) return place.In("type").Error("must not be empty");
  for (const Json& type : given.is_array() ? given : Json::array({given})) {
    if (!type.is_string()) return place.In("type").Error("must be a text or a list of texts");
    types.push_back(type.get<std::string>());
    if (absl::c_linear_search(kJsonTypes, types.back())) continue;
    return place.In("type").Error(absl::StrCat("'", Excerpt(types.back()), "' is no type"));
  }
  return types;
}

JsonSchema::NodeOr JsonSchema::OneOfValues(Node at, const Json& values, const Json& schema, const Place& place) {
  if (!values.is_array() || values.empty()) return place.Error("must be a list of values, at least one");
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> types, TypesOf(schema, place));
  const Node end = builder_.NewNode();
  bool any = false;
  for (const Json& value : values) {
    const auto fits = [&](const std::string& type) { return IsOfType(value, type); };
    if (!types.empty() && absl::c_none_of(types, fits)) continue;
    builder_.Join(builder_.Text(at, value.dump()), end);
    any = true;
  }
  return any ? NodeOr(end) : place.Error("no value is of the type");
}

absl::StatusOr<const Json*> JsonSchema::Resolve(const std::string& reference, const Place& place) {
  const Json* at = &root_;
  const std::vector<std::string> steps = absl::StrSplit(reference, '/');
  if (steps[0] != "#") return place.Error(absl::StrCat("'", Excerpt(reference), "' is not in this schema"));
  for (size_t i = 1; i < steps.size(); ++i) {
    TF_RETURN_IF_ERROR(Spend(static_cast<int64_t>(at->size()), place));  // a search that compares one by one
    const auto found =
        at->is_object() ? at->find(absl::StrReplaceAll(steps[i], {{"~1", "/"}, {"~0", "~"}})) : at->end();
    if (found == at->end()) return place.Error(absl::StrCat("there is no '", Excerpt(reference), "'"));
    at = &*found;
  }
  return at;
}

absl::StatusOr<bool> JsonSchema::IsRecursive(const std::string& reference, const Place& place) {
  std::set<std::string> seen;
  std::vector<std::string> open = {reference};
  while (!open.empty()) {
    TF_ASSIGN_OR_RETURN(const Json* schema, Resolve(open.back(), place));
    open.pop_back();
    std::set<std::string> next;
    TF_RETURN_IF_ERROR(Spend(CollectReferences(*schema, next), place));
    if (next.contains(reference)) return true;
    for (const std::string& name : next) {
      if (seen.insert(name).second) open.push_back(name);
    }
  }
  return false;
}

JsonSchema::NodeOr JsonSchema::Reference(Node at, const Json& value, const Place& place) {
  if (!value.is_string()) return place.In("$ref").Error("must be a text");
  const std::string reference = value.get<std::string>();
  TF_ASSIGN_OR_RETURN(const Json* schema, Resolve(reference, place.In("$ref")));
  const std::string path = absl::StrReplaceAll(reference, {{"#/", ""}, {"/", "."}});
  if (const auto rule = rules_.find(reference); rule != rules_.end()) return builder_.Call(at, rule->second);
  TF_ASSIGN_OR_RETURN(const bool recursive, IsRecursive(reference, place.In("$ref")));
  if (!recursive) return Value(at, *schema, {path, place.depth + 1});
  const AutomatonBuilder::Rule rule = builder_.NewRule();
  rules_.emplace(reference, rule);
  TF_ASSIGN_OR_RETURN(const Node end, Value(builder_.RuleBegin(rule), *schema, {path, place.depth + 1}));
  builder_.EndRule(rule, end);
  return builder_.Call(at, rule);
}

// A count that a keyword gives; `otherwise` where it is not there.
absl::StatusOr<int64_t> CountOf(const Json& schema, const char* key, int64_t otherwise) {
  const auto found = schema.find(key);
  if (found == schema.end()) return otherwise;
  const bool fits = found->is_number_unsigned() && found->get<uint64_t>() <= uint64_t{1} << 30;
  if (!fits) return absl::InvalidArgumentError(absl::StrCat(key, " must be a number of things"));
  return found->get<int64_t>();
}

// Bounds of integers; those of other numbers are not supported.
JsonSchema::NodeOr JsonSchema::Integer(Node at, const Json& schema, const Place& place) {
  constexpr int64_t kLargest = 9'999'999'999'999'999;
  int64_t low = -kLargest, high = kLargest;
  bool bounded = false;
  for (const char* key : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}) {
    const auto found = schema.find(key);
    if (found == schema.end()) continue;
    bounded = true;
    const double value = found->is_number() ? found->get<double>() : 0;
    if (!found->is_number() || !(std::abs(value) <= static_cast<double>(kLargest / 10))) {
      return place.Error(absl::StrCat("'", key, "' must be a number of at most 15 digits"));
    }
    const absl::string_view name = key;
    if (name == "minimum") low = std::max(low, static_cast<int64_t>(std::ceil(value)));
    if (name == "maximum") high = std::min(high, static_cast<int64_t>(std::floor(value)));
    if (name == "exclusiveMinimum") low = std::max(low, static_cast<int64_t>(std::floor(value)) + 1);
    if (name == "exclusiveMaximum") high = std::min(high, static_cast<int64_t>(std::ceil(value)) - 1);
  }
  if (low > high) return place.Error("no integer is between the bounds");
  return bounded ? pieces_.Integer(at, low, high) : pieces_.Integer(at);
}

JsonSchema::NodeOr JsonSchema::String(Node at, const Json& schema, const Place& place) {
  const auto least = CountOf(schema, "minLength", 0), most = CountOf(schema, "maxLength", -1);
  if (!least.ok() || !most.ok()) return place.Error((least.ok() ? most : least).status().message());
  if (*most >= 0 && *most < *least) return place.Error("maxLength is less than minLength");
  const std::optional<int64_t> longest = *most < 0 ? std::nullopt : std::optional<int64_t>(*most);
  std::optional<std::string> pattern;
  if (Has(schema, "pattern")) {
    if (!schema["pattern"].is_string()) return place.Error("'pattern' must be a text");
    pattern = schema["pattern"].get<std::string>();
  } else if (const std::string* const format = TextAt(schema, "format")) {
    if (std::string of_format = PatternOfFormat(*format); !of_format.empty()) pattern = std::move(of_format);
  }
  if (!pattern) return pieces_.String(at, *least, longest);
  const NodeOr end = AppendMatchingString(at, *pattern, {*least, longest}, builder_);
  return end.ok() ? end : NodeOr(place.Error(end.status().message()));
}

JsonSchema::NodeOr JsonSchema::Array(Node at, const Json& schema, const Place& place) {
  const auto least = CountOf(schema, "minItems", 0), most = CountOf(schema, "maxItems", -1);
  if (!least.ok() || !most.ok()) return place.Error((least.ok() ? most : least).status().message());
  if (*most >= 0 && *most < *least) return place.Error("maxItems is less than minItems");
  if (!Has(schema, "items") && *least == 0 && *most < 0) return pieces_.Array(at);
  static const Json any = Json::object();
  const Json& items = Has(schema, "items") ? schema["items"] : any;
  const auto item = [&](Node from) { return Value(from, items, place.In("items")); };
  const Node inside = pieces_.Space(builder_.Byte(at, '[', '[')), end = builder_.NewNode();
  if (*least == 0) builder_.Join(inside, end);
  Node next = builder_.NewNode();  // where an item may begin
  builder_.Join(inside, next);
  // The items that have a number of their own; behind them, where there is no limit, any more.
  const int64_t num_counted = *most >= 0 ? *most : std::max<int64_t>(*least, 1);
  for (int64_t i = 0; i < num_counted; ++i) {
    TF_ASSIGN_OR_RETURN(const Node value, item(next));
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

JsonSchema::NodeOr JsonSchema::Object(Node at, const Json& schema, const Place& place) {
  static const Json no_properties = Json::object();
  const Json& properties = Has(schema, "properties") ? schema["properties"] : no_properties;
  if (!properties.is_object()) return place.In("properties").Error("must be an object");
  std::set<std::string> required;
  if (Has(schema, "required")) {
    if (!schema["required"].is_array()) return place.In("required").Error("must be a list of names");
    TF_RETURN_IF_ERROR(Spend(static_cast<int64_t>(properties.size() * schema["required"].size()), place));
    for (const Json& name : schema["required"]) {
      const bool known = name.is_string() && properties.contains(name.get<std::string>());
      const std::string shown = Excerpt(name.is_string() ? name.get<std::string>() : name.dump());
      if (!known) return place.In("required").Error(absl::StrCat("'", shown, "' is not among the properties"));
      required.insert(name.get<std::string>());
    }
  }
  const auto additional = schema.find("additionalProperties");
  if (additional != schema.end() && !additional->is_boolean() && !additional->is_object()) {
    return place.In("additionalProperties").Error("must be an object, true or false");
  }
  const bool closed = additional != schema.end() && *additional == false;
  const bool of_schema = additional != schema.end() && additional->is_object() && !additional->empty();
  if (of_schema && !properties.empty()) {
    return place.Error("'additionalProperties' with a schema beside 'properties' is not supported");
  }
  if (of_schema) return Map(at, *additional, place.In("additionalProperties"));
  if (properties.empty() && !closed) return pieces_.Object(at);
  return Members(at, properties, required, place.In("properties"));
}

// Members in the order of the properties, from `{` to `}`. There are two rows of nodes, one for texts that have no
// member yet, one for those that have and need a comma.
JsonSchema::NodeOr JsonSchema::Members(Node at, const Json& properties, const std::set<std::string>& required,
                                       const Place& place) {
  Node none = pieces_.Space(builder_.Byte(at, '{', '{')), some = builder_.NewNode();
  for (const auto& [name, schema] : properties.items()) {
    const std::string key = absl::StrCat(Json(name).dump(), ":");
    const Node first = builder_.Text(none, key);
    builder_.Join(builder_.Text(pieces_.Space(builder_.Byte(some, ',', ',')), key), first);
    TF_ASSIGN_OR_RETURN(const Node value, Value(pieces_.Space(first), schema, place.In(name)));
    const Node next_none = builder_.NewNode(), next_some = builder_.NewNode();
    builder_.Join(value, next_some);
    if (!required.contains(name)) {
      builder_.Join(none, next_none);
      builder_.Join(some, next_some);
    }
    none = next_none;
    some = next_some;
  }
  const Node end = builder_.NewNode();
  builder_.Join(none, end);
  builder_.Join(pieces_.Space(some), end);
  return builder_.Byte(end, '}', '}');
}

// Any names, each with a value of the schema.
JsonSchema::NodeOr JsonSchema::Map(Node at, const Json& schema, const Place& place) {
  const Node inside = pieces_.Space(builder_.Byte(at, '{', '{')), key = builder_.NewNode(), end = builder_.NewNode();
  builder_.Join(inside, key);
  builder_.Join(inside, end);
  TF_ASSIGN_OR_RETURN(const Node value,
                      Value(pieces_.Space(builder_.Byte(pieces_.String(key), ':', ':')), schema, place));
  builder_.Join(pieces_.Space(builder_.Byte(value, ',', ',')), key);
  builder_.Join(pieces_.Space(value), end);
  return builder_.Byte(end, '}', '}');
}

}  // namespace tokenferry
