// Whether JSON schemas have values in common.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

inline constexpr absl::string_view kJsonTypes[] = {"string", "integer", "number", "boolean", "null", "array", "object"};

// A number without a fraction is an integer, however it is written.
bool IsOfType(const nlohmann::ordered_json& value, absl::string_view type);

// True where no value is valid for both: they are of other types, list other scalars (enum, const), or are of objects
// and require the same property with schemas that are disjoint. False: that is not so, or is not known; references are
// not followed. Calls `spend` with the steps of each pair of schemas before it takes them, and returns its error.
absl::StatusOr<bool> AreDisjoint(const nlohmann::ordered_json& a, const nlohmann::ordered_json& b,
                                 absl::FunctionRef<absl::Status(int64_t)> spend);

}  // namespace tokenferry
