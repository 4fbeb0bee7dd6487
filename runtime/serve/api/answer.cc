#include "runtime/serve/api/answer.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "core/io/json.h"

namespace tokenferry {

std::string CallId(absl::string_view prefix, const AnswerFacts& facts, int64_t choice_idx, int64_t call_idx) {
  const absl::string_view number = absl::string_view(facts.id).substr(facts.id.find_first_of("-_") + 1);
  return absl::StrCat(prefix, number, "_", choice_idx, "_", call_idx);
}

std::optional<nlohmann::ordered_json> ParseObject(absl::string_view text) {
  const absl::StatusOr<JsonDocument> document = JsonDocument::Parse(std::string(text), "text");
  if (!document.ok() || !document->root().value().is_object()) return std::nullopt;
  return nlohmann::ordered_json::parse(text);
}

}  // namespace tokenferry
