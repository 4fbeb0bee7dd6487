// A JSON schema as pieces of an automaton. What is written is always valid for the schema; what the subset below cannot
// say is refused, never passed over.
//
// Known: type (one, or a list), nullable beside it; properties, required, additionalProperties, patternProperties (of
// one pattern) or propertyNames where there are no properties, minProperties up to 1; items, prefixItems (or a list as
// items, and additionalItems), minItems, maxItems; minLength, maxLength, pattern; minimum, maximum, exclusiveMinimum,
// exclusiveMaximum, multipleOf; enum, const, anyOf, oneOf of alternatives without a common value (schema_overlap.h),
// allOf of one, $ref into the same schema, $defs and definitions; true, and {} for any value. Members are written in
// the order of `properties`; members that have no name in a schema follow only where `additionalProperties` is a
// schema, or where there are no `properties`. `format` of a string without `pattern`: as PatternOfFormat says. Passed
// over: other formats, title, description, default, examples, example, $schema, $id, $comment, deprecated, readOnly,
// writeOnly, discriminator, contentEncoding, contentMediaType.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "runtime/serve/grammar/json_pieces.h"
#include "runtime/serve/grammar/schema_keywords.h"

namespace tokenferry {

inline constexpr size_t kMaxSchemaBytes = 64 << 10;
inline constexpr int kMaxSchemaDepth = 32;

// Of one schema, which must outlive it.
class JsonSchema {
 public:
  using Node = AutomatonBuilder::Node;
  using Json = nlohmann::ordered_json;

  JsonSchema(const Json& root, AutomatonBuilder& builder, JsonPieces& pieces)
      : root_(root), builder_(builder), pieces_(pieces) {}

  // Appends a value behind `at`. InvalidArgument that names the place in the schema, "properties.x", and the keyword.
  absl::StatusOr<Node> Append(Node at);

 private:
  // Where one is in the schema.
  struct Place {
    std::string path;
    int depth = 0;
    Place In(absl::string_view key) const { return {absl::StrCat(path, path.empty() ? "" : ".", key), depth + 1}; }
    absl::Status Error(absl::string_view what) const;
  };
  using NodeOr = absl::StatusOr<Node>;

  NodeOr Value(Node at, const Json& schema, const Place& place);
  NodeOr OfType(Node at, const std::string& type, const Json& schema, const Place& place);
  NodeOr AnyOf(Node at, const Json& alternatives, const Place& place);
  NodeOr OneOf(Node at, const Json& alternatives, const Place& place);
  // Those of the values that are of the schema's type.
  NodeOr OneOfValues(Node at, const Json& values, const Json& schema, const Place& place);
  NodeOr Reference(Node at, const Json& reference, const Place& place);
  NodeOr Number(Node at, NumberKind kind, const Json& schema, const Place& place);
  NodeOr String(Node at, const Json& schema, const Place& place);
  NodeOr Array(Node at, const Json& schema, const Place& place);
  NodeOr Object(Node at, const Json& schema, const Place& place);

  struct Member {
    std::string name;
    const Json* schema;
    Place place;  // of the schema
  };
  // Those whose names are not listed: any but those of the members, those that match, or those of a schema.
  struct OtherMembers {
    const Json* schema;
    Place place;
    const Json* names;  // null: there is none
    Place names_place;
    std::optional<std::string> pattern;
  };
  struct ObjectForm {
    std::vector<Member> members;  // in the order in which they are written
    std::set<std::string> required;
    std::optional<OtherMembers> others;
    bool is_never_empty = false;
  };
  absl::StatusOr<ObjectForm> ReadObject(const Json& schema, const Place& place);
  absl::Status ReadRequired(const Json& schema, const Place& place, ObjectForm* form);
  NodeOr Members(Node at, const ObjectForm& form);
  NodeOr OtherName(Node at, const ObjectForm& form);

  absl::Status Spend(int64_t num_steps, const Place& place);
  // Empty: it has no `type`.
  static absl::StatusOr<std::vector<std::string>> TypesOf(const Json& schema, const Place& place);
  absl::StatusOr<const Json*> Resolve(const std::string& reference, const Place& place);
  absl::StatusOr<bool> IsRecursive(const std::string& reference, const Place& place);

  const Json& root_;
  AutomatonBuilder& builder_;
  JsonPieces& pieces_;
  std::map<std::string, AutomatonBuilder::Rule> rules_;  // of references that contain themselves
};

}  // namespace tokenferry
