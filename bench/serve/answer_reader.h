// What a client sees of one streamed answer, and when.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "bench/serve/event_stream.h"
#include "core/status.h"

namespace tokenferry {

enum class ServeApi : uint8_t { kCompletions, kChat };

struct RequestOutcome {
  absl::Status status;              // not OK: why the answer is no answer
  double start_seconds = 0;         // when the request was sent, since the first one was
  double ttft_seconds = 0;          // until the first token was there
  double latency_seconds = 0;       // until the last token was there
  std::vector<double> itl_seconds;  // between two events with text: as many as there are, less one
  int64_t input_tokens = 0;         // as the server counts, else as the prompt was made
  int64_t output_tokens = 0;        // as the server counts, else events with text
  std::string text;
};

// Reads the body of one answer. Times are steady nanoseconds (core/host/clock.h).
class AnswerReader {
 public:
  AnswerReader(ServeApi api, int64_t sent_ns) : api_(api), sent_ns_(sent_ns), last_ns_(sent_ns) {}

  // A piece of the body, which came at `now_ns`. An error ends the request: an event that is an error, that is no JSON,
  // or that comes behind [DONE].
  absl::Status OnPiece(absl::string_view piece, int64_t now_ns);

  // Once the connection has ended in order: DataLoss for a stream without [DONE] or without any token.
  absl::Status Finish();
  // What has come; `status` is left to the caller.
  const RequestOutcome& outcome() const { return outcome_; }

 private:
  absl::Status OnEvent(absl::string_view data, int64_t now_ns);

  const ServeApi api_;
  const int64_t sent_ns_;
  int64_t last_ns_;  // of the last event with text
  int64_t num_events_ = 0, num_tokens_ = 0;
  bool done_ = false, has_usage_ = false;
  EventStream events_;
  RequestOutcome outcome_;
};

// The `message` of an error's body, in the shapes that servers have, or its beginning; one line.
std::string ErrorMessage(absl::string_view body);

}  // namespace tokenferry
