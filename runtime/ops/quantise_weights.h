// Fewer bits for a weight matrix: rounds it to a format with a scale for every group of a row.
#pragma once

#include "core/device/device.h"
#include "core/formats/weight_format.h"

namespace tokenferry {

// Group by group, with x what `src` is worth, the largest |x| `amax`, and lo and hi the range of x and 0. A scale that
// is 0 in its type is 1, so that a group of zeros, or of numbers next to it, becomes zeros.
//  * BF16: x rounded; the group is the row.
//  * F8BlockWeights, one row high: scale amax / 448; x / scale rounded.
//  * I8 numbers: scale amax / 127; x / scale rounded to the nearest integer, ties to even, within +-127.
//  * Zero points, of b bits: scale (hi - lo) / (2^b - 1); zero point -lo / scale; x / scale rounded, plus the zero
//    point, both within [0, 2^b - 1].
// Scales are rounded to their type before anything is divided by them. A row depends on that row alone. CPUs only: what
// a GPU will hold is quantised before it is uploaded.
//
// A group does not fit when one of its x is not finite (it is then stored as zeros), or when what it becomes is not,
// because the largest f32 numbers were rounded up.
struct QuantiseWeightsArgs {
  WeightView src;  // of any format that kernels read
  WeightView dst;  // shape, format and strides; its memory is the next three
  void* data = nullptr;
  void* scales = nullptr;
  uint8_t* zero_points = nullptr;
  int64_t* num_unfit_groups = nullptr;  // of host memory; the groups that do not fit are added, on completion
};
bool CanQuantiseTo(const WeightFormat& format);
void QuantiseWeights(Stream& stream, const QuantiseWeightsArgs& args);

}  // namespace tokenferry
