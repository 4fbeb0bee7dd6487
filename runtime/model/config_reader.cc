#include "runtime/model/config_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_join.h"

namespace tokenferry {

ConfigReader::ConfigReader(JsonNode object) : object_(object) {
  if (!object_.value().is_object()) {
    status_ =
        absl::InvalidArgumentError(absl::StrCat(object_.Where(), ": is ", object_.Shown(), " instead of an object"));
  }
}

ConfigReader::ConfigReader(JsonNode object, JsonNode outer, absl::Span<const absl::string_view> shared)
    : object_(object), outer_(outer), shared_(shared.begin(), shared.end()) {}

std::string ConfigReader::Message(absl::string_view key, absl::string_view problem) const {
  const std::optional<JsonNode> value = Find(key);
  const std::string way = OwnerOf(key).path();
  return absl::StrCat((value ? *value : object_).Where(), ": '", way, way.empty() ? "" : ".", key, "' ", problem);
}

void ConfigReader::Fail(absl::string_view key, absl::string_view problem) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(Message(key, problem));
}

void ConfigReader::FailUnsupported(absl::string_view key, absl::string_view problem) {
  if (status_.ok()) status_ = absl::UnimplementedError(Message(key, problem));
}

void ConfigReader::Fail(const absl::Status& status) {
  if (status_.ok()) status_ = status;
}

const JsonNode& ConfigReader::OwnerOf(absl::string_view key) const {
  const bool is_shared = std::find(shared_.begin(), shared_.end(), key) != shared_.end();
  const auto own = object_.Optional(key);
  return is_shared && own.ok() && !*own ? *outer_ : object_;
}

std::optional<JsonNode> ConfigReader::Find(absl::string_view key) const {
  const auto value = OwnerOf(key).Optional(key);
  return value.ok() ? *value : std::nullopt;
}

bool ConfigReader::IsNull(absl::string_view key) const {
  const nlohmann::json& object = object_.value();
  const auto member = object.find(std::string(key));
  return member != object.end() && member->is_null();
}

absl::string_view ConfigReader::KeyOf(absl::Span<const absl::string_view> keys) {
  absl::string_view chosen;
  for (const absl::string_view key : keys) {
    if (!Has(key)) continue;
    if (chosen.empty()) {
      chosen = key;
    } else {
      Fail(CheckSame(*Find(chosen), *Find(key)));
    }
  }
  return chosen.empty() ? keys[0] : chosen;
}

std::optional<JsonNode> ConfigReader::Require(absl::string_view key, bool has_fallback) {
  if (!status_.ok()) return std::nullopt;
  const std::optional<JsonNode> value = Find(key);
  if (!value && !has_fallback) Fail(key, "is missing");
  return value;
}

void ConfigReader::FailAt(const JsonNode& value, absl::string_view problem) {
  Fail(absl::InvalidArgumentError(absl::StrCat(value.Where(), ": '", value.path(), "' is ", value.Shown(), problem)));
}

void ConfigReader::WrongType(const JsonNode& value, absl::string_view expected) {
  FailAt(value, absl::StrCat(" instead of ", expected));
}

int64_t ConfigReader::CheckedInt(const JsonNode& value, int64_t min, int64_t max) {
  const absl::StatusOr<int64_t> number = value.Int(min, max);
  if (number.ok()) return *number;
  if (!value.value().is_number_integer()) {
    WrongType(value, "an integer");
  } else {
    FailAt(value, absl::StrCat(", not within [", min, ", ", max, "]"));
  }
  return min;
}

int64_t ConfigReader::Int(absl::string_view key, int64_t min, int64_t max, std::optional<int64_t> fallback) {
  const std::optional<JsonNode> value = Require(key, fallback.has_value());
  if (!value) return fallback.value_or(min);
  return CheckedInt(*value, min, max);
}

double ConfigReader::CheckedNumber(const JsonNode& value, double min, double max) {
  if (!value.value().is_number()) {
    WrongType(value, "a number");
    return min;
  }
  const double number = value.value().get<double>();
  if (number >= min && number <= max) return number;
  FailAt(value, absl::StrCat(", not within [", min, ", ", max, "]"));
  return min;
}

double ConfigReader::Number(absl::string_view key, double min, double max, std::optional<double> fallback) {
  const std::optional<JsonNode> value = Require(key, fallback.has_value());
  return value ? CheckedNumber(*value, min, max) : fallback.value_or(min);
}

double ConfigReader::NumberAt(const std::optional<JsonNode>& value, absl::string_view key, double min, double max) {
  if (!value) Fail(key, "is missing");
  return value ? CheckedNumber(*value, min, max) : min;
}

bool ConfigReader::Bool(absl::string_view key, std::optional<bool> fallback) {
  const std::optional<JsonNode> value = Require(key, fallback.has_value());
  if (!value) return fallback.value_or(false);
  const absl::StatusOr<bool> flag = value->Bool();
  if (!flag.ok()) WrongType(*value, "true or false");
  return flag.value_or(false);
}

std::string ConfigReader::String(absl::string_view key, std::optional<std::string> fallback) {
  const std::optional<JsonNode> value = Require(key, fallback.has_value());
  if (!value) return fallback.value_or("");
  const absl::StatusOr<std::string> text = value->String();
  if (!text.ok()) WrongType(*value, "a string");
  return text.value_or("");
}

std::vector<int64_t> ConfigReader::IntOrList(absl::string_view key, int64_t min, int64_t max) {
  const std::optional<JsonNode> value = Require(key, /*has_fallback=*/true);
  if (!value) return {};
  const auto elements = value->Elements();
  if (!elements.ok()) return {CheckedInt(*value, min, max)};
  std::vector<int64_t> numbers;
  for (const JsonNode& element : *elements) numbers.push_back(CheckedInt(element, min, max));
  return numbers;
}

std::vector<double> ConfigReader::Numbers(absl::string_view key, double min, double max) {
  const std::optional<JsonNode> value = Require(key, /*has_fallback=*/false);
  if (!value) return {};
  const auto elements = value->Elements();
  if (!elements.ok()) WrongType(*value, "a list");
  std::vector<double> numbers;
  for (size_t i = 0; elements.ok() && i < elements->size(); ++i) {
    numbers.push_back(CheckedNumber((*elements)[i], min, max));
  }
  return numbers;
}

std::vector<std::string> ConfigReader::Strings(absl::string_view key) {
  const std::optional<JsonNode> value = Require(key, /*has_fallback=*/true);
  if (!value) return {};
  const auto elements = value->Elements();
  if (!elements.ok()) WrongType(*value, "a list");
  std::vector<std::string> strings;
  for (size_t i = 0; elements.ok() && i < elements->size(); ++i) {
    const absl::StatusOr<std::string> text = (*elements)[i].String();
    if (!text.ok()) WrongType((*elements)[i], "a string");
    strings.push_back(text.value_or(""));
  }
  return strings;
}

std::optional<JsonNode> ConfigReader::Object(absl::string_view key) {
  const std::optional<JsonNode> value = Require(key, /*has_fallback=*/true);
  if (!value || value->value().is_object()) return value;
  WrongType(*value, "an object");
  return std::nullopt;
}

void ConfigReader::RequireOneOf(absl::string_view key, absl::string_view value,
                                absl::Span<const absl::string_view> known, absl::string_view what) {
  if (!status_.ok() || std::find(known.begin(), known.end(), value) != known.end()) return;
  FailUnsupported(key,
                  absl::StrCat("names the ", what, " '", Excerpt(value), "'; known: ", absl::StrJoin(known, ", ")));
}

std::vector<int32_t> ReadEndTokens(ConfigReader& in, int64_t vocab_size) {
  const std::vector<int64_t> ids = in.IntOrList("eos_token_id", 0, vocab_size - 1);
  return {ids.begin(), ids.end()};
}

namespace {

std::string ShownMember(const std::optional<JsonNode>& member) { return member ? member->Shown() : "not there"; }

}  // namespace

absl::Status CheckSame(const JsonNode& a, const JsonNode& b) {
  if (a.value() == b.value()) return absl::OkStatus();
  const auto in_a = a.Members(), in_b = b.Members();
  if (!in_a.ok() || !in_b.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(b.Where(), ": '", b.path(), "' is ", b.Shown(), ", but '", a.path(),
                                                   "' is ", a.Shown(),
                                                   "; both mean one setting, so leave one of them"));
  }
  for (const auto* members : {&*in_a, &*in_b}) {
    for (const auto& [key, unused] : *members) {
      TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> left, a.Optional(key));
      TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> right, b.Optional(key));
      if (left && right) TF_RETURN_IF_ERROR(CheckSame(*left, *right));
      if (left.has_value() == right.has_value()) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          b.Where(), ": '", b.path(), ".", key, "' is ", ShownMember(right), ", but '", a.path(), ".", key, "' is ",
          ShownMember(left), "; both mean one setting, so leave one of '", a.path(), "' and '", b.path(), "'"));
    }
  }
  return absl::OkStatus();  // they differ in nulls only
}

}  // namespace tokenferry
