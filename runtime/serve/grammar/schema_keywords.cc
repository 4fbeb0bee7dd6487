#include "runtime/serve/grammar/schema_keywords.h"

#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

constexpr absl::string_view kAnnotations[] = {
    "title", "description", "default",       "examples",        "example",         "$schema",
    "$id",   "$comment",    "format",        "deprecated",      "readOnly",        "writeOnly",
    "$defs", "definitions", "discriminator", "contentEncoding", "contentMediaType"};

bool IsAbove(const Decimal& a, const Decimal& b) {
  if (a.is_negative != b.is_negative) return b.is_negative;
  if (a.is_negative) return IsAbove({false, b.whole, b.fraction}, {false, a.whole, a.fraction});
  if (a.whole.size() != b.whole.size()) return a.whole.size() > b.whole.size();
  return a.whole != b.whole ? a.whole > b.whole : a.fraction > b.fraction;
}

// Keeps the narrower of two bounds: the greater of two lower ones (`sign` 1), the lesser of two upper ones (-1).
void Narrow(std::optional<DecimalLimits::Bound>& bound, DecimalLimits::Bound other, int sign) {
  if (!bound) {
    bound = std::move(other);
    return;
  }
  const Decimal &now = bound->at, &then = other.at;
  if (sign > 0 ? IsAbove(now, then) : IsAbove(then, now)) return;
  const bool is_same = !IsAbove(now, then) && !IsAbove(then, now);
  if (!is_same || bound->is_inclusive) bound = std::move(other);
}

absl::StatusOr<std::optional<Decimal>> NumberAt(const Json& schema, const char* key) {
  const auto found = schema.find(key);
  if (found == schema.end()) return std::nullopt;
  if (found->is_number()) return ParseDecimal(found->dump());
  return absl::InvalidArgumentError(absl::StrCat("'", key, "' must be a number"));
}

}  // namespace

std::string OtherKeyword(const Json& schema, std::initializer_list<absl::string_view> known) {
  for (const auto& [key, value] : schema.items()) {
    if (!absl::c_linear_search(kAnnotations, key) && !absl::c_linear_search(known, key)) return key;
  }
  return "";
}

const std::string* TextAt(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? nullptr : found->get_ptr<const std::string*>();
}

absl::StatusOr<int64_t> CountOf(const Json& schema, const char* key, int64_t otherwise) {
  const auto found = schema.find(key);
  if (found == schema.end()) return otherwise;
  const bool fits = found->is_number_unsigned() && found->get<uint64_t>() <= uint64_t{1} << 30;
  if (!fits) return absl::InvalidArgumentError(absl::StrCat("'", key, "' must be a number of things"));
  return found->get<int64_t>();
}

absl::StatusOr<std::optional<DecimalLimits>> ReadDecimalLimits(const Json& schema, NumberKind kind) {
  DecimalLimits limits;
  limits.max_fraction = kind == NumberKind::kInteger ? 0 : kMaxFractionDigits;
  bool any = false;
  const struct {
    const char* key;
    int sign;
    bool is_inclusive;
  } bounds[] = {
      {"minimum", 1, true}, {"exclusiveMinimum", 1, false}, {"maximum", -1, true}, {"exclusiveMaximum", -1, false}};
  for (const auto& bound : bounds) {
    TF_ASSIGN_OR_RETURN(std::optional<Decimal> at, NumberAt(schema, bound.key));
    if (!at) continue;
    any = true;
    Narrow(bound.sign > 0 ? limits.low : limits.high, {*std::move(at), bound.is_inclusive}, bound.sign);
  }
  TF_ASSIGN_OR_RETURN(limits.multiple_of, NumberAt(schema, "multipleOf"));
  if (limits.multiple_of && (limits.multiple_of->is_negative || limits.multiple_of->is_zero())) {
    return absl::InvalidArgumentError("'multipleOf' must be above zero");
  }
  if (!any && !limits.multiple_of) return std::nullopt;
  return limits;
}

}  // namespace tokenferry
