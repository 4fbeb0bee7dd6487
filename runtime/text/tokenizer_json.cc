#include "runtime/text/tokenizer_json.h"

#include "absl/strings/escaping.h"

namespace tokenferry {

absl::StatusOr<int32_t> TokenId(const JsonNode& node) {
  constexpr int64_t kMaxTokenId = (int64_t{1} << 24) - 1;
  const absl::StatusOr<int64_t> id = node.Int(0, kMaxTokenId);
  if (!id.ok()) return node.Error(absl::StrCat("must be a token id, 0 to ", kMaxTokenId, ", not ", node.Shown()));
  return static_cast<int32_t>(*id);
}

std::string Shown(absl::string_view text) {
  constexpr size_t kMaxShown = 48;
  bool cut = text.size() > kMaxShown;
  return absl::StrCat("'", absl::Utf8SafeCHexEscape(text.substr(0, kMaxShown)), cut ? "...'" : "'");
}

}  // namespace tokenferry
