// How a model wants its answers sampled, by its generation_config.json.
#pragma once

#include <string>

#include "runtime/engine/sampling_params.h"
#include "runtime/model/generation_config.h"

namespace tokenferry {

// The likeliest token unless do_sample is true; then temperature (1 where the file has none), top_p, top_k, min_p and
// repetition_penalty as the file says, else as SamplingParams has them: what transformers would assume (top_k 50) is
// not.
SamplingParams DefaultSampling(const GenerationConfig& config);

// "sampled at temperature 0.6, top-p 0.95; ends at token 1".
std::string Describe(const GenerationConfig& config);

}  // namespace tokenferry
