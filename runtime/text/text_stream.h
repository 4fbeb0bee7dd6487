// The text of one generated sequence: decodes tokens as they come, ends at end-of-sequence tokens and stop strings, and
// never shows half a character or the beginning of a stop string that may still complete. Special tokens are not shown,
// but their texts count where stop strings are looked for: "<|im_end|>" stops at that token, "end<|im_end|>" at the
// text and the token after it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace tokenferry {

struct StopRules {
  std::vector<int32_t> stop_tokens;       // end-of-sequence ids; not shown
  std::vector<std::string> stop_strings;  // not empty; neither they nor what follows is shown
  std::vector<std::string> shown_tokens;  // texts of special tokens that are shown all the same
};

enum class FinishReason : uint8_t { kNone, kStop, kLength };

class TextStream {
 public:
  TextStream(Tokenizer tokenizer, StopRules rules);

  // The text that this token makes final. Once finished() is not kNone, no more tokens are to be pushed.
  std::string Push(int32_t token);
  // No more tokens will come: what was held back. Sets kLength unless already stopped.
  std::string Finish();
  FinishReason finished() const { return finished_; }
  // The stop string that has ended the text; empty when none has.
  const std::string& stop_string() const { return stop_string_; }

 private:
  void Append(const std::string& text, ShowSpecial show);
  std::string TakeSafe();

  Tokenizer tokenizer_;
  StreamingDecoder decoder_;
  StopRules rules_;
  // Decoded and neither shown nor passed over yet, the texts of special tokens among it; and where in it the bytes
  // that are shown stand, in order. A stop string may match with the special tokens between them or without.
  std::string pending_;
  std::vector<size_t> shown_at_;
  FinishReason finished_ = FinishReason::kNone;
  std::string stop_string_;
};

}  // namespace tokenferry
