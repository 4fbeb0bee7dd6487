// Writing an f32 result in the precision of its memory.
#pragma once

#include "core/formats/scalar.h"

namespace tokenferry {

__device__ inline void StoreFloat(float x, float& to) { to = x; }
__device__ inline void StoreFloat(float x, BF16& to) { to = ToBF16(x); }

}  // namespace tokenferry
