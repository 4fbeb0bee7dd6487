#include "runtime/text/encode_prompt.h"

namespace tokenferry {

std::vector<int32_t> EncodePrompt(const Tokenizer& tokenizer, absl::string_view text, PromptEnd end) {
  std::vector<int32_t> ids = tokenizer.Encode(text);
  const absl::Span<const int32_t> prefix = tokenizer.prefix_ids();
  const bool has_prefix = absl::MakeConstSpan(ids).subspan(0, prefix.size()) == prefix;
  if (!has_prefix) ids.insert(ids.begin(), prefix.begin(), prefix.end());
  if (end == PromptEnd::kClosed) {
    ids.insert(ids.end(), tokenizer.suffix_ids().begin(), tokenizer.suffix_ids().end());
  }
  return ids;
}

}  // namespace tokenferry
