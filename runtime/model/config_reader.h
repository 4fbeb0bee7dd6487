// Typed access to the keys of a JSON object from outside.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/status.h"

namespace tokenferry {

// Reads one object. The first error sticks, names file and key, and every later call returns its fallback: callers read
// all they need and look at status() once. A null value counts as absent.
class ConfigReader {
 public:
  // `json` must outlive the reader. `name` begins all messages.
  ConfigReader(const nlohmann::json& json, absl::string_view name);

  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }
  bool Has(absl::string_view key) const { return Find(key) != nullptr; }

  // Within [min, max]. Without a fallback the key must be there.
  int64_t Int(absl::string_view key, int64_t min, int64_t max, std::optional<int64_t> fallback = std::nullopt);
  double Number(absl::string_view key, double min, double max, std::optional<double> fallback = std::nullopt);
  bool Bool(absl::string_view key, std::optional<bool> fallback = std::nullopt);
  std::string String(absl::string_view key, std::optional<std::string> fallback = std::nullopt);
  // An integer or a list of integers, each in [min, max]. Absent: empty.
  std::vector<int64_t> IntOrList(absl::string_view key, int64_t min, int64_t max);
  // An object or null; null when absent.
  const nlohmann::json* Object(absl::string_view key);

  // The key's value must be one of `known`; `what` says what it names.
  void RequireOneOf(absl::string_view key, absl::string_view value, absl::Span<const absl::string_view> known,
                    absl::string_view what);

  void Fail(absl::string_view key, absl::string_view problem);             // InvalidArgument
  void FailUnsupported(absl::string_view key, absl::string_view problem);  // Unimplemented

 private:
  const nlohmann::json* Find(absl::string_view key) const;
  // Null: absent, or an error was recorded because there is no fallback.
  const nlohmann::json* Require(absl::string_view key, bool has_fallback);
  void WrongType(absl::string_view key, const nlohmann::json& value, absl::string_view expected);
  int64_t CheckedInt(absl::string_view key, const nlohmann::json& value, int64_t min, int64_t max);

  const nlohmann::json& json_;
  const std::string name_;
  absl::Status status_;
};

}  // namespace tokenferry
