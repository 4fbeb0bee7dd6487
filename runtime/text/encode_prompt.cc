#include "runtime/text/encode_prompt.h"

namespace tokenferry {

std::vector<int32_t> EncodePrompt(const Tokenizer& tokenizer, absl::string_view text) {
  std::vector<int32_t> ids = tokenizer.Encode(text);
  const bool has_bos = !ids.empty() && ids[0] == tokenizer.bos_id();
  if (tokenizer.add_bos() && !has_bos) ids.insert(ids.begin(), tokenizer.bos_id());
  return ids;
}

}  // namespace tokenferry
