#include <algorithm>
#include <cmath>
#include <limits>

#include "core/kernels/dot.h"
#include "core/kernels/exp.h"
#include "core/kernels/matmul_values.h"
#include "runtime/ops/row_kernels.h"

namespace tokenferry {
namespace {

void Dot(Rows x, Rows w, int64_t cols, float* out, int64_t out_stride) {
  for (int64_t a = 0; a < x.num_rows; ++a) {
    for (int64_t b = 0; b < w.num_rows; ++b) {
      out[a * out_stride + b] = DotF32(x.data + a * x.stride, w.data + b * w.stride, cols);
    }
  }
}

void WeightedSum(Rows p, Rows c, int64_t cols, const float* rescale, float* acc, int64_t acc_stride) {
  for (int64_t a = 0; a < p.num_rows; ++a) {
    float* sum = acc + a * acc_stride;
    if (rescale != nullptr) {
      for (int64_t i = 0; i < cols; ++i) sum[i] *= rescale[a];
    }
    for (int64_t j = 0; j < c.num_rows; ++j) {
      const float weight = p.data[a * p.stride + j];
      for (int64_t i = 0; i < cols; ++i) sum[i] = std::fma(weight, c.data[j * c.stride + i], sum[i]);
    }
  }
}

float SoftmaxBlock(float* scores, int64_t size, float scale, float* max, float* rescale) {
  float new_max = *max;
  for (int64_t j = 0; j < size; ++j) {
    scores[j] *= scale;
    new_max = scores[j] > new_max ? scores[j] : new_max;  // a NaN is passed over here and shows in the weights
  }
  *rescale = ExpF32(*max - new_max);
  *max = new_max;
  float lanes[kNumLanes] = {};
  for (int64_t j = 0; j < size; ++j) {
    scores[j] = ExpF32(scores[j] - new_max);
    lanes[j % kNumLanes] += scores[j];
  }
  return SumLanes(lanes);
}

void Widen(const WeightView& w, Panel panel, Compute compute, float* out) {
  for (int64_t r = 0; r < panel.num_rows; ++r) {
    WeightValues(w, panel.row + r, panel.col, panel.num_cols, compute, out + r * panel.num_cols);
  }
}

void Sigmoid(const float* x, int64_t size, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = tokenferry::Sigmoid(x[i]);
}

void StepDelta(const DeltaStep& s) {
  for (int64_t j = 0; j < s.value_dim; ++j) {
    float predicted = 0, out = 0;
    for (int64_t i = 0; i < s.key_dim; ++i) {
      predicted = std::fma(s.k[i], s.decay * s.state[i * s.value_dim + j], predicted);
    }
    const float delta = s.beta * (s.v[j] - predicted);
    for (int64_t i = 0; i < s.key_dim; ++i) {
      float& state = s.state[i * s.value_dim + j];
      state = std::fma(s.k[i], delta, s.decay * state);
      out = std::fma(s.q[i], state, out);
    }
    s.out[j] = out;
  }
}

ValueRange Range(const float* x, int64_t size) {
  ValueRange range;
  for (int64_t i = 0; i < size; ++i) {
    range.low = std::min(range.low, x[i]);
    range.high = std::max(range.high, x[i]);
    range.is_finite &= std::isfinite(x[i]);
  }
  return range;
}

void RoundToF8(const float* x, int64_t size, float scale, F8E4M3* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = ToF8E4M3(x[i] / scale);
}

void RoundToCodes(const float* x, int64_t size, const CodeRounding& r, uint8_t* codes) {
  for (int64_t i = 0; i < size; ++i) {
    const auto code = static_cast<int32_t>(std::nearbyint(x[i] / r.scale)) + r.zero;
    codes[i] = static_cast<uint8_t>(std::clamp(code, r.least, r.most));
  }
}

}  // namespace

const RowKernels& PortableRowKernels() {
  static constexpr RowKernels kKernels{&Dot,       &WeightedSum, &SoftmaxBlock, &Widen,       &Sigmoid,
                                       &StepDelta, &Range,       &RoundToF8,    &RoundToCodes};
  return kKernels;
}

}  // namespace tokenferry
