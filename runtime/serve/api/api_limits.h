// What a request may ask for. Each is a flag of `tokenferry serve`.
#pragma once

#include "absl/time/time.h"

namespace tokenferry {

struct ApiLimits {
  int max_json_depth = 64;
  int max_sequences = 64;  // n times the number of prompts
  int max_stop_strings = 16;
  int max_stop_bytes = 256;     // of each
  int max_logit_biases = 1024;  // tokens of logit_bias
  int max_top_logprobs = 20;
  int max_waiting = 512;                            // requests that no rank has begun; the next one gets a 429
  absl::Duration request_timeout = absl::Hours(1);  // the longest, and the default, of a request's `timeout`
};

}  // namespace tokenferry
