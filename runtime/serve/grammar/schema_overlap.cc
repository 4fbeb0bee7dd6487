#include "runtime/serve/grammar/schema_overlap.h"

#include <cmath>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/types/span.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

// Those that `enum` or `const` lists; null: neither is there, or it lists a container, whose equality is not seen here.
std::optional<absl::Span<const Json>> ListedValues(const Json& schema) {
  const auto one = schema.find("const"), several = schema.find("enum");
  absl::Span<const Json> values;
  if (one != schema.end()) {
    values = absl::MakeConstSpan(&*one, 1);
  } else if (several != schema.end() && several->is_array()) {
    values = several->get_ref<const Json::array_t&>();
  } else {
    return std::nullopt;
  }
  if (!absl::c_all_of(values, [](const Json& value) { return value.is_primitive(); })) return std::nullopt;
  return values;
}

bool MayBeOf(const Json& schema, const std::optional<absl::Span<const Json>>& listed, absl::string_view type) {
  if (listed) return absl::c_any_of(*listed, [&](const Json& value) { return IsOfType(value, type); });
  const auto given = schema.find("type"), nullable = schema.find("nullable");
  if (given == schema.end() || (type == "null" && nullable != schema.end() && *nullable == true)) return true;
  const auto includes = [&](const Json& one) {
    const auto* const name = one.get_ptr<const std::string*>();
    return name != nullptr && (*name == type || (*name == "number" && type == "integer"));
  };
  return given->is_array() ? absl::c_any_of(*given, includes) : includes(*given);
}

int64_t SizeOf(const Json& schema, const char* key) {
  const auto value = schema.find(key);
  return value == schema.end() ? 0 : static_cast<int64_t>(value->size());
}

// Null: the schema has no such property, or does not require it.
const Json* RequiredProperty(const Json& schema, const std::string& name) {
  const auto required = schema.find("required"), properties = schema.find("properties");
  if (required == schema.end() || properties == schema.end() || !properties->is_object()) return nullptr;
  if (!required->is_array() || !absl::c_linear_search(*required, Json(name))) return nullptr;
  const auto property = properties->find(name);
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

absl::StatusOr<bool> AreDisjoint(const Json& a, const Json& b, absl::FunctionRef<absl::Status(int64_t)> spend) {
  constexpr int64_t kStepsOfAPair = 100;
  if (!a.is_object() || !b.is_object()) return false;
  const auto of_a = ListedValues(a), of_b = ListedValues(b);
  const int64_t num_a = of_a ? static_cast<int64_t>(of_a->size()) : 0;
  const int64_t num_b = of_b ? static_cast<int64_t>(of_b->size()) : 0;
  const auto num_types = static_cast<int64_t>(std::size(kJsonTypes));
  TF_RETURN_IF_ERROR(spend(kStepsOfAPair + num_types * (num_a + num_b) + num_a * num_b));
  std::vector<absl::string_view> common;
  absl::c_copy_if(kJsonTypes, std::back_inserter(common),
                  [&](absl::string_view type) { return MayBeOf(a, of_a, type) && MayBeOf(b, of_b, type); });
  if (common.empty()) return true;
  if (of_a && of_b) {
    return absl::c_none_of(*of_a, [&](const Json& value) { return absl::c_linear_search(*of_b, value); });
  }
  if (common != std::vector<absl::string_view>{"object"} || SizeOf(a, "properties") == 0) return false;
  // Each name once, however often it is required: so no more pairs are compared than there are properties.
  for (const auto& [name, in_a] : a["properties"].items()) {
    TF_RETURN_IF_ERROR(
        spend(SizeOf(a, "properties") + SizeOf(a, "required") + SizeOf(b, "properties") + SizeOf(b, "required")));
    const Json* const in_b = RequiredProperty(b, name);
    if (in_b == nullptr || RequiredProperty(a, name) == nullptr) continue;
    TF_ASSIGN_OR_RETURN(const bool disjoint, AreDisjoint(in_a, *in_b, spend));
    if (disjoint) return true;
  }
  return false;
}

}  // namespace tokenferry
