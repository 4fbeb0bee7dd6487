#include "runtime/serve/api/body_fields.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/serve/api/api_status.h"

namespace tokenferry {
namespace {

// Who keeps the order of keys looks through all of an object for each of them. So many keys in one object, or as much
// work in several, are far more than a request has use for.
constexpr size_t kMaxMembers = 10'000;

// The sum of the squares of the numbers of keys, over all objects.
size_t WorkOfKeys(const nlohmann::json& value) {
  size_t work = value.is_object() ? value.size() * value.size() : 0;
  if (!value.is_structured()) return work;
  for (const nlohmann::json& element : value) work += WorkOfKeys(element);
  return work;
}

}  // namespace

BodyFields::BodyFields(JsonDocument document, FieldTable* asked) : document_(std::move(document)), asked_(asked) {}

absl::StatusOr<BodyFields> BodyFields::Parse(std::string body, int max_depth, FieldTable* asked) {
  JsonLimits limits;
  limits.max_depth = max_depth;
  absl::StatusOr<JsonDocument> document = JsonDocument::Parse(std::move(body), "body", limits);
  if (!document.ok()) {
    return ToStatus({400, "invalid_json", std::string(document.status().message()), ""});
  }
  if (!document->root().value().is_object()) {
    return ToStatus(
        {400, "invalid_json", absl::StrCat("the body must be a JSON object, not ", document->root().Shown()), ""});
  }
  // The body itself is an object too, and small beside them.
  if (WorkOfKeys(document->root().value()) > (kMaxMembers + 1) * kMaxMembers) {
    return ToStatus({400, "invalid_json",
                     absl::StrCat("body: has too many keys: at most ", kMaxMembers,
                                  " keys in one object, or in several as many as have the same sum of squares"),
                     ""});
  }
  return BodyFields(*std::move(document), asked);
}

absl::StatusOr<std::optional<JsonNode>> BodyFields::Ask(absl::string_view name, const FieldInfo& info) {
  known_.emplace(name);
  if (asked_ != nullptr) {
    const auto [found, is_new] = asked_->emplace(name, info);
    if (found->second.kind == FieldKind::kAny) found->second = info;  // asked for twice
  }
  return document_.root().Optional(name);
}

absl::StatusOr<std::optional<JsonNode>> BodyFields::Node(absl::string_view name) { return Ask(name, {}); }

absl::StatusOr<std::optional<std::string>> BodyFields::String(absl::string_view name) {
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> node, Ask(name, {FieldKind::kString}));
  if (!node) return std::nullopt;
  if (!node->value().is_string()) return FieldError(name, absl::StrCat("must be a string, not ", node->Shown()));
  return std::optional<std::string>(node->value().get<std::string>());
}

absl::StatusOr<std::optional<double>> BodyFields::Number(absl::string_view name, double low, double high) {
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> node, Ask(name, {FieldKind::kNumber, low, high}));
  if (!node) return std::nullopt;
  const double value = node->value().is_number() ? node->value().get<double>() : low - 1;
  if (!(value >= low && value <= high)) {
    return FieldError(name, absl::StrCat("must be a number from ", low, " to ", high, ", not ", node->Shown()));
  }
  return std::optional<double>(value);
}

absl::StatusOr<std::optional<int64_t>> BodyFields::Integer(absl::string_view name, int64_t low, int64_t high) {
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> node,
                      Ask(name, {FieldKind::kInteger, static_cast<double>(low), static_cast<double>(high)}));
  if (!node) return std::nullopt;
  const absl::StatusOr<int64_t> value = node->Int(low, high);
  if (!value.ok()) {
    return FieldError(name, absl::StrCat("must be an integer from ", low, " to ", high, ", not ", node->Shown()));
  }
  return std::optional<int64_t>(*value);
}

absl::StatusOr<bool> BodyFields::Switch(absl::string_view name, bool otherwise) {
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> node, Ask(name, {FieldKind::kSwitch}));
  if (!node) return otherwise;
  if (!node->value().is_boolean()) {
    return FieldError(name, absl::StrCat("must be true or false, not ", node->Shown()));
  }
  return node->value().get<bool>();
}

absl::StatusOr<std::vector<std::string>> BodyFields::Strings(absl::string_view name) {
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> node, Ask(name, {FieldKind::kStrings}));
  if (!node) return std::vector<std::string>();
  if (node->value().is_string()) return std::vector<std::string>{node->value().get<std::string>()};
  if (!node->value().is_array()) {
    return FieldError(name, absl::StrCat("must be a string or a list of strings, not ", node->Shown()));
  }
  std::vector<std::string> strings;
  for (const nlohmann::json& element : node->value()) {
    if (!element.is_string()) return FieldError(name, "must be a string or a list of strings");
    strings.push_back(element.get<std::string>());
  }
  return strings;
}

absl::StatusOr<std::vector<int32_t>> BodyFields::TokenIds(absl::string_view name, int64_t vocab_size) {
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> node,
                      Ask(name, {FieldKind::kTokenIds, 0, static_cast<double>(vocab_size - 1)}));
  if (!node) return std::vector<int32_t>();
  return ReadTokenIds(*node, name, vocab_size);
}

bool BodyFields::Asks(absl::string_view name) const {
  const nlohmann::json& fields = document_.root().value();
  const auto found = fields.find(std::string(name));
  if (found == fields.end() || *found == false) return false;
  return found->is_string() ? *found != "" : !found->empty();  // null is empty; a number is not
}

int64_t BodyFields::num_ignored() const {
  int64_t count = 0;
  for (const auto& item : document_.root().value().items()) count += known_.count(item.key()) == 0;
  return count;
}

absl::StatusOr<std::vector<int32_t>> ReadTokenIds(const JsonNode& list, absl::string_view param, int64_t vocab_size) {
  if (!list.value().is_array()) {
    return FieldError(param, absl::StrCat("must be a list of token ids, not ", list.Shown()));
  }
  std::vector<int32_t> ids;
  ids.reserve(list.value().size());
  for (const nlohmann::json& element : list.value()) {
    const absl::StatusOr<int64_t> id = list.At(element).Int(0, vocab_size - 1);
    if (!id.ok()) {
      return FieldError(
          param, absl::StrCat("must be token ids from 0 to ", vocab_size - 1, ", not ", list.At(element).Shown()));
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

}  // namespace tokenferry
