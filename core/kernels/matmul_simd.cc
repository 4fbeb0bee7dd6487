// f32 kernels of core/kernels/matmul.cc for AVX2, AVX-512 and NEON: the same bits on each, in Compute::kBF16 too.
#include "core/kernels/matmul_kernels.h"
#include "core/kernels/matmul_values.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/matmul_simd.cc"
#include "core/kernels/simd_targets.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, once per target.
#include "core/kernels/lanes-inl.h"
#include "core/kernels/weight_reader-inl.h"

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {

// 32 vector registers hold 4 x 4 sums besides their operands, AVX2's 16 hold 3 x 4.
inline constexpr int kTileRows = HWY_TARGET == HWY_AVX2 ? 3 : 4;

// Step `step` of a packed vector of `num_steps` steps.
HWY_INLINE Lanes LoadPacked(const float* packed, int64_t num_steps, int64_t step) {
  Lanes r;
  for (int v = 0; v < kVecs; ++v) r.v[v] = hn::LoadU(F32Tag(), packed + (v * num_steps + step) * kVecLanes);
  return r;
}

HWY_INLINE void StorePacked(const Lanes& lanes, int64_t num_steps, int64_t step, float* packed) {
  for (int v = 0; v < kVecs; ++v) hn::StoreU(lanes.v[v], F32Tag(), packed + (v * num_steps + step) * kVecLanes);
}

template <Compute kCompute>
HWY_INLINE Lanes LoadRow(const void* row, DType dtype, int64_t i) {
  if (dtype == DType::kBF16) return LoadBF16Lanes(static_cast<const BF16*>(row) + i);
  const Lanes x = LoadLanes(static_cast<const float*>(row) + i);
  return kCompute == Compute::kBF16 ? RoundLanesToBF16(x) : x;
}

template <Compute kCompute>
void PackRow(const void* row, DType dtype, PackSpan span, void* packed) {
  float* dst = static_cast<float*>(packed);
  int64_t i = 0;
  for (; i + kNumLanes <= span.count; i += kNumLanes) {
    StorePacked(LoadRow<kCompute>(row, dtype, span.begin + i), span.num_steps, i / kNumLanes, dst);
  }
  if (i == span.count) return;
  float tail[kNumLanes];
  for (int l = 0; l < kNumLanes; ++l) {
    tail[l] = i + l < span.count ? RowValue(row, dtype, span.begin + i + l, kCompute) : kPadRow;
  }
  StorePacked(LoadLanes(tail), span.num_steps, i / kNumLanes, dst);
}

template <class Reader>
void PackWeightRow(const WeightView& w, int64_t o, PackSpan span, float* packed) {
  Reader reader(w, o);
  const int64_t limit = span.begin + span.count;
  for (int64_t begin = span.begin, end; begin < limit; begin = end) {
    end = reader.SegmentEnd(w, begin, limit);
    int64_t i = begin;
    if (reader.Begin(begin, end)) {
      for (; i + kNumLanes <= end; i += kNumLanes) {
        StorePacked(reader.Load(i), span.num_steps, (i - span.begin) / kNumLanes, packed);
      }
    }
    for (; i < end; i += kNumLanes) {
      StorePacked(reader.LoadSlowly(i, end), span.num_steps, (i - span.begin) / kNumLanes, packed);
    }
  }
}

template <class Reader>
struct PackWeightRows {
  static void Run(const WeightView& w, int64_t o, int64_t num_outs, PackSpan span, float* packed) {
    for (int64_t j = 0; j < num_outs; ++j) {
      PackWeightRow<Reader>(w, o + j, span, packed + j * span.num_steps * kNumLanes);
    }
  }
};

template <Compute kCompute>
void PackWeights(const WeightView& w, int64_t o, int64_t num_outs, PackSpan span, void* packed) {
  WithWeightReader<PackWeightRows, kCompute>(w, o, num_outs, span, static_cast<float*>(packed));
}

HWY_INLINE void StoreSum(const Output& out, int64_t row, int64_t o, float sum) {
  float& y = out.y[row * out.stride + o - out.first];
  y = out.accumulate == Accumulate::kYes ? y + sum : sum;
}

// ---- few rows ----

template <int kRows, int kOuts>
HWY_INLINE void AddStep(const Lanes (&w)[kOuts], const float* rows, int64_t num_steps, int64_t step,
                        Lanes (&sums)[kRows][kOuts]) {
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    const Lanes x = LoadPacked(rows + r * num_steps * kNumLanes, num_steps, step);
    HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) sums[r][j] = FmaLanes(x, w[j], sums[r][j]);
  }
}

// kRows rows times weight rows o .. o + kOuts - 1.
template <class Reader, int kRows, int kOuts>
HWY_INLINE void StreamTile(const WeightView& w, int64_t o, const float* rows, Output out) {
  const int64_t num_steps = (w.cols + kNumLanes - 1) / kNumLanes;
  Reader readers[kOuts];
  for (int j = 0; j < kOuts; ++j) readers[j] = Reader(w, o + j);
  Lanes sums[kRows][kOuts], wide[kOuts];
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) sums[r][j] = ZeroLanes();
  }
  for (int64_t begin = 0, end; begin < w.cols; begin = end) {
    end = Reader::SegmentEnd(w, begin, w.cols);
    bool fast = true;
    for (int j = 0; j < kOuts; ++j) fast &= readers[j].Begin(begin, end);
    int64_t i = begin;
    // A cache line of each weight row at a time.
    for (const int64_t last = fast ? end - Reader::kLineInputs : begin - 1; i <= last; i += Reader::kLineInputs) {
      for (int j = 0; j < kOuts; ++j) readers[j].Prefetch(i, kOuts);
      HWY_UNROLL(4) for (int64_t step = 0; step < Reader::kLineInputs / kNumLanes; ++step) {
        HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) wide[j] = readers[j].Load(i + step * kNumLanes);
        AddStep<kRows, kOuts>(wide, rows, num_steps, i / kNumLanes + step, sums);
      }
    }
    for (const int64_t last = fast ? end - kNumLanes : begin - 1; i <= last; i += kNumLanes) {
      HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) wide[j] = readers[j].Load(i);
      AddStep<kRows, kOuts>(wide, rows, num_steps, i / kNumLanes, sums);
    }
    for (; i < end; i += kNumLanes) {
      HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) wide[j] = readers[j].LoadSlowly(i, end);
      AddStep<kRows, kOuts>(wide, rows, num_steps, i / kNumLanes, sums);
    }
  }
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) StoreSum(out, r, o + j, SumLanes(sums[r][j]));
  }
}

// At most four rows, as many outputs at once as the registers hold.
template <class Reader, int kRows>
HWY_INLINE void StreamOuts(const WeightView& w, int64_t o, int64_t num_outs, const float* rows, Output out) {
  constexpr int kOuts = HWY_TARGET == HWY_AVX2 ? (kRows == 1 ? 4 : kRows == 2 ? 2 : 1) : 4;
  const int64_t end = o + num_outs;
  for (; o + kOuts <= end; o += kOuts) StreamTile<Reader, kRows, kOuts>(w, o, rows, out);
  for (; o < end; ++o) StreamTile<Reader, kRows, 1>(w, o, rows, out);
}

// Four rows at a time, for a few outputs whose weights stay in the first-level cache meanwhile.
template <class Reader>
struct StreamRows {
  static void Run(const WeightView& w, int64_t o, int64_t num_outs, const float* rows, int64_t num_rows, Output out) {
    const int64_t end = o + num_outs, row_floats = (w.cols + kNumLanes - 1) / kNumLanes * kNumLanes;
    for (; o < end; o += kTileOuts) {
      for (int64_t r = 0; r < num_rows; r += 4) {
        Quad(w, o, HWY_MIN(kTileOuts, end - o), rows + r * row_floats, num_rows - r, out.FromRow(r));
      }
    }
  }

  static void Quad(const WeightView& w, int64_t o, int64_t num_outs, const float* rows, int64_t num_rows, Output out) {
    if (num_rows == 1) return StreamOuts<Reader, 1>(w, o, num_outs, rows, out);
    if (num_rows == 2) return StreamOuts<Reader, 2>(w, o, num_outs, rows, out);
    if (num_rows == 3) return StreamOuts<Reader, 3>(w, o, num_outs, rows, out);
    StreamOuts<Reader, 4>(w, o, num_outs, rows, out);
  }
};

template <Compute kCompute>
void StreamWeights(const WeightView& w, int64_t o, int64_t num_outs, const void* rows, int64_t num_rows, Output out) {
  WithWeightReader<StreamRows, kCompute, StreamedWeightFormats>(w, o, num_outs, static_cast<const float*>(rows),
                                                                num_rows, out);
}

// ---- many rows ----

// One hardware vector's worth of a tile's lanes; strides in floats. `sums` are kNumLanes apart.
template <int kRows>
HWY_INLINE void MultiplyTileVec(const float* rows, const float* weights, int64_t stride, int64_t num_steps,
                                bool begin_sums, float* sums) {
  const F32Tag d;
  F32Vec acc[kRows][kTileOuts];
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kTileOuts; ++j) {
      acc[r][j] = begin_sums ? hn::Zero(d) : hn::LoadU(d, sums + (r * kTileOuts + j) * kNumLanes);
    }
  }
  for (int64_t i = 0; i < num_steps * kVecLanes; i += kVecLanes) {
    F32Vec x[kRows];
    HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) x[r] = hn::LoadU(d, rows + r * stride + i);
    HWY_UNROLL(4) for (int j = 0; j < kTileOuts; ++j) {
      const F32Vec w = hn::LoadU(d, weights + j * stride + i);
      HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) acc[r][j] = hn::MulAdd(x[r], w, acc[r][j]);
    }
  }
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kTileOuts; ++j) {
      hn::StoreU(acc[r][j], d, sums + (r * kTileOuts + j) * kNumLanes);
    }
  }
}

template <int kRows>
HWY_INLINE void MultiplyTile(const float* rows, const float* weights, int64_t num_steps, bool begin_sums, float* sums) {
  for (int v = 0; v < kVecs; ++v) {
    const int64_t at = v * num_steps * kVecLanes;
    MultiplyTileVec<kRows>(rows + at, weights + at, num_steps * kNumLanes, num_steps, begin_sums, sums + v * kVecLanes);
  }
}

void Multiply(const void* rows, int64_t num_rows, const void* weights, int64_t num_outs, int64_t num_steps,
              bool begin_sums, float* sums) {
  const int64_t stride = num_steps * kNumLanes;
  for (int64_t r = 0; r < num_rows; r += kTileRows) {
    const float* x = static_cast<const float*>(rows) + r * stride;
    const int64_t tile_rows = HWY_MIN(num_rows - r, kTileRows);
    for (int64_t o = 0; o < num_outs; o += kTileOuts, sums += kTileFloats) {
      const float* w = static_cast<const float*>(weights) + o * stride;
      if (tile_rows == 1) {
        MultiplyTile<1>(x, w, num_steps, begin_sums, sums);
      } else if (tile_rows == 2) {
        MultiplyTile<2>(x, w, num_steps, begin_sums, sums);
      } else if (tile_rows == 3) {
        MultiplyTile<3>(x, w, num_steps, begin_sums, sums);
      } else {
        MultiplyTile<4>(x, w, num_steps, begin_sums, sums);
      }
    }
  }
}

void Finish(const float* sums, int64_t num_rows, int64_t num_outs, Output out) {
  float four[kTileOuts];
  for (int64_t row = 0; row < num_rows; row += kTileRows) {
    for (int64_t o = 0; o < num_outs; o += kTileOuts, sums += kTileFloats) {
      for (int64_t r = 0; r < HWY_MIN(num_rows - row, kTileRows); ++r) {
        const float* s = sums + r * kTileOuts * kNumLanes;
        hn::StoreU(SumFourLanes(LoadLanes(s), LoadLanes(s + 16), LoadLanes(s + 32), LoadLanes(s + 48)), F32x4Tag(),
                   four);
        for (int64_t j = 0; j < HWY_MIN(num_outs - o, kTileOuts); ++j) StoreSum(out, row + r, o + j, four[j]);
      }
    }
  }
}

template <Compute kCompute>
inline constexpr MatMulKernels kKernels = {
    kNumLanes, kTileRows, PackRow<kCompute>, PackWeights<kCompute>, StreamWeights<kCompute>, Multiply, Finish};

const MatMulKernels* Kernels(Compute compute) {
  return compute == Compute::kF32 ? &kKernels<Compute::kF32> : &kKernels<Compute::kBF16>;
}

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET

#if HWY_ONCE
namespace tokenferry {
namespace {
const MatMulKernels* NoKernels(Compute) { return nullptr; }
}  // namespace

const MatMulKernels* SimdMatMulKernels(Isa isa, Compute compute) {
  return TF_SIMD_CHOOSE(isa, Kernels, NoKernels)(compute);
}

#if defined(__x86_64__)
void Avx512WidenBlocks(DType dtype, const uint8_t* blocks, DTypeBlock block, int64_t num_blocks, float* values) {
  N_AVX3::WidenBlocks(dtype, blocks, block, num_blocks, values);
}
#endif

}  // namespace tokenferry
#endif  // HWY_ONCE
