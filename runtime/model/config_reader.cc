#include "runtime/model/config_reader.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_join.h"
#include "core/io/json_file.h"

namespace tokenferry {
namespace {

// The value as it stands in the file, short enough for a message.
std::string Shown(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return absl::StrCat("a list of ", value.size());
  constexpr size_t kMaxBytes = 120;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kMaxBytes) text = text.substr(0, kMaxBytes) + "...";
  return text;
}

}  // namespace

ConfigReader::ConfigReader(const nlohmann::json& json, absl::string_view name) : json_(json), name_(name) {
  if (!json.is_object()) {
    status_ = absl::InvalidArgumentError(absl::StrCat(name_, ": is ", Shown(json), " instead of an object"));
  }
}

void ConfigReader::Fail(absl::string_view key, absl::string_view problem) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(name_, ": '", key, "' ", problem));
}

void ConfigReader::FailUnsupported(absl::string_view key, absl::string_view problem) {
  if (status_.ok()) status_ = absl::UnimplementedError(absl::StrCat(name_, ": '", key, "' ", problem));
}

const nlohmann::json* ConfigReader::Find(absl::string_view key) const {
  if (!json_.is_object()) return nullptr;
  const auto it = json_.find(std::string(key));
  return it == json_.end() || it->is_null() ? nullptr : &*it;
}

const nlohmann::json* ConfigReader::Require(absl::string_view key, bool has_fallback) {
  if (!status_.ok()) return nullptr;
  const nlohmann::json* value = Find(key);
  if (value == nullptr && !has_fallback) Fail(key, "is missing");
  return value;
}

void ConfigReader::WrongType(absl::string_view key, const nlohmann::json& value, absl::string_view expected) {
  Fail(key, absl::StrCat("is ", Shown(value), " instead of ", expected));
}

int64_t ConfigReader::CheckedInt(absl::string_view key, const nlohmann::json& value, int64_t min, int64_t max) {
  if (!value.is_number_integer()) {
    WrongType(key, value, "an integer");
    return min;
  }
  constexpr uint64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
  const bool fits = !value.is_number_unsigned() || value.get<uint64_t>() <= kMaxInt64;
  const int64_t number = fits ? value.get<int64_t>() : 0;
  if (fits && number >= min && number <= max) return number;
  Fail(key, absl::StrCat("is ", Shown(value), ", not within [", min, ", ", max, "]"));
  return min;
}

int64_t ConfigReader::Int(absl::string_view key, int64_t min, int64_t max, std::optional<int64_t> fallback) {
  const nlohmann::json* value = Require(key, fallback.has_value());
  if (value == nullptr) return fallback.value_or(min);
  return CheckedInt(key, *value, min, max);
}

double ConfigReader::Number(absl::string_view key, double min, double max, std::optional<double> fallback) {
  const nlohmann::json* value = Require(key, fallback.has_value());
  if (value == nullptr) return fallback.value_or(min);
  if (!value->is_number()) {
    WrongType(key, *value, "a number");
    return min;
  }
  const double number = value->get<double>();
  if (number >= min && number <= max) return number;
  Fail(key, absl::StrCat("is ", Shown(*value), ", not within [", min, ", ", max, "]"));
  return min;
}

bool ConfigReader::Bool(absl::string_view key, std::optional<bool> fallback) {
  const nlohmann::json* value = Require(key, fallback.has_value());
  if (value == nullptr) return fallback.value_or(false);
  if (value->is_boolean()) return value->get<bool>();
  WrongType(key, *value, "true or false");
  return false;
}

std::string ConfigReader::String(absl::string_view key, std::optional<std::string> fallback) {
  const nlohmann::json* value = Require(key, fallback.has_value());
  if (value == nullptr) return fallback.value_or("");
  if (value->is_string()) return value->get<std::string>();
  WrongType(key, *value, "a string");
  return "";
}

std::vector<int64_t> ConfigReader::IntOrList(absl::string_view key, int64_t min, int64_t max) {
  const nlohmann::json* value = Require(key, /*has_fallback=*/true);
  if (value == nullptr) return {};
  if (!value->is_array()) return {CheckedInt(key, *value, min, max)};
  std::vector<int64_t> numbers;
  for (const nlohmann::json& item : *value) numbers.push_back(CheckedInt(key, item, min, max));
  return numbers;
}

const nlohmann::json* ConfigReader::Object(absl::string_view key) {
  const nlohmann::json* value = Require(key, /*has_fallback=*/true);
  if (value == nullptr || value->is_object()) return value;
  WrongType(key, *value, "an object");
  return nullptr;
}

void ConfigReader::RequireOneOf(absl::string_view key, absl::string_view value,
                                absl::Span<const absl::string_view> known, absl::string_view what) {
  if (!status_.ok() || std::find(known.begin(), known.end(), value) != known.end()) return;
  FailUnsupported(key,
                  absl::StrCat("names the ", what, " '", Excerpt(value), "'; known: ", absl::StrJoin(known, ", ")));
}

}  // namespace tokenferry
