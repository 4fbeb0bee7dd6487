// The rotary embedding's settings of a config.json, which stand in several places and spellings.
#pragma once

#include "runtime/model/config_reader.h"
#include "runtime/model/model_config.h"

namespace tokenferry {

// Into config.rope. transformers 5 has everything in `rope_parameters`; before, `rope_theta` stood beside
// `rope_scaling`. Whatever is given in two places must be equal; what transformers adds is added: without a type there
// is no scaling, YaRN without original_max_position_embeddings means max_position_embeddings, and without a factor the
// ratio of the two. Errors are those of `in`.
absl::Status ReadRope(ConfigReader& in, ModelConfig& config);

}  // namespace tokenferry
