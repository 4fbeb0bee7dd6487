// JSON from outside. The one way in which the program reads it: bounded in size, depth and number of values, no key
// twice in one object, and errors that say file, line, column and the way to the value.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/io/foreign_text.h"
#include "core/status.h"

namespace tokenferry {

struct JsonLimits {
  int max_depth = 32;                          // nested arrays and objects
  int64_t max_values = 4'000'000;              // numbers, strings, ..., keys included
  int64_t max_bytes = 256 * int64_t{1 << 20};  // of text
  int64_t first_line = 1;                      // number of the text's first line, where it is a part of a file
};

class JsonNode;

// A parsed text. A handle: copies share the contents, which never change. Any thread may read.
class JsonDocument {
 public:
  // `name` stands for the file. InvalidArgument for text that is no JSON, too deep, too large, or has a key twice.
  static absl::StatusOr<JsonDocument> Parse(std::string text, absl::string_view name, const JsonLimits& limits = {});
  // What another format holds: errors name `name` and the way to the value, and no line.
  static JsonDocument Of(nlohmann::json root, absl::string_view name);
  static absl::StatusOr<JsonDocument> ReadFile(const std::string& path, const JsonLimits& limits = {});

  JsonNode root() const;

 private:
  friend class JsonNode;
  struct Contents;
  explicit JsonDocument(std::shared_ptr<const Contents> contents) : contents_(std::move(contents)) {}
  std::shared_ptr<const Contents> contents_;
};

// A value of a document, which must outlive it. Two pointers; where the value stands is looked for when an error needs
// it. Every error begins with Where(): "config.json:12:5: rope_scaling.factor: must be a number, not \"4\"".
class JsonNode {
 public:
  const nlohmann::json& value() const { return *value_; }  // for those who include nlohmann/json.hpp
  JsonNode At(const nlohmann::json& value) const { return {contents_, &value}; }  // another one of the document

  bool is_null() const;
  std::string path() const;   // "rope_scaling.factor", "prompts[3].input_ids"; empty for the root
  std::string Where() const;  // "config.json:12:5": line and column in characters, from 1; the root: only the name
  std::string Shown() const;  // the value, short enough for a message: "4", "\"yarn\"", "a list of 3", "an object"

  absl::Status Error(absl::string_view what) const;         // InvalidArgument: "WHERE: PATH: WHAT"
  absl::Status NotSupported(absl::string_view what) const;  // Unimplemented

  // Each is an error when the value is of another type.
  absl::StatusOr<JsonNode> Child(absl::string_view key) const;                    // required, this an object
  absl::StatusOr<std::optional<JsonNode>> Optional(absl::string_view key) const;  // absent and null: nullopt
  absl::StatusOr<std::vector<JsonNode>> Elements() const;                         // this an array
  absl::StatusOr<std::vector<std::pair<std::string, JsonNode>>> Members() const;  // this an object; by key
  absl::StatusOr<std::string> String() const;
  absl::StatusOr<bool> Bool() const;
  absl::StatusOr<int64_t> Int(int64_t min, int64_t max) const;  // an integer in [min, max]

  absl::StatusOr<std::string> StringOr(absl::string_view key, absl::string_view fallback) const;
  absl::StatusOr<bool> BoolOr(absl::string_view key, bool fallback) const;

 private:
  friend class JsonDocument;
  JsonNode(const JsonDocument::Contents* contents, const nlohmann::json* value) : contents_(contents), value_(value) {}
  absl::Status WrongType(absl::string_view expected) const;

  const JsonDocument::Contents* contents_;
  const nlohmann::json* value_;
};

}  // namespace tokenferry
