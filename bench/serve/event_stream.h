// Server-sent events, as WHATWG's HTML standard (9.2.6) has them, out of the pieces in which they come.
#pragma once

#include <functional>
#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

class EventStream {
 public:
  static constexpr size_t kMaxEventBytes = 16 << 20;

  // Calls `on_data` with the data of every event that is complete with this piece; comments and other fields are passed
  // over. Stops at the first error, which it returns: `on_data`'s, or ResourceExhausted for an event that is too large.
  absl::Status Feed(absl::string_view piece, const std::function<absl::Status(absl::string_view data)>& on_data);

 private:
  void TakeLine();

  std::string line_, data_;
  bool has_data_ = false;
  bool after_cr_ = false;  // a line has ended with CR: an LF that follows belongs to it
};

}  // namespace tokenferry
