#include "tests/runtime/engine/mixed_requests.h"

#include <random>

#include "tests/runtime/engine/engine_runner.h"

namespace tokenferry {

std::vector<Request> MixedRequests(int count) {
  std::mt19937_64 random(kMixedRequestsSeed);
  const auto texts = ReadPrompts("ferry-tiny-v3/heldout_source.json");
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    std::vector<int32_t> prompt = texts[random() % 2];
    prompt.resize(1 + random() % 150);
    for (int own = static_cast<int>(random() % 12); own > 0; --own)
      prompt.push_back(static_cast<int32_t>(random() % 1000));
    SamplingParams sampling;
    if (i % 3 != 0) {
      sampling.temperature = 0.9;
      sampling.top_p = 0.95;
      sampling.seed = random();
    }
    if (i % 4 == 1) sampling.frequency_penalty = 0.5, sampling.repetition_penalty = 1.1;
    if (i % 5 == 2) sampling.logit_bias = {{static_cast<int32_t>(random() % 1000), 3.0}}, sampling.min_tokens = 4;
    requests.push_back(GenerateRequest(prompt, 1 + static_cast<int64_t>(random() % 40), sampling));
    if (i % 7 == 3) requests.back().cache_scope = "another key";
  }
  return requests;
}

}  // namespace tokenferry
