// Keywords of a JSON schema, one by one.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/serve/grammar/decimal_pieces.h"

namespace tokenferry {

// The first keyword that is neither an annotation (json_schema.h) nor one of these; empty: none.
std::string OtherKeyword(const nlohmann::ordered_json& schema, std::initializer_list<absl::string_view> known);

// A member that is a text; null: there is none.
const std::string* TextAt(const nlohmann::ordered_json& object, const char* key);

// A number of characters, items or members; `otherwise` where the keyword is not there.
absl::StatusOr<int64_t> CountOf(const nlohmann::ordered_json& schema, const char* key, int64_t otherwise);

// What minimum, maximum, exclusiveMinimum, exclusiveMaximum and multipleOf say; nullopt: none of them is there. Of
// integers there is no fraction.
enum class NumberKind : uint8_t { kInteger, kAny };
absl::StatusOr<std::optional<DecimalLimits>> ReadDecimalLimits(const nlohmann::ordered_json& schema, NumberKind kind);

}  // namespace tokenferry
