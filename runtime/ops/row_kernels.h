// The few loops in which attention and norms spend their time, one set per instruction set; all sets give the same
// bits.
#pragma once

#include <cstdint>

#include "core/formats/weight_format.h"
#include "core/host/isa.h"

namespace tokenferry {

// Rows of f32: row i starts at data + i * stride.
struct Rows {
  const float* data = nullptr;
  int64_t num_rows = 0;
  int64_t stride = 0;
};

// Rows [row, row + num_rows) and columns [col, col + num_cols) of a weight matrix.
struct Panel {
  int64_t row = 0, num_rows = 0;
  int64_t col = 0, num_cols = 0;
};

// A token's step of the gated delta rule (Yang et al., arXiv:2412.06464) in one head: for every column j of the state,
//   s[i] = decay * state[i, j]; d = beta * (v[j] - sum_i k[i] * s[i]); state[i, j] = fma(k[i], d, s[i]);
//   out[j] = sum_i q[i] * state[i, j]
// Both sums are one fma chain over i = 0, 1, .., from +0.
struct DeltaStep {
  const float *q = nullptr, *k = nullptr;  // [key_dim]
  const float* v = nullptr;                // [value_dim]
  int64_t key_dim = 0, value_dim = 0;
  float decay = 1, beta = 1;
  float* state = nullptr;  // [key_dim, value_dim]
  float* out = nullptr;    // [value_dim]
};

// What numbers span, 0 included. Means nothing when one is not finite.
struct ValueRange {
  float low = 0, high = 0;
  bool is_finite = true;
};

// Codes of numbers: each is x / scale rounded to the nearest integer, ties to even, plus `zero`, within [least, most];
// |x / scale| < 2^22.
struct CodeRounding {
  float scale = 1;
  int32_t zero = 0, least = 0, most = 0;  // codes fit into a byte, signed or not
};

struct RowKernels {
  // out[a * out_stride + b] = x_a . w_b over `cols`, in the lane order of core/kernels/matmul.h.
  void (*dot)(Rows x, Rows w, int64_t cols, float* out, int64_t out_stride);

  // acc[a, :] = fma(p[a, j], c[j, :], acc[a, :]) for j = 0, 1, .., over `cols`; first acc[a, :] *= rescale[a] where
  // rescale is not null. p has c.num_rows columns; acc has p.num_rows rows.
  void (*weighted_sum)(Rows p, Rows c, int64_t cols, const float* rescale, float* acc, int64_t acc_stride);

  // One block of an online softmax over size <= 64 scores, in place: scores *= scale; *max grows to their maximum;
  // *rescale = exp(old max - new max); scores = exp(scores - *max). Returns the sum of the new scores in lane order.
  float (*softmax_block)(float* scores, int64_t size, float scale, float* max, float* rescale);

  // out[r * panel.num_cols + c] = element (panel.row + r, panel.col + c) of `w`, dequantised; rounded to bf16 first in
  // Compute::kBF16.
  void (*widen)(const WeightView& w, Panel panel, Compute compute, float* out);

  // out[i] = 1 / (1 + exp(-x[i])), with core/kernels/exp.h. x and out may be the same memory.
  void (*sigmoid)(const float* x, int64_t size, float* out);

  void (*delta_step)(const DeltaStep& step);

  ValueRange (*range)(const float* x, int64_t size);
  // Of finite numbers: x / scale as E4M3, larger ones as the largest.
  void (*round_to_f8)(const float* x, int64_t size, float scale, F8E4M3* out);
  void (*round_to_codes)(const float* x, int64_t size, const CodeRounding& rounding, uint8_t* codes);
};

// Isa::kAvx512Bf16 has the kernels of kAvx512: vdpbf16ps would have its own order.
const RowKernels& RowKernelsFor(Isa isa);

const RowKernels& PortableRowKernels();  // plain C++

}  // namespace tokenferry
