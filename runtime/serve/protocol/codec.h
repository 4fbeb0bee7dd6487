// Messages of front and rank 0 as bytes: frames of a stream. A frame is its payload's length in bytes (uint32), the
// message's type (uint8: its index in Message) and the payload (core/io/archive.h).
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/serve/protocol/messages.h"

namespace tokenferry {

// Larger than any message: a prompt of 2 million tokens takes 8 MiB.
inline constexpr size_t kMaxPayloadBytes = 64 << 20;

// One frame. TF_CHECK: it must not be larger than kMaxPayloadBytes, which the front's limits of a request see to.
std::string EncodeFrame(const Message& message);

// Cuts a stream into messages. Take after every Append until it returns none.
class FrameReader {
 public:
  void Append(absl::string_view bytes) { bytes_.append(bytes.data(), bytes.size()); }

  // The next message, or none when it has not come whole yet. DataLoss for what no peer of this version sends: a frame
  // too large, a type that does not exist, a payload that is cut short, too long or has a value out of its range; the
  // stream is of no use after that.
  absl::StatusOr<std::optional<Message>> Take();

  // Whether the stream has ended within a frame, when nothing more will come.
  bool has_rest() const { return begin_ < bytes_.size(); }

 private:
  std::string bytes_;
  size_t begin_ = 0;  // of the next frame
};

// OK for `version` equal to kProtocolVersion; FailedPrecondition naming both otherwise.
absl::Status CheckVersion(const Hello& hello);

}  // namespace tokenferry
