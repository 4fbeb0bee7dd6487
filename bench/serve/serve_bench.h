// Requests against an OpenAI endpoint, as many clients would send them, and when their tokens came.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "bench/serve/answer_reader.h"
#include "bench/serve/http_client.h"
#include "bench/serve/prompts.h"

namespace tokenferry {

enum class Arrivals : uint8_t {
  kPoisson,  // independent of each other: gaps are exponentially distributed
  kFixed,    // equal gaps
};

struct ServeLoadOptions {
  ServeApi api = ServeApi::kCompletions;
  std::string model;        // as the server calls it
  double request_rate = 0;  // per second; 0: all at once
  Arrivals arrivals = Arrivals::kPoisson;
  int max_concurrency = 0;  // requests at a time, those beyond wait here; 0: no bound
  double temperature = 0;
  enum class EndOfText : uint8_t { kEnds, kIgnored } end_of_text = EndOfText::kEnds;  // kIgnored: "ignore_eos"
  absl::Duration timeout = absl::Minutes(10);                                         // of a request
  uint64_t seed = 0;                                                                  // of arrivals
};

struct ServeLoadResult {
  std::vector<RequestOutcome> outcomes;  // by prompt
  double duration_seconds = 0;           // from the first request to the end of the last answer
  int most_concurrent = 0;
};

// When requests arrive, in seconds since the first, which is at 0.
std::vector<double> ArrivalTimes(int count, double rate, Arrivals arrivals, uint64_t seed);

// The id of the first model that GET /v1/models lists. Errors name the address.
absl::StatusOr<std::string> FirstModel(const ResolvedTarget& target, absl::Duration timeout);

// One request for each prompt, streamed. What one of them meets is in its outcome; nothing ends the others.
ServeLoadResult RunLoad(const ResolvedTarget& target, const ServeLoadOptions& options,
                        const std::vector<BenchPrompt>& prompts);

}  // namespace tokenferry
