#include "runtime/text/text_stream.h"

#include <algorithm>

#include "absl/algorithm/container.h"

namespace tokenferry {

namespace {

struct Stop {
  size_t at = std::string::npos;  // nowhere
  std::string which;
};

// Where the first of the strings begins in `text`, and which it is.
Stop FirstStop(const std::string& text, const std::vector<std::string>& stops) {
  Stop first;
  for (const std::string& stop : stops) {
    const size_t at = text.find(stop);
    if (at < first.at) first = {at, stop};
  }
  return first;
}

// Bytes at the end of `text` that may be the beginning of one of the strings.
size_t NumHeld(const std::string& text, const std::vector<std::string>& stops) {
  size_t held = 0;
  for (const std::string& stop : stops) {
    for (size_t n = std::min(stop.size() - 1, text.size()); n > held; --n) {
      if (text.compare(text.size() - n, n, stop, 0, n) == 0) held = n;
    }
  }
  return held;
}

}  // namespace

TextStream::TextStream(Tokenizer tokenizer, StopRules rules)
    : tokenizer_(tokenizer), decoder_(std::move(tokenizer), ShowSpecial::kNo), rules_(std::move(rules)) {}

void TextStream::Append(const std::string& text, ShowSpecial show) {
  for (const char c : text) {
    if (show == ShowSpecial::kYes) shown_at_.push_back(pending_.size());
    pending_.push_back(c);
  }
}

// Takes out of `pending_` what comes before the first stop string, or before where one may be beginning.
std::string TextStream::TakeSafe() {
  std::string shown;
  for (const size_t at : shown_at_) shown.push_back(pending_[at]);
  const auto num_shown_before = [this](size_t end) -> size_t {
    return std::lower_bound(shown_at_.begin(), shown_at_.end(), end) - shown_at_.begin();
  };
  Stop stop = FirstStop(pending_, rules_.stop_strings);
  Stop in_shown = FirstStop(shown, rules_.stop_strings);
  if (stop.at != std::string::npos || in_shown.at != std::string::npos) {
    finished_ = FinishReason::kStop;
    if (stop.at != std::string::npos) stop.at = num_shown_before(stop.at);
    Stop& first = in_shown.at < stop.at ? in_shown : stop;
    stop_string_ = std::move(first.which);
    shown.resize(first.at);
    pending_.clear();
    shown_at_.clear();
    return shown;
  }
  const size_t num_free = shown.size() - NumHeld(shown, rules_.stop_strings);
  const size_t end = std::min(pending_.size() - NumHeld(pending_, rules_.stop_strings),
                              num_free < shown.size() ? shown_at_[num_free] : pending_.size());
  const size_t num_safe = num_shown_before(end);
  shown.resize(num_safe);
  pending_.erase(0, end);
  shown_at_.erase(shown_at_.begin(), shown_at_.begin() + static_cast<ptrdiff_t>(num_safe));
  for (size_t& at : shown_at_) at -= end;
  return shown;
}

std::string TextStream::Push(int32_t token) {
  if (std::find(rules_.stop_tokens.begin(), rules_.stop_tokens.end(), token) != rules_.stop_tokens.end()) {
    std::string rest = Finish();
    finished_ = FinishReason::kStop;
    return rest;
  }
  if (tokenizer_.IsSpecial(token)) {
    const std::string text(tokenizer_.TokenBytes(token));
    Append(text, absl::c_linear_search(rules_.shown_tokens, text) ? ShowSpecial::kYes : ShowSpecial::kNo);
  } else {
    Append(decoder_.Push(token), ShowSpecial::kYes);
  }
  return TakeSafe();
}

std::string TextStream::Finish() {
  Append(decoder_.Finish(), ShowSpecial::kYes);
  std::string shown = TakeSafe();
  if (finished_ == FinishReason::kNone) {
    finished_ = FinishReason::kLength;
    for (const size_t at : shown_at_) shown.push_back(pending_[at]);
    pending_.clear();
    shown_at_.clear();
  }
  return shown;
}

}  // namespace tokenferry
