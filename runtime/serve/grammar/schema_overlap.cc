#include "runtime/serve/grammar/schema_overlap.h"

#include <cmath>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

// Those that `enum` or `const` lists; null: neither is there, or it lists a container, whose equality is not seen here.
std::optional<Json> ListedValues(const Json& schema) {
  const auto one = schema.find("const"), several = schema.find("enum");
  const Json values = one != schema.end() ? Json::array({*one}) : several != schema.end() ? *several : Json();
  const auto is_scalar = [](const Json& value) { return value.is_primitive(); };
  if (!values.is_array() || !absl::c_all_of(values, is_scalar)) return std::nullopt;
  return values;
}

bool MayBeOf(const Json& schema, absl::string_view type, int64_t& num_steps) {
  if (const std::optional<Json> values = ListedValues(schema)) {
    num_steps += static_cast<int64_t>(values->size());
    return absl::c_any_of(*values, [&](const Json& value) { return IsOfType(value, type); });
  }
  const auto given = schema.find("type");
  if (given == schema.end()) return true;
  const auto includes = [&](const Json& one) {
    const auto* const name = one.get_ptr<const std::string*>();
    return name != nullptr && (*name == type || (*name == "number" && type == "integer"));
  };
  return given->is_array() ? absl::c_any_of(*given, includes) : includes(*given);
}

const Json* PropertyThatIsRequired(const Json& schema, const Json& name) {
  const auto required = schema.find("required"), properties = schema.find("properties");
  if (required == schema.end() || properties == schema.end() || !properties->is_object() || !name.is_string()) {
    return nullptr;
  }
  if (!required->is_array() || !absl::c_linear_search(*required, name)) return nullptr;
  const auto property = properties->find(name.get<std::string>());
  return property == properties->end() ? nullptr : &*property;
}

}  // namespace

bool IsOfType(const Json& value, absl::string_view type) {
  if (type == "string") return value.is_string();
  if (type == "number") return value.is_number();
  if (type == "integer") {
    return value.is_number_integer() || (value.is_number() && std::trunc(value.get<double>()) == value.get<double>());
  }
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  return type == "array" ? value.is_array() : value.is_object();
}

bool AreDisjoint(const Json& a, const Json& b, int64_t& num_steps) {
  num_steps += 100;
  if (!a.is_object() || !b.is_object()) return false;
  const auto both_may_be = [&](absl::string_view type) {
    return MayBeOf(a, type, num_steps) && MayBeOf(b, type, num_steps);
  };
  std::vector<absl::string_view> common;
  absl::c_copy_if(kJsonTypes, std::back_inserter(common), both_may_be);
  if (common.empty()) return true;
  const std::optional<Json> of_a = ListedValues(a), of_b = ListedValues(b);
  if (of_a && of_b) {
    num_steps += static_cast<int64_t>(of_a->size() * of_b->size());
    return absl::c_none_of(*of_a, [&](const Json& value) { return absl::c_linear_search(*of_b, value); });
  }
  const auto required = a.find("required");
  if (common != std::vector<absl::string_view>{"object"} || required == a.end() || !required->is_array()) return false;
  return absl::c_any_of(*required, [&](const Json& name) {
    num_steps += static_cast<int64_t>(a.size() + b.size() + required->size());
    const Json* const in_a = PropertyThatIsRequired(a, name);
    const Json* const in_b = PropertyThatIsRequired(b, name);
    return in_a != nullptr && in_b != nullptr && AreDisjoint(*in_a, *in_b, num_steps);
  });
}

}  // namespace tokenferry
