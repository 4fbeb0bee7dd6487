// The input is a stream of frames of the serving protocol, as front or rank 0 might receive it. What is accepted must
// encode to a frame that decodes to the same message.
#include <string>

#include "core/check.h"
#include "runtime/serve/protocol/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tokenferry;
  FrameReader reader;
  reader.Append(absl::string_view(reinterpret_cast<const char*>(data), size));
  while (true) {
    const auto message = reader.Take();
    if (!message.ok() || !*message) return 0;
    const std::string frame = EncodeFrame(**message);
    FrameReader again;
    again.Append(frame);
    const auto same = again.Take();
    TF_CHECK(same.ok() && *same && EncodeFrame(**same) == frame && !again.has_rest());
  }
}
