#include "runtime/text/text_stream.h"

#include <algorithm>

namespace tokenferry {

TextStream::TextStream(Tokenizer tokenizer, StopRules rules)
    : decoder_(std::move(tokenizer), ShowSpecial::kNo), rules_(std::move(rules)) {}

// Shows `pending_` up to the first stop string, or up to where one may be beginning.
std::string TextStream::TakeSafe() {
  size_t stop_at = std::string::npos;
  for (const std::string& stop : rules_.stop_strings) stop_at = std::min(stop_at, pending_.find(stop));
  if (stop_at != std::string::npos) {
    finished_ = FinishReason::kStop;
    return std::exchange(pending_, "").substr(0, stop_at);
  }
  size_t held = 0;
  for (const std::string& stop : rules_.stop_strings) {
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > held; --n) {
      if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) held = n;
    }
  }
  std::string safe = pending_.substr(0, pending_.size() - held);
  pending_.erase(0, pending_.size() - held);
  return safe;
}

std::string TextStream::Push(int32_t token) {
  if (std::find(rules_.stop_tokens.begin(), rules_.stop_tokens.end(), token) != rules_.stop_tokens.end()) {
    std::string rest = Finish();
    finished_ = FinishReason::kStop;
    return rest;
  }
  pending_ += decoder_.Push(token);
  return TakeSafe();
}

std::string TextStream::Finish() {
  pending_ += decoder_.Finish();
  std::string shown = TakeSafe();
  if (finished_ == FinishReason::kNone) {
    finished_ = FinishReason::kLength;
    shown += std::exchange(pending_, "");
  }
  return shown;
}

}  // namespace tokenferry
