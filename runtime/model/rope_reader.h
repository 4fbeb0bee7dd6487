// The rotary part of config.json.
#pragma once

#include "runtime/attention/rope.h"
#include "runtime/model/config_reader.h"

namespace tokenferry {

enum class PartialRotation : uint8_t { kNo, kAllowed };

struct RopeRequest {
  int64_t head_dim = 0;  // what can turn, at most
  int64_t max_position = 0;
  PartialRotation partial = PartialRotation::kNo;  // kAllowed: only partial_rotary_factor of head_dim turns
};

// rope_theta, rope_scaling and the newer rope_parameters: what two of them say must agree. Fails as ConfigReader does.
RopeConfig ReadRope(ConfigReader& in, const RopeRequest& request);

}  // namespace tokenferry
