// A plain text as a prompt.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace tokenferry {

enum class PromptEnd : uint8_t {
  kOpen,    // the prompt is to be continued
  kClosed,  // it is whole, as an encoder reads it: Tokenizer::suffix_ids stand behind it
};

// A prompt's tokens. It starts once with Tokenizer::prefix_ids (begin-of-sentence, in most), also when the text itself
// begins with them.
std::vector<int32_t> EncodePrompt(const Tokenizer& tokenizer, absl::string_view text, PromptEnd end = PromptEnd::kOpen);

}  // namespace tokenferry
