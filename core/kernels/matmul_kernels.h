// The inner loops of core/kernels/matmul.cc, one table per instruction set and precision. Internal.
//
// Rows and weights are *packed* in steps of 64 bytes: 16 f32 or 32 bf16 inputs, the last step padded with values that
// leave the sums unchanged. A packed vector of n steps is stored by hardware vector: all first vectors of the steps,
// then all second ones (one per step on AVX-512, two on AVX2), so that a tile can work on one hardware vector at a
// time.
#pragma once

#include "core/kernels/matmul.h"

namespace tokenferry {

inline constexpr int64_t kStepBytes = 64;
inline constexpr int64_t kTileOuts = 4;
inline constexpr int64_t kMaxStreamRows = 8;
inline constexpr int64_t kTileFloats = 4 * kTileOuts * 16;  // sums of one tile: at most 4 rows, 16 lanes each

// What `stream` reads. Widening codes costs as much as multiplying by them: a panel of planar weights is widened once
// for all rows, however few they are.
using StreamedWeightFormats = WeightFormatList<F32Weights, BF16Weights, F16Weights, F8BlockWeights>;

// Inputs [begin, begin + count) of a row or of weight rows; `num_steps` steps are written.
struct PackSpan {
  int64_t begin, count, num_steps;
};

// Where products go: y[r * stride + o - first] = sum, or += sum.
struct Output {
  float* y;
  int64_t stride;
  Accumulate accumulate;
  int64_t first = 0;  // output whose column is y's

  Output FromRow(int64_t r) const { return {y + r * stride, stride, accumulate, first}; }
};

struct MatMulKernels {
  int64_t step_inputs;  // 16 or 32
  int64_t tile_rows;    // rows of a tile, at most 4

  // `row` is the row's first value.
  void (*pack_row)(const void* row, DType dtype, PackSpan span, void* packed);
  // Weight rows [o, o + num_outs) one after the other, widened or dequantised.
  void (*pack_weights)(const WeightView& w, int64_t o, int64_t num_outs, PackSpan span, void* packed);
  // Few rows (1 .. kMaxStreamRows, whole, packed one after the other): streams weight rows [o, o + num_outs) once. The
  // output's column 0 is that of weight row 0. StreamedWeightFormats only.
  void (*stream)(const WeightView& w, int64_t o, int64_t num_outs, const void* rows, int64_t num_rows, Output out);
  // sums (tile by tile, row tiles outermost) += packed rows times packed weights, or = where `begin_sums`. num_outs is
  // a multiple of kTileOuts.
  void (*multiply)(const void* rows, int64_t num_rows, const void* weights, int64_t num_outs, int64_t num_steps,
                   bool begin_sums, float* sums);
  // Adds up the lanes of `sums` and writes out rows and the first num_outs outputs; out.y is the block's corner.
  void (*finish)(const float* sums, int64_t num_rows, int64_t num_outs, Output out);
};

// values[0 ..]: all elements of `num_blocks` blocks of a GGUF file, by AVX-512; `block` is BlockOf(dtype).
void Avx512WidenBlocks(DType dtype, const uint8_t* blocks, DTypeBlock block, int64_t num_blocks, float* values);

// Null: there is none, use PortableMatMul.
const MatMulKernels* SimdMatMulKernels(Isa isa, Compute compute);
const MatMulKernels* Avx512Bf16MatMulKernels();  // null where it is not built

}  // namespace tokenferry
