// A tile of a product by half a warp, in the order of core/kernels/matmul.h: what the f32 kernels of dense and grouped
// products and of the attention's projections are made of.
#pragma once

#include "core/formats/weight_format.h"
#include "core/kernels/lanes.cuh"
#include "core/kernels/matmul_values.h"

namespace tokenferry {

// Rows of a product: row t is row row_idx[t] of x, or row t where row_idx is null.
template <class X>
struct ProductRows {
  const X* x;
  int64_t stride;
  const int32_t* row_idx;

  __device__ const X* Row(int64_t t) const { return x + (row_idx == nullptr ? t : row_idx[t]) * stride; }
};

// Where element (t, o) of a product goes.
struct ProductOut {
  void* y;
  int64_t stride;
  Accumulate accumulate = Accumulate::kNo;
  DType dtype = DType::kF32;  // kF32, or kBF16: rounded once, and never accumulated

  __device__ void Store(int64_t t, int64_t o, float sum) const {
    const int64_t at = t * stride + o;
    if (dtype == DType::kBF16) {
      static_cast<BF16*>(y)[at] = ToBF16(sum);
      return;
    }
    float& to = static_cast<float*>(y)[at];
    to = accumulate == Accumulate::kYes ? __fadd_rn(to, sum) : sum;
  }
};

// One lane's view of a weight row, good for a segment of inputs: the lane reads inputs begin + lane, + 16, .. of it.
template <class Format>
class LaneWeights {
 public:
  static __device__ int64_t SegmentInputs(const WeightView& w) { return w.cols; }
  __device__ void Begin(const WeightView& w, int64_t o, int64_t) {
    w_ = &w;
    o_ = o;
  }
  __device__ float Value(int64_t i) const { return Format::Value(*w_, o_, i); }
  // Steps of a segment that are worth being written out.
  static constexpr int kUnroll = 4;

 private:
  const WeightView* w_;
  int64_t o_;
};

template <>
class LaneWeights<F8BlockWeights> {
 public:
  // One scale per lane and segment: where blocks are not whole steps of 16 inputs, a segment is one step.
  static __device__ int64_t SegmentInputs(const WeightView& w) {
    return w.format.block_cols % kHalfWarp == 0 ? w.format.block_cols : kHalfWarp;
  }
  // `first` is the lane's first input in the segment.
  __device__ void Begin(const WeightView& w, int64_t o, int64_t first) {
    row_ = static_cast<const F8E4M3*>(w.data) + o * w.cols;
    scale_ = first < w.cols ? F8BlockWeights::Scale(w, o, first) : 0.0f;
  }
  __device__ float Value(int64_t i) const { return __fmul_rn(ToFloat(row_[i]), scale_); }
  static constexpr int kUnroll = 4;

 private:
  const F8E4M3* row_;
  float scale_;
};

template <>
class LaneWeights<PlanarWeights> {
 public:
  // As above, and one zero point.
  static __device__ int64_t SegmentInputs(const WeightView& w) {
    return w.format.block_cols % kHalfWarp == 0 ? w.format.block_cols : kHalfWarp;
  }
  __device__ void Begin(const WeightView& w, int64_t o, int64_t first) {
    w_ = &w;
    row_ = static_cast<const uint8_t*>(w.data) + o * PlanarWeights::RowBytes(w);
    const bool has_any = first < w.cols;
    scale_ = has_any ? PlanarWeights::Scale(w, o, first) : 0.0f;
    zero_point_ = has_any ? PlanarWeights::ZeroPoint(w, o, first) : 0;
  }
  __device__ float Value(int64_t i) const {
    return __fmul_rn(static_cast<float>(PlanarWeights::Number(w_->format, row_, i, zero_point_)), scale_);
  }
  static constexpr int kUnroll = 4;

 private:
  const WeightView* w_;
  const uint8_t* row_;
  float scale_;
  int32_t zero_point_;
};

template <>
class LaneWeights<BlockWeights> {
 public:
  // One scale. Blocks are whole steps.
  static __device__ int64_t SegmentInputs(const WeightView&) { return kHalfWarp; }
  __device__ void Begin(const WeightView& w, int64_t o, int64_t first) {
    dtype_ = w.format.dtype;
    block_ = BlockWeights::Block(w, o, first);
    scale_ = BlockScaleOf(dtype_, block_, PlaceInBlock(dtype_, first));
  }
  __device__ float Value(int64_t i) const { return scale_.Times(BlockNumber(dtype_, block_, PlaceInBlock(dtype_, i))); }
  static constexpr int kUnroll = 1;

 private:
  DType dtype_;
  const uint8_t* block_;
  BlockScale scale_;
};

// What half a warp works on: rows [row, row + num_rows), not empty, and outputs [o, o + num_outs), which may be; both
// at most the tile's size.
struct TileSpan {
  int64_t row;
  int num_rows;
  int64_t o;
  int num_outs;
};

// All threads of the warp take part; each half has its own span. Rows and outputs behind the span's end are read as the
// last that there is and not stored.
template <class Format, int kRows, int kOuts, class X>
__device__ void MultiplyTile(const ProductRows<X>& rows, const WeightView& w, const TileSpan& span,
                             const ProductOut& out) {
  const int lane = threadIdx.x % kHalfWarp;
  const X* x[kRows];
  LaneWeights<Format> weights[kOuts];
  float sums[kRows][kOuts] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) x[r] = rows.Row(span.row + min(r, span.num_rows - 1));
  const int64_t segment = LaneWeights<Format>::SegmentInputs(w);
  for (int64_t begin = 0; begin < w.cols; begin += segment) {
    const int64_t end = min(w.cols, begin + segment);
#pragma unroll
    for (int j = 0; j < kOuts; ++j) weights[j].Begin(w, min(span.o + j, w.rows - 1), begin + lane);
#pragma unroll LaneWeights < Format> ::kUnroll
    for (int64_t i = begin + lane; i < end; i += kHalfWarp) {
      float values[kOuts];
#pragma unroll
      for (int j = 0; j < kOuts; ++j) values[j] = weights[j].Value(i);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float input = ToFloat(x[r][i]);
#pragma unroll
        for (int j = 0; j < kOuts; ++j) sums[r][j] = __fmaf_rn(input, values[j], sums[r][j]);
      }
    }
  }
  static_assert(kRows * kOuts <= kHalfWarp, "a lane stores one element at most");
  float mine = 0.0f;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int j = 0; j < kOuts; ++j) {
      const float sum = __shfl_sync(kWholeWarp, SumHalfWarp(sums[r][j]), 0, kHalfWarp);
      if (lane == r * kOuts + j) mine = sum;
    }
  }
  const int r = lane / kOuts, j = lane % kOuts;
  if (r < span.num_rows && r < kRows && j < span.num_outs) out.Store(span.row + r, span.o + j, mine);
}

// The shape of a block of such tiles: its half warps lie side by side over the outputs, over the same rows.
constexpr int kTileRows = 4, kTileOuts = 4, kTileThreads = 128;
constexpr int kBlockOuts = kTileThreads / kHalfWarp * kTileOuts;

// Rows [row, row + num_rows), at most kTileRows, and outputs [o, o + kBlockOuts) as far as there are such, by a block.
template <class Format, class X>
__device__ void MultiplyBlock(const ProductRows<X>& rows, const WeightView& w, int64_t row, int64_t num_rows, int64_t o,
                              const ProductOut& out) {
  const int64_t warp_o = o + threadIdx.x / kWarpSize * 2 * kTileOuts;
  if (warp_o >= w.rows) return;  // the whole warp
  const int64_t half_o = warp_o + threadIdx.x % kWarpSize / kHalfWarp * kTileOuts;
  const auto num_outs = static_cast<int>(max(int64_t{0}, min(w.rows - half_o, int64_t{kTileOuts})));
  const TileSpan span{row, static_cast<int>(num_rows), half_o, num_outs};
  if (num_rows == 1) {
    MultiplyTile<Format, 1, kTileOuts>(rows, w, span, out);
  } else {
    MultiplyTile<Format, kTileRows, kTileOuts>(rows, w, span, out);
  }
}

// launch(F()) with the one F of WeightFormats that matches; its status.
template <class Launch>
absl::Status LaunchForFormat(const WeightFormat& format, const Launch& launch) {
  absl::Status status;
  VisitWeightFormat(format, [&](auto f) { static_cast<void>(status = launch(f)); });
  return status;
}

}  // namespace tokenferry
