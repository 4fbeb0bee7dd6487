// Typed, path-aware access to a JSON document from outside. Private to the tokenizer's .cc files (nlohmann is heavy).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "nlohmann/json.hpp"

namespace tokenferry {

// A value and the way to it, for errors: "DIR/tokenizer.json: model.vocab". Points into a JsonDocument that outlives
// it.
class JsonNode {
 public:
  JsonNode(const nlohmann::json* value, std::string path) : value_(value), path_(std::move(path)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& path() const { return path_; }
  absl::Status Error(absl::string_view what) const;         // InvalidArgument
  absl::Status NotSupported(absl::string_view what) const;  // Unimplemented

  absl::StatusOr<JsonNode> Child(absl::string_view key) const;                    // required, this an object
  absl::StatusOr<std::optional<JsonNode>> Optional(absl::string_view key) const;  // absent and null: nullopt
  absl::StatusOr<std::vector<JsonNode>> Elements() const;                         // this an array
  absl::StatusOr<std::string> String() const;
  absl::StatusOr<bool> Bool() const;
  absl::StatusOr<int32_t> TokenId() const;  // an integer in [0, 2^24)

  absl::StatusOr<std::string> StringOr(absl::string_view key, absl::string_view fallback) const;
  absl::StatusOr<bool> BoolOr(absl::string_view key, bool fallback) const;

 private:
  const nlohmann::json* value_;
  std::string path_;
};

// Up to 128 MiB. `name` stands for the file in errors.
absl::StatusOr<std::unique_ptr<nlohmann::json>> ParseJson(absl::string_view text, absl::string_view name);
absl::StatusOr<std::string> ReadJsonFile(const std::string& path);  // NotFound where there is no such file

std::string Shown(absl::string_view text);  // quoted, escaped and cut for an error message

}  // namespace tokenferry
