// The rotary part of config.json.
#pragma once

#include "runtime/attention/rope.h"
#include "runtime/model/config_reader.h"

namespace tokenferry {

// What a family's class in transformers has where config.json is silent.
struct RopeDefaults {
  std::optional<double> partial_rotary_factor;  // none: heads turn as a whole, and files must not say otherwise
  RopeConfig scaling = {};                      // where neither rope_parameters nor rope_scaling says anything
};

struct RopeRequest {
  int64_t head_dim = 0;  // what can turn, at most
  int64_t max_position = 0;
  RopeDefaults defaults = {};
};

// rope_theta, rope_scaling and the newer rope_parameters: what two of them say must agree. Fails as ConfigReader does.
RopeConfig ReadRope(ConfigReader& in, const RopeRequest& request);

}  // namespace tokenferry
