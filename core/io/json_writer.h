// JSON as it is written for people to read too: what fits on a line, and every list of numbers, takes one line.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tokenferry {

// Two spaces per level; an object or array is spread over lines only where it does not fit into 120 columns. Arrays of
// numbers are never spread. Invalid UTF-8 becomes U+FFFD. Ends without a newline.
std::string FormatJson(const nlohmann::ordered_json& json);

}  // namespace tokenferry
