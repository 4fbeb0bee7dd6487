// JSON as answers have it.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tokenferry {

// Without spaces. Texts need not be UTF-8: half a character, as a token may be, becomes U+FFFD.
std::string CompactJson(const nlohmann::ordered_json& json);

}  // namespace tokenferry
