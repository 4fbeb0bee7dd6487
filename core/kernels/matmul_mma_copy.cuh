// How a tile of matmul_mma.cuh finds its part of the problem, and brings rows and weights into shared memory.
#pragma once

#include "core/formats/dtype.h"
#include "core/formats/weight_format.h"
#include "core/kernels/copy_async.cuh"
#include "core/kernels/matmul.h"
#include "core/kernels/mma.cuh"

namespace tokenferry::mma {

constexpr int kTileOuts = 128;
constexpr int kStepInputs = 64;
constexpr int kRowBytes = 2 * kStepInputs;  // of a row of bf16 in shared memory

// How a tile's weights and rows reach the fragments.
enum class LoadKind {
  kBF16,  // copied as they are
  kF8,    // the same, weights widened in registers; scales are uniform over 16 outputs and kStepInputs inputs
  kAny,   // converted on the way into shared memory: any type, alignment and block
};
enum class Form {
  kPlain,  // a tile has kTileOuts outputs of one matrix
  kGated,  // half as many each of gate and up, and y = silu(gate) * up, rounded to bf16
};

// A thread copies weights of one of the tile's matrices, and multiplies by weights of that matrix.
template <Form kForm, int kThreads>
struct Matrices {
  static constexpr int kCount = kForm == Form::kGated ? 2 : 1;
  static constexpr int kOuts = kTileOuts / kCount, kMatrixThreads = kThreads / kCount;

  __device__ static int Mine() { return kCount == 1 ? 0 : threadIdx.x / kMatrixThreads; }
  __device__ static int MyThread() { return threadIdx.x - Mine() * kMatrixThreads; }
};

struct Problem {
  const void* x;
  DType x_dtype;
  int64_t x_stride;
  const int32_t* row_idx;            // null: row t
  const int64_t* offsets = nullptr;  // [num_groups + 1]; null: one group of num_rows
  int64_t num_rows = 0;              // where offsets is null
  int num_groups;
  WeightArray weights;  // [num_groups]; views null: the layout is the one matrix itself. kGated: gate
  WeightArray up = {};  // kGated: as `weights`, of the same shape
  void* y;
  DType y_dtype;  // kGated: kBF16
  int64_t y_stride;
  Accumulate accumulate = Accumulate::kNo;

  __device__ __host__ int64_t num_outs() const { return weights.layout.rows; }
  __device__ __host__ int64_t num_inputs() const { return weights.layout.cols; }
};

// Where chunk `chunk` (16 bytes) of row `row` of a tile of bf16 lies: neighbouring rows use different banks for the
// chunks that a quad reads together.
__device__ inline int SwizzledBF16(int row, int chunk) { return row * kRowBytes + ((chunk ^ (row & 1)) << 4); }
__device__ inline int PlainF8(int row, int chunk) { return row * kStepInputs + (chunk << 4); }

template <int kTokens, LoadKind kLoad>
struct Tile {
  static constexpr int kThreads = kTokens == 256 ? 256 : 128;
  static constexpr int kWarpsM = kTokens >= 64 ? 2 : 4;
  static constexpr int kWarpsN = kThreads / 32 / kWarpsM;
  static constexpr int kWarpOuts = kTileOuts / kWarpsM;  // 64 or 32
  static constexpr int kWarpTokens = kTokens / kWarpsN;  // 64, 32; 32, 16, 8
  static constexpr int kTilesM = kWarpOuts / 16, kTilesN = kWarpTokens / 8;
  static constexpr int kWeightBytes = kTileOuts * kStepInputs * (kLoad == LoadKind::kF8 ? 1 : 2);
  static constexpr int kStageBytes = kWeightBytes + kTokens * kRowBytes;
  static constexpr int kStages = kTokens >= 128 ? 3 : 4;  // with four, the large tiles would not fit on A100
  static constexpr int kOutStride = kTileOuts + 4;        // floats, of a row of sums in shared memory
  static constexpr int kBytes =
      kStages * kStageBytes > kTokens* kOutStride * 4 ? kStages* kStageBytes : kTokens* kOutStride * 4;
};

// A block's part of the problem.
struct Work {
  WeightView w;  // the thread's matrix
  int out;       // first output of it
  int64_t row;   // first row of the product
  int num_rows;  // of the tile, 1 .. kTokens
};

// tiles[g]: how many row tiles groups before g have. Called by all threads of a block; ends with a barrier.
template <int kTokens>
__device__ inline void CountRowTiles(const Problem& p, int* tiles) {
  if (threadIdx.x < 32) {
    int before = 0;
    for (int base = 0; base < p.num_groups; base += 32) {
      const int g = base + threadIdx.x;
      int64_t rows = 0;
      if (g < p.num_groups) rows = p.offsets == nullptr ? p.num_rows : p.offsets[g + 1] - p.offsets[g];
      int count = static_cast<int>((rows + kTokens - 1) / kTokens);
      for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(0xFFFFFFFFu, count, d);
        if (static_cast<int>(threadIdx.x) >= d) count += other;
      }
      if (g < p.num_groups) tiles[g + 1] = before + count;
      before += __shfl_sync(0xFFFFFFFFu, count, 31);
    }
    if (threadIdx.x == 0) tiles[0] = 0;
  }
  __syncthreads();
}

// Tile `index`: groups one after the other; in a group, row tiles of the same outputs are neighbours, so that weights
// come from the second cache for all but the first.
template <int kTokens, class Matrices>
__device__ inline Work FindWork(const Problem& p, const int* tiles, int64_t index, int num_out_tiles) {
  int low = 0, high = p.num_groups;  // tiles[low] * num_out_tiles <= index < tiles[high] * num_out_tiles
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (static_cast<int64_t>(tiles[middle]) * num_out_tiles <= index) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int row_tiles = tiles[low + 1] - tiles[low];
  const int64_t rest = index - static_cast<int64_t>(tiles[low]) * num_out_tiles;
  Work work;
  const WeightArray& weights = Matrices::Mine() == 0 ? p.weights : p.up;
  work.w = weights.views == nullptr ? weights.layout : weights.views[low];
  work.out = static_cast<int>(rest / row_tiles) * Matrices::kOuts;
  const int64_t begin = p.offsets == nullptr ? 0 : p.offsets[low];
  const int64_t end = p.offsets == nullptr ? p.num_rows : p.offsets[low + 1];
  const int64_t first = rest % row_tiles * kTokens;
  work.row = begin + first;
  work.num_rows = static_cast<int>(end - begin - first < kTokens ? end - begin - first : kTokens);
  return work;
}

// Formats differ in the type of an element, and codes from blocks, which have their scales within.
__device__ inline float WeightValue(const WeightView& w, int64_t o, int64_t i) {
  switch (w.format.dtype) {
    case DType::kF32:
      return F32Weights::Value(w, o, i);
    case DType::kBF16:
      return BF16Weights::Value(w, o, i);
    case DType::kF16:
      return F16Weights::Value(w, o, i);
    case DType::kF8E4M3:
      return F8BlockWeights::Value(w, o, i);
    default:
      return w.format.has_scales() ? PlanarWeights::Value(w, o, i) : BlockWeights::Value(w, o, i);
  }
}

// How many of the 16 bytes at input `i` are a row's own.
__device__ inline int BytesWithin(int64_t num_inputs, int64_t i, int element_bytes) {
  const int64_t left = (num_inputs - i) * element_bytes;
  return static_cast<int>(left < 0 ? 0 : left > 16 ? 16 : left);
}

// Copies a tile's weights into shared memory, step by step. Outputs beyond the last are copies of it, whose sums nobody
// stores; inputs beyond the last are zeros.
template <LoadKind kLoad, class Matrices>
class WeightCopier {
 public:
  static constexpr int kElementBytes = kLoad == LoadKind::kF8 ? 1 : 2;
  static constexpr int kChunks = kStepInputs * kElementBytes / 16;  // of a row
  static constexpr int kRowsAtOnce = Matrices::kMatrixThreads / kChunks, kCount = Matrices::kOuts / kRowsAtOnce;

  __device__ WeightCopier(const Problem& p, const Work& work)
      : first_(Matrices::MyThread() / kChunks),
        chunk_(threadIdx.x % kChunks),
        row_bytes_(p.num_inputs() * kElementBytes) {
    const int64_t outs_left = p.num_outs() - work.out;
    is_whole_ = outs_left >= Matrices::kOuts;
    last_ = static_cast<int>(is_whole_ ? Matrices::kOuts : outs_left) - 1;
    from_ = static_cast<const char*>(work.w.data) + (work.out + (first_ < last_ ? first_ : last_)) * row_bytes_ +
            chunk_ * 16;
    const int row = Matrices::Mine() * Matrices::kOuts + first_;
    to_ = kLoad == LoadKind::kF8 ? PlainF8(row, chunk_) : SwizzledBF16(row, chunk_);
  }

  // Steps come in order.
  __device__ void Load(const Problem& p, const Work& work, int step, char* stage) {
    if constexpr (kLoad == LoadKind::kAny) {
      Convert(p, work, step, stage);
    } else {
      const uint32_t to = SharedAddress(stage) + to_;
      const char* from = from_;
      const int i = step * kStepInputs;
      if (is_whole_ && i + kStepInputs <= p.num_inputs()) {
#pragma unroll
        for (int r = 0; r < kCount; ++r) {
          CopyAsync16(to + r * kRowsAtOnce * kStepInputs * kElementBytes, from);
          from += kRowsAtOnce * row_bytes_;
        }
      } else {
        const int num_bytes = BytesWithin(p.num_inputs(), i + chunk_ * (16 / kElementBytes), kElementBytes);
#pragma unroll
        for (int r = 0; r < kCount; ++r) {
          const int row = r * kRowsAtOnce + first_;
          const char* source =
              num_bytes > 0 ? from + ((row < last_ ? row : last_) - (first_ < last_ ? first_ : last_)) * row_bytes_
                            : from;
          CopyAsync16(to + r * kRowsAtOnce * kStepInputs * kElementBytes, source, num_bytes);
        }
      }
      from_ += kStepInputs * kElementBytes;
    }
  }

 private:
  __device__ void Convert(const Problem& p, const Work& work, int step, char* stage) const {
    stage += Matrices::Mine() * Matrices::kOuts * kRowBytes;
    for (int e = Matrices::MyThread(); e < Matrices::kOuts * kStepInputs / 2; e += Matrices::kMatrixThreads) {
      const int row = e / (kStepInputs / 2), pair = e % (kStepInputs / 2);
      const int64_t o = work.out + row, i = static_cast<int64_t>(step) * kStepInputs + 2 * pair;
      const float a = o < p.num_outs() && i < p.num_inputs() ? WeightValue(work.w, o, i) : 0.0f;
      const float b = o < p.num_outs() && i + 1 < p.num_inputs() ? WeightValue(work.w, o, i + 1) : 0.0f;
      *reinterpret_cast<uint32_t*>(stage + SwizzledBF16(row, pair / 4) + pair % 4 * 4) = PackBF16(a, b);
    }
  }

  const int first_, chunk_;
  const int64_t row_bytes_;
  bool is_whole_;
  int last_;  // output of the matrix in the tile
  const char* from_;
  uint32_t to_;
};

__device__ inline float RowAsF32(const Problem& p, int64_t row, int64_t i) {
  const int64_t at = row * p.x_stride + i;
  return p.x_dtype == DType::kBF16 ? ToFloat(static_cast<const BF16*>(p.x)[at]) : static_cast<const float*>(p.x)[at];
}

// The same for a tile's rows, which lie where row_idx says. Rows beyond the last are copies of it.
template <int kTokens, LoadKind kLoad, int kThreads>
class RowCopier {
 public:
  static constexpr int kRowsAtOnce = kThreads / 8;  // eight chunks a row
  static constexpr int kCount = (kTokens + kRowsAtOnce - 1) / kRowsAtOnce;

  // `rows` [kTokens] is shared memory, where all threads of the block find the rows' places: registers are scarce.
  __device__ RowCopier(const Problem& p, const Work& work, uint32_t* rows)
      : chunk_(threadIdx.x % 8), to_(SwizzledBF16(threadIdx.x / 8, chunk_)), rows_(rows + threadIdx.x / 8) {
    for (int t = threadIdx.x; t < kTokens; t += kThreads) {
      const int64_t at = work.row + (t < work.num_rows ? t : work.num_rows - 1);
      rows[t] = static_cast<uint32_t>(p.row_idx == nullptr ? at : p.row_idx[at]);
    }
    __syncthreads();
  }

  __device__ void Load(const Problem& p, int step, char* stage) const {
    if (kTokens < kRowsAtOnce && threadIdx.x / 8 >= kTokens) return;
    const int i = step * kStepInputs + chunk_ * 8;
    if constexpr (kLoad != LoadKind::kAny) {
      const uint32_t to = SharedAddress(stage) + to_;
      const auto row_bytes = static_cast<uint32_t>(p.x_stride * 2);
      const char* from = static_cast<const char*>(p.x) + i * 2;
      if (i - chunk_ * 8 + kStepInputs <= p.num_inputs()) {
#pragma unroll
        for (int r = 0; r < kCount; ++r) {
          CopyAsync16(to + r * kRowsAtOnce * kRowBytes,
                      from + static_cast<uint64_t>(rows_[r * kRowsAtOnce]) * row_bytes);
        }
      } else {
        const int num_bytes = BytesWithin(p.num_inputs(), i, 2);
#pragma unroll
        for (int r = 0; r < kCount; ++r) {
          const char* source = num_bytes > 0 ? from + static_cast<uint64_t>(rows_[r * kRowsAtOnce]) * row_bytes
                                             : static_cast<const char*>(p.x);
          CopyAsync16(to + r * kRowsAtOnce * kRowBytes, source, num_bytes);
        }
      }
    } else {
#pragma unroll
      for (int r = 0; r < kCount; ++r) {
        float v[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] = i + e < p.num_inputs() ? RowAsF32(p, rows_[r * kRowsAtOnce], i + e) : 0.0f;
        *reinterpret_cast<uint4*>(stage + to_ + r * kRowsAtOnce * kRowBytes) =
            make_uint4(PackBF16(v[0], v[1]), PackBF16(v[2], v[3]), PackBF16(v[4], v[5]), PackBF16(v[6], v[7]));
      }
    }
  }

 private:
  const int chunk_;
  const uint32_t to_;
  const uint32_t* rows_;
};

}  // namespace tokenferry::mma
