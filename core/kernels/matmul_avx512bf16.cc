// bf16 kernels of core/kernels/matmul.cc with vdpbf16ps: 32 inputs a step, inputs 2l and 2l + 1 of a step in lane l.
// Steps go up in order and the lanes are summed as in core/kernels/matmul.h, so a result depends on its row and weights
// alone. vdpbf16ps and the conversions take subnormal numbers as zero.
#include "core/kernels/matmul_kernels.h"

#if !defined(__x86_64__)

namespace tokenferry {
const MatMulKernels* Avx512Bf16MatMulKernels() { return nullptr; }
}  // namespace tokenferry

#else

#include <immintrin.h>

#include <algorithm>

#include "core/kernels/matmul_values.h"
#include "hwy/base.h"

HWY_PUSH_ATTRIBUTES("avx,avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace tokenferry {
namespace {

constexpr int64_t kInputs = 32, kTileRows = 4;

HWY_INLINE __m512i Load(const void* p) { return _mm512_loadu_si512(p); }

HWY_INLINE __m512 DotStep(__m512 sum, __m512i x, __m512i w) { return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w); }

// Rounds 32 f32 to bf16.
HWY_INLINE __m512i RoundPair(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

HWY_INLINE __m512i RoundLoad(const float* p) { return RoundPair(_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16)); }

// The lanes folded to four: l, l + 4, l + 8, l + 12.
HWY_INLINE __m128 FoldToFour(__m512 a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

HWY_INLINE float SumLanes(__m512 a) {
  __m128 s = FoldToFour(a);
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

HWY_INLINE void StoreSum(const Output& out, int64_t row, int64_t o, float sum) {
  float& y = out.y[row * out.stride + o];
  y = out.accumulate == Accumulate::kYes ? y + sum : sum;
}

void PackRow(const void* row, DType dtype, PackSpan span, void* packed) {
  auto* dst = static_cast<BF16*>(packed);
  int64_t i = 0;
  for (; i + kInputs <= span.count; i += kInputs) {
    const int64_t at = span.begin + i;
    _mm512_storeu_si512(dst + i, dtype == DType::kBF16 ? Load(static_cast<const BF16*>(row) + at)
                                                       : RoundLoad(static_cast<const float*>(row) + at));
  }
  for (; i < span.num_steps * kInputs; ++i) {
    dst[i] = i < span.count ? ToBF16(RowValue(row, dtype, span.begin + i, Compute::kBF16)) : BF16{};
  }
}

// As weight_reader-inl.h's, in steps of 32 inputs.
template <DType kDType>
class Reader {
 public:
  Reader() = default;
  Reader(const WeightView& w, int64_t o)
      : w_(&w), o_(o), row_(static_cast<const uint8_t*>(w.data) + o * w.cols * kBytes) {}

  static int64_t SegmentEnd(const WeightView& w, int64_t begin, int64_t limit) {
    if (kDType != DType::kF8E4M3 || w.block % kInputs != 0) return limit;
    return std::min(limit, (begin / w.block + 1) * w.block);
  }

  HWY_INLINE bool Begin(int64_t begin, int64_t end) {
    if constexpr (kDType != DType::kF8E4M3) return true;
    scale_ = WeightScale(*w_, o_, begin) * 256.0f;
    return w_->block % kInputs == 0 && scale_ < 0x1p127f && scale_ > -0x1p127f && !HasNaN(begin, end);
  }

  HWY_INLINE __m512i LoadStep(int64_t i) const {
    if constexpr (kDType == DType::kBF16) return Load(row_ + i * 2);
    if constexpr (kDType == DType::kF32) return RoundLoad(reinterpret_cast<const float*>(row_) + i);
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row_ + i));
    const __m512i half = _mm512_and_si512(_mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 7),
                                          _mm512_set1_epi16(static_cast<int16_t>(0xBFFF)));
    const __m512 scale = _mm512_set1_ps(scale_);
    return RoundPair(_mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(half)), scale),
                     _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1)), scale));
  }

  __m512i LoadSlowly(int64_t i, int64_t end) const {
    BF16 values[kInputs];
    for (int64_t l = 0; l < kInputs; ++l) {
      values[l] = i + l < end ? ToBF16(WeightValue(*w_, o_, i + l, Compute::kBF16)) : BF16{};
    }
    return Load(values);
  }

  HWY_INLINE void Prefetch(int64_t i, int64_t rows_ahead) const {
    __builtin_prefetch(row_ + (i + rows_ahead * w_->cols) * kBytes, 0, 2);
  }

 private:
  static constexpr int64_t kBytes = kDType == DType::kF32 ? 4 : kDType == DType::kBF16 ? 2 : 1;

  bool HasNaN(int64_t begin, int64_t end) const {
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
    __m512i largest = _mm512_setzero_si512();
    int64_t i = begin;
    for (; i + 64 <= end; i += 64) largest = _mm512_max_epu8(largest, _mm512_or_si512(Load(row_ + i), sign));
    bool nan = _mm512_cmpeq_epi8_mask(largest, _mm512_set1_epi8(-1)) != 0;
    for (; i < end; ++i) nan |= (row_[i] & 0x7F) == 0x7F;
    return nan;
  }

  const WeightView* w_ = nullptr;
  int64_t o_ = 0;
  const uint8_t* row_ = nullptr;
  float scale_ = 1.0f;
};

template <DType kDType>
void PackWeightRow(const WeightView& w, int64_t o, PackSpan span, BF16* packed) {
  Reader<kDType> reader(w, o);
  const int64_t limit = span.begin + span.count;
  for (int64_t begin = span.begin, end; begin < limit; begin = end) {
    end = reader.SegmentEnd(w, begin, limit);
    int64_t i = begin;
    if (reader.Begin(begin, end)) {
      for (; i + kInputs <= end; i += kInputs) _mm512_storeu_si512(packed + (i - span.begin), reader.LoadStep(i));
    }
    for (; i < end; i += kInputs) _mm512_storeu_si512(packed + (i - span.begin), reader.LoadSlowly(i, end));
  }
}

void PackWeights(const WeightView& w, int64_t o, int64_t num_outs, PackSpan span, void* packed) {
  const auto pack = w.dtype == DType::kF32    ? PackWeightRow<DType::kF32>
                    : w.dtype == DType::kBF16 ? PackWeightRow<DType::kBF16>
                                              : PackWeightRow<DType::kF8E4M3>;
  for (int64_t j = 0; j < num_outs; ++j) {
    pack(w, o + j, span, static_cast<BF16*>(packed) + j * span.num_steps * kInputs);
  }
}

template <int kRows, int kOuts>
HWY_INLINE void AddStep(const __m512i (&w)[kOuts], const BF16* rows, int64_t stride, int64_t i,
                        __m512 (&sums)[kRows][kOuts]) {
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    const __m512i x = Load(rows + r * stride + i);
    HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) sums[r][j] = DotStep(sums[r][j], x, w[j]);
  }
}

// kRows rows times weight rows o .. o + kOuts - 1.
template <DType kDType, int kRows, int kOuts>
HWY_INLINE void StreamTile(const WeightView& w, int64_t o, const BF16* rows, Output out) {
  const int64_t stride = (w.cols + kInputs - 1) / kInputs * kInputs;
  constexpr int64_t kLine = kDType == DType::kF8E4M3 ? 64 : kInputs;  // inputs to a cache line, one step at least
  Reader<kDType> readers[kOuts];
  for (int j = 0; j < kOuts; ++j) readers[j] = Reader<kDType>(w, o + j);
  __m512 sums[kRows][kOuts];
  __m512i wide[kOuts];
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) sums[r][j] = _mm512_setzero_ps();
  }
  for (int64_t begin = 0, end; begin < w.cols; begin = end) {
    end = Reader<kDType>::SegmentEnd(w, begin, w.cols);
    bool fast = true;
    for (int j = 0; j < kOuts; ++j) fast &= readers[j].Begin(begin, end);
    int64_t i = begin;
    for (const int64_t last = fast ? end - kLine : begin - 1; i <= last; i += kLine) {
      for (int j = 0; j < kOuts; ++j) readers[j].Prefetch(i, kOuts);
      HWY_UNROLL(2) for (int64_t step = 0; step < kLine; step += kInputs) {
        HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) wide[j] = readers[j].LoadStep(i + step);
        AddStep<kRows, kOuts>(wide, rows, stride, i + step, sums);
      }
    }
    for (const int64_t last = fast ? end - kInputs : begin - 1; i <= last; i += kInputs) {
      HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) wide[j] = readers[j].LoadStep(i);
      AddStep<kRows, kOuts>(wide, rows, stride, i, sums);
    }
    for (; i < end; i += kInputs) {
      HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) wide[j] = readers[j].LoadSlowly(i, end);
      AddStep<kRows, kOuts>(wide, rows, stride, i, sums);
    }
  }
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kOuts; ++j) StoreSum(out, r, o + j, SumLanes(sums[r][j]));
  }
}

// At most four rows and outputs.
template <DType kDType, int kRows>
void StreamOuts(const WeightView& w, int64_t o, int64_t num_outs, const BF16* rows, Output out) {
  if (num_outs == kTileOuts) return StreamTile<kDType, kRows, kTileOuts>(w, o, rows, out);
  for (int64_t j = 0; j < num_outs; ++j) StreamTile<kDType, kRows, 1>(w, o + j, rows, out);
}

// Four rows at a time, for a few outputs whose weights stay in the first-level cache meanwhile.
template <DType kDType>
void StreamRows(const WeightView& w, int64_t o, int64_t num_outs, const BF16* rows, int64_t num_rows, Output out) {
  constexpr decltype(&StreamOuts<kDType, 1>) kQuads[] = {StreamOuts<kDType, 1>, StreamOuts<kDType, 2>,
                                                         StreamOuts<kDType, 3>, StreamOuts<kDType, 4>};
  const int64_t end = o + num_outs, stride = (w.cols + kInputs - 1) / kInputs * kInputs;
  for (; o < end; o += kTileOuts) {
    for (int64_t r = 0; r < num_rows; r += 4) {
      kQuads[std::min<int64_t>(num_rows - r, 4) - 1](w, o, std::min(kTileOuts, end - o), rows + r * stride,
                                                     {out.y + r * out.stride, out.stride, out.accumulate});
    }
  }
}

void StreamWeights(const WeightView& w, int64_t o, int64_t num_outs, const void* rows, int64_t num_rows, Output out) {
  const auto stream = w.dtype == DType::kF32    ? StreamRows<DType::kF32>
                      : w.dtype == DType::kBF16 ? StreamRows<DType::kBF16>
                                                : StreamRows<DType::kF8E4M3>;
  stream(w, o, num_outs, static_cast<const BF16*>(rows), num_rows, out);
}

template <int kRows>
HWY_INLINE void MultiplyTile(const BF16* rows, const BF16* weights, int64_t stride, bool begin_sums, float* sums) {
  __m512 acc[kRows][kTileOuts];
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kTileOuts; ++j) {
      acc[r][j] = begin_sums ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + (r * kTileOuts + j) * 16);
    }
  }
  for (int64_t i = 0; i < stride; i += kInputs) {
    __m512i x[kRows];
    HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) x[r] = Load(rows + r * stride + i);
    HWY_UNROLL(4) for (int j = 0; j < kTileOuts; ++j) {
      const __m512i w = Load(weights + j * stride + i);
      HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) acc[r][j] = DotStep(acc[r][j], x[r], w);
    }
  }
  HWY_UNROLL(4) for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4) for (int j = 0; j < kTileOuts; ++j) _mm512_storeu_ps(sums + (r * kTileOuts + j) * 16, acc[r][j]);
  }
}

void Multiply(const void* rows, int64_t num_rows, const void* weights, int64_t num_outs, int64_t num_steps,
              bool begin_sums, float* sums) {
  const int64_t stride = num_steps * kInputs;
  constexpr decltype(&MultiplyTile<1>) kTiles[] = {MultiplyTile<1>, MultiplyTile<2>, MultiplyTile<3>, MultiplyTile<4>};
  for (int64_t r = 0; r < num_rows; r += kTileRows) {
    const auto tile = kTiles[std::min(num_rows - r, kTileRows) - 1];
    for (int64_t o = 0; o < num_outs; o += kTileOuts, sums += kTileFloats) {
      tile(static_cast<const BF16*>(rows) + r * stride, static_cast<const BF16*>(weights) + o * stride, stride,
           begin_sums, sums);
    }
  }
}

void Finish(const float* sums, int64_t num_rows, int64_t num_outs, Output out) {
  for (int64_t row = 0; row < num_rows; row += kTileRows) {
    for (int64_t o = 0; o < num_outs; o += kTileOuts, sums += kTileFloats) {
      for (int64_t r = 0; r < std::min(num_rows - row, kTileRows); ++r) {
        for (int64_t j = 0; j < std::min(num_outs - o, kTileOuts); ++j) {
          StoreSum(out, row + r, o + j, SumLanes(_mm512_loadu_ps(sums + (r * kTileOuts + j) * 16)));
        }
      }
    }
  }
}

constexpr MatMulKernels kKernels = {kInputs, kTileRows, PackRow, PackWeights, StreamWeights, Multiply, Finish};

}  // namespace

const MatMulKernels* Avx512Bf16MatMulKernels() { return &kKernels; }

}  // namespace tokenferry
HWY_POP_ATTRIBUTES
#endif  // __x86_64__
