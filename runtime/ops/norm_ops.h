// Embedding lookup, norms and the residual's small operations. All f32, row by row: no row depends on another.
#pragma once

#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "core/formats/weight_format.h"

namespace tokenferry {

// out[t] = table[ids[t]] widened to f32. table [V, H]. ids in device memory.
struct EmbedArgs {
  const int32_t* ids = nullptr;
  int64_t num_tokens = 0;
  WeightView table;
  MatrixView<float> out;
};
void Embed(Stream& stream, const EmbedArgs& args);

// out = x * rsqrt(mean(x^2) + eps) * weight (Llama style). The sum of squares follows matmul.h's lane order; the root
// is 1 / sqrt in f32, and x is multiplied by it first. x and out may be the same memory. weight [cols] of weight_dtype
// (kF32 or kBF16); null: ones. `rounded`, where it is not null, gets every element of out rounded to bf16: rows for
// those who multiply in bf16, while others need all bits of them. On a GPU a row has to fit into a block's shared
// memory: 25,000 columns do on all.
struct RmsNormArgs {
  MatrixView<const float> x;
  const void* weight = nullptr;
  DType weight_dtype = DType::kF32;
  float eps = 1e-6f;
  MatrixView<float> out;
  MatrixView<BF16> rounded = {};  // [rows, cols] of out
};
void RmsNorm(Stream& stream, const RmsNormArgs& args);

// out = (x - mean) * (1 / sqrt(variance + eps)) * weight + bias (Ba et al., arXiv:1607.06450), mean = sum of x / cols,
// variance = sum of (x - mean)^2 / cols. Both sums follow matmul.h's lane order; everything is rounded to f32 operation
// by operation, from left to right. Memory, weight and `rounded` as RmsNormArgs's; weight and bias [cols] must be
// there.
struct LayerNormArgs {
  MatrixView<const float> x;
  const void* weight = nullptr;
  DType weight_dtype = DType::kF32;
  const float* bias = nullptr;
  float eps = 1e-5f;
  MatrixView<float> out;
  MatrixView<BF16> rounded = {};  // [rows, cols] of out
};
void LayerNorm(Stream& stream, const LayerNormArgs& args);

// x += factor * a, or x += factor * (a + b) when b.data is not null; each sum and product is rounded.
struct AddArgs {
  MatrixView<float> x;
  MatrixView<const float> a, b;
  float factor = 1;
};
void Add(Stream& stream, const AddArgs& args);

}  // namespace tokenferry
