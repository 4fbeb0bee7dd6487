#include "runtime/serve/grammar/json_schema.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "core/check.h"
#include "core/io/foreign_text.h"
#include "runtime/serve/grammar/schema_keywords.h"
#include "runtime/serve/grammar/schema_overlap.h"
#include "runtime/serve/grammar/string_pattern.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;
using Node = AutomatonBuilder::Node;

bool Has(const Json& schema, const char* key) { return schema.contains(key); }

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
    const std::string other =
        lists_values ? OtherKeyword(schema, {"type", "nullable", "enum", "const"}) : OtherKeyword(schema, {key});
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
  for (const char* key : {"properties", "patternProperties"}) {
    if (types.empty() && Has(schema, key)) types = {"object"};
  }
  for (const char* key : {"items", "prefixItems"}) {
    if (types.empty() && Has(schema, key)) types = {"array"};
  }
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
  const std::string other = OtherKeyword(schema, {"type",
                                                  "nullable",
                                                  "properties",
                                                  "required",
                                                  "additionalProperties",
                                                  "patternProperties",
                                                  "propertyNames",
                                                  "minProperties",
                                                  "maxProperties",
                                                  "items",
                                                  "prefixItems",
                                                  "additionalItems",
                                                  "minItems",
                                                  "maxItems",
                                                  "minLength",
                                                  "maxLength",
                                                  "pattern",
                                                  "minimum",
                                                  "maximum",
                                                  "exclusiveMinimum",
                                                  "exclusiveMaximum",
                                                  "multipleOf"});
  if (!other.empty()) return place.Error(absl::StrCat("'", Excerpt(other), "' is not supported"));
  return end;
}

JsonSchema::NodeOr JsonSchema::OfType(Node at, const std::string& type, const Json& schema, const Place& place) {
  if (type == "string") return String(at, schema, place);
  if (type == "integer") return Number(at, NumberKind::kInteger, schema, place);
  if (type == "number") return Number(at, NumberKind::kAny, schema, place);
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
  if (Has(schema, "nullable") && !schema["nullable"].is_boolean()) {
    return place.In("nullable").Error("must be true or false");
  }
  if (schema.value("nullable", false)) types.emplace_back("null");
  return types;
}

JsonSchema::NodeOr JsonSchema::OneOfValues(Node at, const Json& values, const Json& schema, const Place& place) {
  if (!values.is_array() || values.empty()) return place.Error("must be a list of values, at least one");
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> types, TypesOf(schema, place));
  const auto only = schema.find("const");
  const Node end = builder_.NewNode();
  bool any = false;
  for (const Json& value : values) {
    const auto fits = [&](const std::string& type) { return IsOfType(value, type); };
    if (!types.empty() && absl::c_none_of(types, fits)) continue;
    if (only != schema.end() && value != *only) continue;
    builder_.Join(builder_.Text(at, value.dump()), end);
    any = true;
  }
  return any ? NodeOr(end) : place.Error("no value is of the type, or is the const");
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

JsonSchema::NodeOr JsonSchema::Number(Node at, NumberKind kind, const Json& schema, const Place& place) {
  const auto limits = ReadDecimalLimits(schema, kind);
  if (!limits.ok()) return place.Error(limits.status().message());
  if (!*limits) return kind == NumberKind::kInteger ? pieces_.Integer(at) : pieces_.Number(at);
  const NodeOr end = AppendDecimal(at, **limits, builder_);
  return end.ok() ? end : NodeOr(place.Error(end.status().message()));
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

}  // namespace tokenferry
