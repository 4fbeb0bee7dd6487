// How matmul_avx512bf16.cc reads weights, but for blocks of GGUF files: steps of 32 inputs, as bf16. Included there
// once, where its instructions are allowed.
#include <algorithm>

#include "core/formats/weight_format.h"
#include "core/kernels/matmul_values.h"

namespace tokenferry {
namespace {

constexpr int64_t kInputs = 32;  // of a step

HWY_INLINE __m512i Load(const void* p) { return _mm512_loadu_si512(p); }

HWY_INLINE __m512 DotStep(__m512 sum, __m512i x, __m512i w) { return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w); }

// Rounds 32 f32 to bf16.
HWY_INLINE __m512i RoundPair(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

HWY_INLINE __m512i RoundLoad(const float* p) { return RoundPair(_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16)); }

// As weight_reader-inl.h's, in steps of 32 inputs. For a format without a reader of its own below: its values, one at a
// time.
template <class Format>
class ReaderBase {
 public:
  // Inputs to a cache line, one step at least.
  static constexpr int64_t kLineInputs = std::max(kInputs, 64 * 8 / Format::kBits);

  ReaderBase() = default;
  ReaderBase(const WeightView& w, int64_t o)
      : w_(&w), o_(o), row_(static_cast<const uint8_t*>(w.data) + o * w.cols * Format::kBits / 8) {}

  static int64_t SegmentEnd(const WeightView&, int64_t /*begin*/, int64_t limit) { return limit; }
  HWY_INLINE bool Begin(int64_t /*begin*/, int64_t /*end*/) { return true; }

  __m512i LoadStep(int64_t i) const { return LoadSlowly(i, i + kInputs); }

  __m512i LoadSlowly(int64_t i, int64_t end) const {
    BF16 values[kInputs];
    for (int64_t l = 0; l < kInputs; ++l) {
      values[l] = i + l < end ? ToBF16(WeightValue<Format>(*w_, o_, i + l, Compute::kBF16)) : BF16{};
    }
    return Load(values);
  }

  HWY_INLINE void Prefetch(int64_t i, int64_t rows_ahead) const {
    __builtin_prefetch(row_ + (i + rows_ahead * w_->cols) * Format::kBits / 8, 0, 2);
  }

 protected:
  const WeightView* w_ = nullptr;
  int64_t o_ = 0;
  const uint8_t* row_ = nullptr;
};

template <class Format>
class Reader : public ReaderBase<Format> {
 public:
  using ReaderBase<Format>::ReaderBase;
};

template <>
class Reader<F32Weights> : public ReaderBase<F32Weights> {
 public:
  using ReaderBase::ReaderBase;
  HWY_INLINE __m512i LoadStep(int64_t i) const { return RoundLoad(reinterpret_cast<const float*>(row_) + i); }
};

template <>
class Reader<BF16Weights> : public ReaderBase<BF16Weights> {
 public:
  using ReaderBase::ReaderBase;
  HWY_INLINE __m512i LoadStep(int64_t i) const { return Load(row_ + i * 2); }
};

template <>
class Reader<F16Weights> : public ReaderBase<F16Weights> {
 public:
  using ReaderBase::ReaderBase;
  HWY_INLINE __m512i LoadStep(int64_t i) const {
    const __m512i halves = Load(row_ + i * 2);
    return RoundPair(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
                     _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)));
  }
};

// As weight_reader-inl.h's, with two runs of 16 inputs to a step.
template <>
class Reader<PlanarWeights> : public PlanarRow<kInputs> {
 public:
  using PlanarRow<kInputs>::PlanarRow;

  // i is a multiple of 32.
  HWY_INLINE __m512i LoadStep(int64_t i) const { return RoundPair(Values(i, 0), Values(i, 1)); }

  __m512i LoadSlowly(int64_t i, int64_t end) const {
    BF16 values[kInputs];
    for (int64_t l = 0; l < kInputs; ++l) {
      values[l] = i + l < end ? ToBF16(WeightValue<PlanarWeights>(*w_, o_, i + l, Compute::kBF16)) : BF16{};
    }
    return Load(values);
  }

 private:
  HWY_INLINE __m512 Values(int64_t i, int64_t run) const {
    const __m512 number = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(Numbers(row_ + (i + run * kRun) * bits_ / 8)));
    return _mm512_mul_ps(_mm512_sub_ps(number, _mm512_set1_ps(zero_[run])), _mm512_set1_ps(scale_[run]));
  }

  HWY_INLINE __m128i Numbers(const uint8_t* p) const {
    if (bits_ == 8) {
      return _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)),
                           _mm_set1_epi8(static_cast<char>(flip_)));
    }
    const __m128i codes = bits_ == 4 ? Nibbles(p) : Quarters(p);
    return table_ != nullptr ? _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table_)), codes)
                             : codes;
  }

  HWY_INLINE static __m128i Nibbles(const uint8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), mask = _mm_set1_epi8(0x0F);
    return _mm_unpacklo_epi8(_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
  }

  HWY_INLINE static __m128i Quarters(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si32(p), mask = _mm_set1_epi8(3);
    const auto quarter = [&](int shift) { return _mm_and_si128(_mm_srl_epi16(bytes, _mm_cvtsi32_si128(shift)), mask); };
    return _mm_unpacklo_epi16(_mm_unpacklo_epi8(quarter(0), quarter(2)), _mm_unpacklo_epi8(quarter(4), quarter(6)));
  }
};

template <>
class Reader<F8BlockWeights> : public ReaderBase<F8BlockWeights> {
 public:
  using ReaderBase::ReaderBase;

  static int64_t SegmentEnd(const WeightView& w, int64_t begin, int64_t limit) {
    const int32_t block = w.format.block_cols;
    return block % kInputs != 0 ? limit : std::min(limit, (begin / block + 1) * block);
  }

  HWY_INLINE bool Begin(int64_t begin, int64_t end) {
    scale_ = F8BlockWeights::Scale(*w_, o_, begin) * 256.0f;
    return w_->format.block_cols % kInputs == 0 && scale_ < 0x1p127f && scale_ > -0x1p127f && !HasNaN(begin, end);
  }

  HWY_INLINE __m512i LoadStep(int64_t i) const {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row_ + i));
    const __m512i half = _mm512_and_si512(_mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 7),
                                          _mm512_set1_epi16(static_cast<int16_t>(0xBFFF)));
    const __m512 scale = _mm512_set1_ps(scale_);
    return RoundPair(_mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(half)), scale),
                     _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1)), scale));
  }

 private:
  bool HasNaN(int64_t begin, int64_t end) const {
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
    __m512i largest = _mm512_setzero_si512();
    int64_t i = begin;
    for (; i + 64 <= end; i += 64) largest = _mm512_max_epu8(largest, _mm512_or_si512(Load(row_ + i), sign));
    bool nan = _mm512_cmpeq_epi8_mask(largest, _mm512_set1_epi8(-1)) != 0;
    for (; i < end; ++i) nan |= (row_[i] & 0x7F) == 0x7F;
    return nan;
  }

  float scale_ = 1.0f;
};

}  // namespace
}  // namespace tokenferry
