// Whether JSON schemas have values in common.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

#include "absl/strings/string_view.h"

namespace tokenferry {

inline constexpr absl::string_view kJsonTypes[] = {"string", "integer", "number", "boolean", "null", "array", "object"};

// A number without a fraction is an integer, however it is written.
bool IsOfType(const nlohmann::ordered_json& value, absl::string_view type);

// True where no value is valid for both: they are of other types, list other scalars (enum, const), or are of objects
// and require the same property with schemas that are disjoint. False: that is not so, or is not known; references are
// not followed. Adds the values that it looks at to `num_steps`.
bool AreDisjoint(const nlohmann::ordered_json& a, const nlohmann::ordered_json& b, int64_t& num_steps);

}  // namespace tokenferry
