// The JSON object of a request's body, field by field. What is asked for is known; what is left is counted.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/io/json.h"
#include "core/status.h"

namespace tokenferry {

enum class FieldKind : uint8_t { kAny, kString, kNumber, kInteger, kSwitch, kStrings, kTokenIds };

// What a field may be, as its reader has asked for it.
struct FieldInfo {
  FieldKind kind = FieldKind::kAny;
  double low = 0, high = 0;  // kNumber, kInteger; kTokenIds: high
};
using FieldTable = std::map<std::string, FieldInfo>;

// Every error is a FieldError that names the field. A field that is null is absent.
class BodyFields {
 public:
  // 400 for a body that is no JSON object of at most `max_depth` levels, has a key twice or objects of too many keys.
  // `asked`, if it is not null, gets every field that is asked for.
  static absl::StatusOr<BodyFields> Parse(std::string body, int max_depth, FieldTable* asked = nullptr);

  absl::StatusOr<std::optional<JsonNode>> Node(absl::string_view name);
  absl::StatusOr<std::optional<std::string>> String(absl::string_view name);
  absl::StatusOr<std::optional<double>> Number(absl::string_view name, double low, double high);
  absl::StatusOr<std::optional<int64_t>> Integer(absl::string_view name, int64_t low, int64_t high);
  absl::StatusOr<bool> Switch(absl::string_view name, bool otherwise);
  // A string, or a list of strings.
  absl::StatusOr<std::vector<std::string>> Strings(absl::string_view name);
  absl::StatusOr<std::vector<int32_t>> TokenIds(absl::string_view name, int64_t vocab_size);

  // Whether a field is there and asks for something: it is not null, false or empty. It stays one that nobody knows.
  bool Asks(absl::string_view name) const;

  // Fields that nobody has asked for.
  int64_t num_ignored() const;

 private:
  BodyFields(JsonDocument document, FieldTable* asked);
  absl::StatusOr<std::optional<JsonNode>> Ask(absl::string_view name, const FieldInfo& info);

  JsonDocument document_;
  FieldTable* asked_;
  std::set<std::string> known_;
};

// The ids of a JSON array, each from 0 to vocab_size - 1.
absl::StatusOr<std::vector<int32_t>> ReadTokenIds(const JsonNode& list, absl::string_view param, int64_t vocab_size);

}  // namespace tokenferry
