// JSON from outside: bounded in size, depth and number of values, without duplicate keys.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

struct JsonLimits {
  int max_depth = 32;                          // nested arrays and objects
  int64_t max_values = 4'000'000;              // numbers, strings, ..., keys included
  int64_t max_bytes = 256 * int64_t{1 << 20};  // of text
};

// InvalidArgument for text that is no JSON (with the byte), too deep, too large, or has a key twice in one object.
// Messages begin with `name`, which stands for the file.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view name, const JsonLimits& limits = {});
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, const JsonLimits& limits = {});

// A part of untrusted text fit for a one-line message: at most 120 bytes, control characters and non-ASCII escaped.
std::string Excerpt(absl::string_view text);

}  // namespace tokenferry
