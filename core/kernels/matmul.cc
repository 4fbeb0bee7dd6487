// How a product is cut into tasks and blocks. Only the kernels (matmul_simd.cc, matmul_avx512bf16.cc) know about sums.
#include "core/kernels/matmul.h"

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "core/kernels/dot.h"
#include "core/kernels/matmul_kernels.h"
#include "core/kernels/matmul_values.h"
#include "core/kernels/scratch.h"
#include "core/round_up.h"

namespace tokenferry {
namespace {

// A block's rows, weights and sums (kBlockRows * kBlockSteps * 64 + kBlockOuts * kBlockSteps * 64 + kBlockRows *
// kBlockOuts * 64 bytes = 512 KiB, 600 KiB on AVX2) stay in the second-level cache.
constexpr int64_t kBlockRows = 64, kBlockOuts = 64, kBlockSteps = 32;
constexpr int64_t kMinPanelOuts = 16;

// What all groups of a product share.
struct Product {
  const void* x;
  DType x_dtype;
  int64_t x_stride;
  const int32_t* row_idx;
  Output out;     // y is null where the product is rounded
  BF16* rounded;  // instead of out.y; its stride is out.stride
  Compute compute;

  const void* Row(int64_t t) const {
    const int64_t row = row_idx == nullptr ? t : row_idx[t];
    return static_cast<const uint8_t*>(x) + row * x_stride * DTypeBytes(x_dtype);
  }
  Output At(int64_t row) const { return out.FromRow(row); }
};

// Rows [row, row + num_rows) of the product, with the weights of their group.
struct RowBlock {
  const WeightView* w;
  int64_t row, num_rows;
};

Product MakeProduct(const MatMulArgs& a) {
  return {a.x, a.x_dtype, a.x_stride, a.row_idx, {a.y, a.y_stride, a.accumulate}, nullptr, a.compute};
}

Product MakeProduct(const GroupedMatMulArgs& a) {
  const bool rounds = a.y_dtype == DType::kBF16;
  return {a.x,
          a.x_dtype,
          a.x_stride,
          a.row_idx,
          {rounds ? nullptr : static_cast<float*>(a.y), a.y_stride, Accumulate::kNo},
          rounds ? static_cast<BF16*>(a.y) : nullptr,
          a.compute};
}

// ---- reference ----

void Store(const Product& p, int64_t row, int64_t o, float sum) {
  const int64_t i = row * p.out.stride + o;
  if (p.rounded != nullptr) {
    p.rounded[i] = ToBF16(sum);
  } else {
    p.out.y[i] = p.out.accumulate == Accumulate::kYes ? p.out.y[i] + sum : sum;
  }
}

// The meaning, for outputs [o, o + num_outs). `scratch` holds 2 * w.cols floats.
void PlainMatMul(const Product& p, const RowBlock& block, int64_t o, int64_t num_outs, float* scratch) {
  const WeightView& w = *block.w;
  float *wide = scratch, *x = scratch + w.cols;
  for (int64_t out = o; out < o + num_outs; ++out) {
    WeightValues(w, out, 0, w.cols, p.compute, wide);
    for (int64_t t = block.row; t < block.row + block.num_rows; ++t) {
      const void* row = p.Row(t);
      for (int64_t i = 0; i < w.cols; ++i) x[i] = RowValue(row, p.x_dtype, i, p.compute);
      Store(p, t, out, DotF32(x, wide, w.cols));
    }
  }
}

void ReferenceMatMul(const MatMulArgs& a) {
  std::vector<float> scratch(2 * a.w.cols);
  PlainMatMul(MakeProduct(a), {&a.w, 0, a.num_rows}, 0, a.w.rows, scratch.data());
}

void ReferenceGroupedMatMul(const GroupedMatMulArgs& a) {
  for (int64_t g = 0; g < a.num_groups; ++g) {
    const WeightView& w = a.weights.views[g];
    CheckWeight(w);
    std::vector<float> scratch(2 * w.cols);
    PlainMatMul(MakeProduct(a), {&w, a.offsets[g], a.offsets[g + 1] - a.offsets[g]}, 0, w.rows, scratch.data());
  }
}

// ---- fast ----

// Few rows: they are packed whole, and the weights pass through once. `out` is for the block's first row, output 0.
void StreamTask(const MatMulKernels& k, const Product& p, const RowBlock& block, int64_t o, int64_t num_outs,
                Output out) {
  const int64_t num_steps = CeilDiv(block.w->cols, k.step_inputs);
  auto* rows = static_cast<uint8_t*>(ThreadScratch(block.num_rows * num_steps * kStepBytes));
  for (int64_t t = 0; t < block.num_rows; ++t) {
    k.pack_row(p.Row(block.row + t), p.x_dtype, {0, block.w->cols, num_steps}, rows + t * num_steps * kStepBytes);
  }
  k.stream(*block.w, o, num_outs, rows, block.num_rows, out);
}

// Many rows: chunks of inputs, for which rows and weights are packed, and sums carried from chunk to chunk. `out` as
// above.
void BlockTask(const MatMulKernels& k, const Product& p, const RowBlock& block, int64_t o, int64_t num_outs,
               Output out) {
  constexpr int64_t kRowBytes = kBlockSteps * kStepBytes;
  // A tile has the room of 4 rows, however few it has; the last one may have fewer still.
  const int64_t num_tiles = CeilDiv(kBlockRows, k.tile_rows) * (kBlockOuts / kTileOuts);
  auto* rows = static_cast<uint8_t*>(
      ThreadScratch((kBlockRows + kBlockOuts) * kRowBytes + num_tiles * kTileFloats * sizeof(float)));
  uint8_t* weights = rows + kBlockRows * kRowBytes;
  auto* sums = reinterpret_cast<float*>(weights + kBlockOuts * kRowBytes);
  const int64_t chunk = kBlockSteps * k.step_inputs, cols = block.w->cols;
  const int64_t padded_outs = CeilDiv(num_outs, kTileOuts) * kTileOuts;
  for (int64_t begin = 0; begin < cols; begin += chunk) {
    const int64_t count = std::min(chunk, cols - begin);
    const PackSpan span = {begin, count, CeilDiv(count, k.step_inputs)};
    for (int64_t t = 0; t < block.num_rows; ++t) {
      k.pack_row(p.Row(block.row + t), p.x_dtype, span, rows + t * span.num_steps * kStepBytes);
    }
    k.pack_weights(*block.w, o, num_outs, span, weights);
    uint8_t* padding = weights + num_outs * span.num_steps * kStepBytes;
    std::fill(padding, weights + padded_outs * span.num_steps * kStepBytes, uint8_t{0});
    k.multiply(rows, block.num_rows, weights, padded_outs, span.num_steps, begin == 0, sums);
  }
  out.y += o - out.first;
  out.first = 0;
  k.finish(sums, block.num_rows, num_outs, out);
}

void FastTask(const MatMulKernels& k, const Product& p, const RowBlock& block, int64_t o, int64_t num_outs,
              Output out) {
  const bool streams = block.num_rows <= kMaxStreamRows && StreamedWeightFormats::Contains(block.w->format);
  if (streams || block.w->cols == 0) {
    StreamTask(k, p, block, o, num_outs, out);
  } else {
    BlockTask(k, p, block, o, num_outs, out);
  }
}

// The same, rounded: the products of a task fit into the first-level cache.
void RoundedTask(const MatMulKernels& k, const Product& p, const RowBlock& block, int64_t o, int64_t num_outs) {
  float products[kBlockRows * kBlockOuts];
  FastTask(k, p, block, o, num_outs, {products, num_outs, Accumulate::kNo, o});
  for (int64_t t = 0; t < block.num_rows; ++t) {
    BF16* y = p.rounded + (block.row + t) * p.out.stride + o;
    for (int64_t i = 0; i < num_outs; ++i) y[i] = ToBF16(products[t * num_outs + i]);
  }
}

// Cuts a group's rows into blocks of about equal size.
void AppendRowBlocks(const WeightView& w, int64_t row, int64_t num_rows, std::vector<RowBlock>& blocks) {
  const int64_t num_blocks = CeilDiv(num_rows, kBlockRows);
  for (int64_t b = 0; b < num_blocks; ++b) {
    const int64_t begin = num_rows * b / num_blocks, end = num_rows * (b + 1) / num_blocks;
    blocks.push_back({&w, row + begin, end - begin});
  }
}

const MatMulKernels* ChooseKernels(Isa isa, Compute compute) {
  if (isa == Isa::kAvx512Bf16 && compute == Compute::kBF16) return Avx512Bf16MatMulKernels();
  return SimdMatMulKernels(isa, compute);
}

// Tasks are (row block, panel of outputs); all weights have `num_outs` rows. No task shares an output with another.
void RunBlocks(const Product& p, const std::vector<RowBlock>& blocks, int64_t num_outs, CpuContext& context) {
  const MatMulKernels* kernels = ChooseKernels(context.isa, p.compute);
  const int64_t num_blocks = static_cast<int64_t>(blocks.size());
  int64_t panel = kBlockOuts;
  while (panel > kMinPanelOuts && num_blocks * CeilDiv(num_outs, panel) < 4 * context.pool.num_threads()) panel /= 2;
  const int64_t num_panels = CeilDiv(num_outs, panel);
  context.pool.ParallelFor(num_blocks * num_panels, [&](int64_t task, int) {
    const RowBlock& block = blocks[task / num_panels];
    const int64_t o = task % num_panels * panel, count = std::min(panel, num_outs - o);
    if (kernels == nullptr) {
      PlainMatMul(p, block, o, count, static_cast<float*>(ThreadScratch(2 * block.w->cols * sizeof(float))));
    } else if (p.rounded != nullptr) {
      RoundedTask(*kernels, p, block, o, count);
    } else {
      FastTask(*kernels, p, block, o, count, p.At(block.row));
    }
  });
}

// The launching thread's, kept for its memory.
std::vector<RowBlock>& EmptyBlockList() {
  thread_local std::vector<RowBlock> blocks;
  blocks.clear();
  return blocks;
}

void CpuMatMul(const MatMulArgs& a, CpuContext& context) {
  std::vector<RowBlock>& blocks = EmptyBlockList();
  AppendRowBlocks(a.w, 0, a.num_rows, blocks);
  RunBlocks(MakeProduct(a), blocks, a.w.rows, context);
}

void CpuGroupedMatMul(const GroupedMatMulArgs& a, CpuContext& context) {
  std::vector<RowBlock>& blocks = EmptyBlockList();
  for (int64_t g = 0; g < a.num_groups; ++g) {
    CheckWeight(a.weights.views[g]);
    AppendRowBlocks(a.weights.views[g], a.offsets[g], a.offsets[g + 1] - a.offsets[g], blocks);
  }
  if (!blocks.empty()) RunBlocks(MakeProduct(a), blocks, a.weights.layout.rows, context);
}

}  // namespace

// matmul.cu
absl::Status CudaMatMul(const MatMulArgs& args, void* stream);
absl::Status CudaGroupedMatMul(const GroupedMatMulArgs& args, void* stream);

constexpr Op<MatMulArgs> kMatMul = {"matmul", ReferenceMatMul, CpuMatMul, TF_CUDA_LAUNCHER(CudaMatMul)};
constexpr Op<GroupedMatMulArgs> kGroupedMatMul = {"grouped_matmul", ReferenceGroupedMatMul, CpuGroupedMatMul,
                                                  TF_CUDA_LAUNCHER(CudaGroupedMatMul)};

void MatMul(Stream& stream, const MatMulArgs& args) {
  TF_CHECK(args.x_dtype == DType::kF32 || args.x_dtype == DType::kBF16);
  CheckWeight(args.w);
  TF_CHECK_GE(args.y_stride, args.w.rows);
  stream.Launch(kMatMul, args);
}

void GroupedMatMul(Stream& stream, const GroupedMatMulArgs& args) {
  TF_CHECK(args.x_dtype == DType::kF32 || args.x_dtype == DType::kBF16);
  stream.Launch(kGroupedMatMul, args);
}

}  // namespace tokenferry
