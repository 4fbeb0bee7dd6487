// Typed access to the keys of a JSON object from outside.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/io/json.h"
#include "core/status.h"

namespace tokenferry {

// Reads one object. The first error sticks, names file, place, key and value, and every later call returns its
// fallback: callers read all they need and look at status() once. A null value counts as absent.
class ConfigReader {
 public:
  // The node's document must outlive the reader.
  explicit ConfigReader(JsonNode object);
  // The keys of `shared` may stand in `outer` instead, an object of the same document; where both have one, that of
  // `object` counts.
  ConfigReader(JsonNode object, JsonNode outer, absl::Span<const absl::string_view> shared);

  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }
  bool Has(absl::string_view key) const { return Find(key).has_value(); }
  bool IsNull(absl::string_view key) const;  // there, as null: of use where that is not what absence is

  // Of several spellings of one setting the first that is there, or else keys[0]. Two that are there and differ are an
  // error that names both with their values.
  absl::string_view KeyOf(absl::Span<const absl::string_view> keys);

  // Within [min, max]. Without a fallback the key must be there.
  int64_t Int(absl::string_view key, int64_t min, int64_t max, std::optional<int64_t> fallback = std::nullopt);
  double Number(absl::string_view key, double min, double max, std::optional<double> fallback = std::nullopt);
  // The number `value`, which may stand in another object of the document; none: `key` is missing here.
  double NumberAt(const std::optional<JsonNode>& value, absl::string_view key, double min, double max);
  bool Bool(absl::string_view key, std::optional<bool> fallback = std::nullopt);
  std::string String(absl::string_view key, std::optional<std::string> fallback = std::nullopt);
  // An integer or a list of integers, each in [min, max]. Absent: empty.
  std::vector<int64_t> IntOrList(absl::string_view key, int64_t min, int64_t max);
  // A list of numbers, each in [min, max]. It must be there.
  std::vector<double> Numbers(absl::string_view key, double min, double max);
  // A list of strings. Absent: empty.
  std::vector<std::string> Strings(absl::string_view key);
  std::optional<JsonNode> Object(absl::string_view key);
  std::optional<JsonNode> Find(absl::string_view key) const;  // of any type

  // The key's value must be one of `known`; `what` says what it names.
  void RequireOneOf(absl::string_view key, absl::string_view value, absl::Span<const absl::string_view> known,
                    absl::string_view what);

  void Fail(absl::string_view key, absl::string_view problem);             // InvalidArgument
  void FailUnsupported(absl::string_view key, absl::string_view problem);  // Unimplemented
  void Fail(const absl::Status& status);                                   // as it is; OK changes nothing

 private:
  const JsonNode& OwnerOf(absl::string_view key) const;  // which of the two objects has it
  // "config.json:7:12: 'rope_scaling.factor' PROBLEM"
  std::string Message(absl::string_view key, absl::string_view problem) const;
  // None: absent, or an error was recorded because there is no fallback.
  std::optional<JsonNode> Require(absl::string_view key, bool has_fallback);
  void FailAt(const JsonNode& value, absl::string_view problem);
  void WrongType(const JsonNode& value, absl::string_view expected);
  int64_t CheckedInt(const JsonNode& value, int64_t min, int64_t max);
  double CheckedNumber(const JsonNode& value, double min, double max);

  const JsonNode object_;
  const std::optional<JsonNode> outer_;
  const std::vector<absl::string_view> shared_;  // keys that outer_ may have
  absl::Status status_;
};

// Of config.json and generation_config.json.
inline constexpr JsonLimits kConfigLimits = {.max_depth = 16, .max_values = 100'000, .max_bytes = 16 << 20};

// eos_token_id: a token or several of them.
std::vector<int32_t> ReadEndTokens(ConfigReader& in, int64_t vocab_size);

// InvalidArgument when two spellings of one setting have different values; it names both, and of objects the first
// member that differs.
absl::Status CheckSame(const JsonNode& a, const JsonNode& b);

}  // namespace tokenferry
