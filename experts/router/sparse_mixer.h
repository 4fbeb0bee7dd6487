// The mask of the sparse mixer, for the reference, the CPU's and the GPU's routers alike.
#pragma once

#include "core/formats/scalar.h"

namespace tokenferry {

// Whether an expert has a part in the softmax of a choice whose logit is `largest`: it has unless its logit is lower by
// more than 2 * eps in proportion to the larger of its own size and `largest`. The one chosen always has.
TF_HOST_DEVICE inline bool StaysInMix(float logit, float largest, float eps) {
  const float size = logit < 0 ? -logit : logit;
  const float scale = size > largest ? size : largest;
  return !((largest - logit) / scale > 2 * eps);  // 0 / 0: both are zero
}

}  // namespace tokenferry
