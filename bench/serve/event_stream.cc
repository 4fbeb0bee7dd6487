#include "bench/serve/event_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace tokenferry {

void EventStream::TakeLine() {
  absl::string_view value = line_;
  if (absl::ConsumePrefix(&value, "data")) {
    if (value.empty() || absl::ConsumePrefix(&value, ":")) {
      absl::ConsumePrefix(&value, " ");
      absl::StrAppend(&data_, has_data_ ? "\n" : "", value);
      has_data_ = true;
    }
  }
  line_.clear();
}

absl::Status EventStream::Feed(absl::string_view piece,
                               const std::function<absl::Status(absl::string_view data)>& on_data) {
  for (const char c : piece) {
    if (std::exchange(after_cr_, c == '\r') && c == '\n') continue;
    if (c != '\n' && c != '\r') {
      line_.push_back(c);
      if (line_.size() + data_.size() <= kMaxEventBytes) continue;
      return absl::ResourceExhaustedError(absl::StrCat("an event has more than ", kMaxEventBytes, " bytes"));
    }
    if (!line_.empty()) {
      TakeLine();
    } else if (std::exchange(has_data_, false)) {
      TF_RETURN_IF_ERROR(on_data(std::exchange(data_, {})));
    }
  }
  return absl::OkStatus();
}

}  // namespace tokenferry
