// The text of one generated sequence: decodes tokens as they come, ends at end-of-sequence tokens and stop strings, and
// never shows half a character or the beginning of a stop string that may still complete.
#pragma once

#include <string>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace tokenferry {

struct StopRules {
  std::vector<int32_t> stop_tokens;       // end-of-sequence ids; not shown
  std::vector<std::string> stop_strings;  // not empty; neither they nor what follows is shown
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

 private:
  std::string TakeSafe();

  StreamingDecoder decoder_;
  StopRules rules_;
  std::string pending_;  // decoded, not yet shown
  FinishReason finished_ = FinishReason::kNone;
};

}  // namespace tokenferry
