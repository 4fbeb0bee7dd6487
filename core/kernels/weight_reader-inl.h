// Reads weight rows in vectors of 16 inputs, widened to f32. Per-target include: see core/kernels/simd_targets.h.
#if defined(TOKENFERRY_CORE_KERNELS_WEIGHT_READER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENFERRY_CORE_KERNELS_WEIGHT_READER_INL_H_
#undef TOKENFERRY_CORE_KERNELS_WEIGHT_READER_INL_H_
#else
#define TOKENFERRY_CORE_KERNELS_WEIGHT_READER_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "core/formats/weight_format.h"
#include "core/kernels/block_lanes-inl.h"
#include "core/kernels/lanes-inl.h"
#include "core/kernels/matmul_values.h"
#include "core/kernels/planar_row.h"

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {

HWY_INLINE Lanes LoadBF16Lanes(const BF16* p) {
  const hn::RebindToUnsigned<F32Tag> du;
  const hn::Rebind<uint16_t, F32Tag> d16;
  Lanes r;
  for (int v = 0; v < kVecs; ++v) {
    const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p + v * kVecLanes));
    r.v[v] = hn::BitCast(F32Tag(), hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
  }
  return r;
}

// ToFloat(ToBF16(x)) of what is not NaN.
HWY_INLINE F32Vec RoundNumbersToBF16(F32Vec x) {
  const hn::RebindToUnsigned<F32Tag> du;
  const auto bits = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu)));
  return hn::BitCast(F32Tag(), hn::And(rounded, hn::Set(du, 0xFFFF0000u)));
}

// ToFloat(ToBF16(x)).
HWY_INLINE Lanes RoundLanesToBF16(const Lanes& x) {
  const F32Tag d;
  const hn::RebindToUnsigned<F32Tag> du;
  Lanes r;
  for (int v = 0; v < kVecs; ++v) {
    const auto quiet = hn::And(hn::BitCast(du, x.v[v]), hn::Set(du, 0xFFFF0000u));
    const auto nan = hn::BitCast(d, hn::Or(quiet, hn::Set(du, 0x00400000u)));
    r.v[v] = hn::IfThenElse(hn::IsNaN(x.v[v]), nan, RoundNumbersToBF16(x.v[v]));
  }
  return r;
}

// q * 2^-8 of 16 E4M3 codes that are not NaN: with its exponent field moved to that of fp16, a code is that number,
// subnormals included.
HWY_INLINE Lanes LoadF8Lanes(const uint8_t* p) {
  const hn::Rebind<int8_t, F32Tag> d8;
  const hn::Rebind<int16_t, F32Tag> d16;
  const hn::Rebind<hwy::float16_t, F32Tag> df16;
  Lanes r;
  for (int v = 0; v < kVecs; ++v) {
    const auto codes = hn::PromoteTo(d16, hn::LoadU(d8, reinterpret_cast<const int8_t*>(p + v * kVecLanes)));
    const auto half = hn::And(hn::ShiftLeft<7>(codes), hn::Set(d16, static_cast<int16_t>(0xBFFF)));
    r.v[v] = hn::PromoteTo(F32Tag(), hn::BitCast(df16, half));
  }
  return r;
}

// Row `o` of a weight matrix of one of core/formats/weight_format.h's formats. A row is read in segments: up to
// SegmentEnd, after Begin, with Load where Begin says so. This is what the readers of all formats share.
template <class Format, Compute kCompute>
class WeightReaderBase {
 public:
  static constexpr int64_t kLineInputs = 64 * 8 / Format::kBits;

  WeightReaderBase() = default;
  WeightReaderBase(const WeightView& w, int64_t o)
      : w_(&w), o_(o), row_(static_cast<const uint8_t*>(w.data) + o * w.cols * Format::kBits / 8) {}

  // A segment is what one Begin can prepare for; without scales, all.
  static int64_t SegmentEnd(const WeightView&, int64_t /*begin*/, int64_t limit) { return limit; }

  // Whether Load works for [begin, end).
  HWY_INLINE bool Begin(int64_t /*begin*/, int64_t /*end*/) { return true; }

  // Load, the next 16 inputs, for anything, padded beyond `end`. Never inlined: it is the rare case of every loop.
  HWY_NOINLINE Lanes LoadSlowly(int64_t i, int64_t end) const {
    float values[kNumLanes];
    for (int l = 0; l < kNumLanes; ++l) {
      values[l] = i + l < end ? WeightValue<Format>(*w_, o_, i + l, kCompute) : kPadWeight;
    }
    return LoadLanes(values);
  }

  // Asks for what the row `rows_ahead` below holds here.
  HWY_INLINE void Prefetch(int64_t i, int64_t rows_ahead) const {
    __builtin_prefetch(row_ + (i + rows_ahead * w_->cols) * Format::kBits / 8, 0, 2);
  }

 protected:
  HWY_INLINE static Lanes Rounded(const Lanes& x) { return kCompute == Compute::kBF16 ? RoundLanesToBF16(x) : x; }

  const WeightView* w_ = nullptr;
  int64_t o_ = 0;
  const uint8_t* row_ = nullptr;
};

template <class Format, Compute kCompute>
class WeightReader;

template <Compute kCompute>
class WeightReader<F32Weights, kCompute> : public WeightReaderBase<F32Weights, kCompute> {
 public:
  using WeightReaderBase<F32Weights, kCompute>::WeightReaderBase;
  HWY_INLINE Lanes Load(int64_t i) const {
    return this->Rounded(LoadLanes(reinterpret_cast<const float*>(this->row_) + i));
  }
};

template <Compute kCompute>
class WeightReader<BF16Weights, kCompute> : public WeightReaderBase<BF16Weights, kCompute> {
 public:
  using WeightReaderBase<BF16Weights, kCompute>::WeightReaderBase;
  HWY_INLINE Lanes Load(int64_t i) const { return LoadBF16Lanes(reinterpret_cast<const BF16*>(this->row_) + i); }
};

template <Compute kCompute>
class WeightReader<F8BlockWeights, kCompute> : public WeightReaderBase<F8BlockWeights, kCompute> {
 public:
  using WeightReaderBase<F8BlockWeights, kCompute>::WeightReaderBase;

  // A segment has one scale, unless steps of 16 inputs cross from scale to scale.
  static int64_t SegmentEnd(const WeightView& w, int64_t begin, int64_t limit) {
    const int32_t block = w.format.block_cols;
    return block % kNumLanes != 0 ? limit : std::min(limit, (begin / block + 1) * block);
  }

  HWY_INLINE bool Begin(int64_t begin, int64_t end) {
    // Load multiplies q * 2^-8 by scale * 2^8: one rounding, as long as that is exact.
    scale_ = F8BlockWeights::Scale(*this->w_, this->o_, begin) * 256.0f;
    return this->w_->format.block_cols % kNumLanes == 0 && scale_ < 0x1p127f && scale_ > -0x1p127f &&
           !HasNaN(begin, end);
  }

  HWY_INLINE Lanes Load(int64_t i) const {
    Lanes r = LoadF8Lanes(this->row_ + i);
    for (int v = 0; v < kVecs; ++v) {
      r.v[v] = hn::Mul(r.v[v], hn::Set(F32Tag(), scale_));  // no NaN: Begin has looked
      if (kCompute == Compute::kBF16) r.v[v] = RoundNumbersToBF16(r.v[v]);
    }
    return r;
  }

 private:
  bool HasNaN(int64_t begin, int64_t end) const {
    const hn::CappedTag<uint8_t, 64> d;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    auto largest = hn::Zero(d);
    const auto sign = hn::Set(d, 0x80);
    int64_t i = begin;
    for (; i + lanes <= end; i += lanes) largest = hn::Max(largest, hn::Or(hn::LoadU(d, this->row_ + i), sign));
    bool nan = !hn::AllFalse(d, hn::Eq(largest, hn::Set(d, 0xFF)));
    for (; i < end; ++i) nan |= (this->row_[i] & 0x7F) == 0x7F;
    return nan;
  }

  float scale_ = 1.0f;
};

template <Compute kCompute>
class WeightReader<F16Weights, kCompute> : public WeightReaderBase<F16Weights, kCompute> {
 public:
  using WeightReaderBase<F16Weights, kCompute>::WeightReaderBase;
  HWY_INLINE Lanes Load(int64_t i) const {
    const hn::Rebind<hwy::float16_t, F32Tag> df16;
    const auto* p = reinterpret_cast<const hwy::float16_t*>(this->row_) + i;
    Lanes r;
    for (int v = 0; v < kVecs; ++v) r.v[v] = hn::PromoteTo(F32Tag(), hn::LoadU(df16, p + v * kVecLanes));
    return this->Rounded(r);
  }
};

// Integer codes in groups.
template <Compute kCompute>
class WeightReader<PlanarWeights, kCompute> : public PlanarRow<kNumLanes> {
 public:
  using PlanarRow<kNumLanes>::PlanarRow;

  // Inputs i .. i + 15; i is a multiple of 16.
  HWY_INLINE Lanes Load(int64_t i) const {
    HWY_ALIGN int8_t numbers[kNumLanes];
    hn::Store(Numbers(i), hn::FixedTag<int8_t, kNumLanes>(), numbers);
    const hn::Rebind<int8_t, F32Tag> d8;
    const hn::Rebind<int32_t, F32Tag> d32;
    Lanes r;
    for (int v = 0; v < kVecs; ++v) {
      const auto wide = hn::PromoteTo(d32, hn::LoadU(d8, numbers + v * kVecLanes));
      const auto number = hn::Sub(hn::ConvertTo(F32Tag(), wide), hn::Set(F32Tag(), zero_[0]));
      r.v[v] = hn::Mul(number, hn::Set(F32Tag(), scale_[0]));
    }
    return kCompute == Compute::kBF16 ? RoundLanesToBF16(r) : r;
  }

  HWY_NOINLINE Lanes LoadSlowly(int64_t i, int64_t end) const {
    float values[kNumLanes];
    for (int l = 0; l < kNumLanes; ++l) {
      values[l] = i + l < end ? WeightValue<PlanarWeights>(*w_, o_, i + l, kCompute) : kPadWeight;
    }
    return LoadLanes(values);
  }

 private:
  using BytesTag = hn::FixedTag<uint8_t, 16>;

  HWY_INLINE hn::Vec<hn::FixedTag<int8_t, 16>> Numbers(int64_t i) const {
    const BytesTag d;
    const hn::FixedTag<int8_t, 16> di;
    const uint8_t* p = row_ + i * bits_ / 8;
    if (bits_ == 8) return hn::BitCast(di, hn::Xor(hn::LoadU(d, p), hn::Set(d, static_cast<uint8_t>(flip_))));
    const auto codes = bits_ == 4 ? Nibbles(p) : Quarters(p);
    return table_ != nullptr ? hn::TableLookupBytes(hn::LoadU(di, table_), hn::BitCast(di, codes))
                             : hn::BitCast(di, codes);
  }

  // 16 codes of four bits, the first in the low half of the first byte.
  HWY_INLINE static hn::Vec<BytesTag> Nibbles(const uint8_t* p) {
    const BytesTag d;
    const auto bytes = hn::ZeroExtendVector(d, hn::LoadU(hn::FixedTag<uint8_t, 8>(), p));
    return hn::InterleaveLower(d, hn::And(bytes, hn::Set(d, 0x0F)), hn::ShiftRight<4>(bytes));
  }

  // 16 codes of two bits, the first in the lowest of the first byte.
  HWY_INLINE static hn::Vec<BytesTag> Quarters(const uint8_t* p) {
    const BytesTag d;
    const hn::FixedTag<uint16_t, 8> d16;
    uint32_t word;
    std::memcpy(&word, p, sizeof(word));
    const auto bytes = hn::BitCast(d, hn::Set(hn::FixedTag<uint32_t, 4>(), word)), mask = hn::Set(d, 3);
    const auto even = hn::InterleaveLower(d, hn::And(bytes, mask), hn::And(hn::ShiftRight<2>(bytes), mask));
    const auto odd = hn::InterleaveLower(d, hn::And(hn::ShiftRight<4>(bytes), mask), hn::ShiftRight<6>(bytes));
    return hn::BitCast(d, hn::InterleaveLower(d16, hn::BitCast(d16, even), hn::BitCast(d16, odd)));
  }
};

// Blocks of GGUF files. A segment is what Begin widens at once.
template <Compute kCompute>
class WeightReader<BlockWeights, kCompute> {
 public:
  WeightReader(const WeightView& w, int64_t o)
      : w_(&w), o_(o), row_(static_cast<const uint8_t*>(w.data) + o * w.row_bytes()), size_(BlockOf(w.dtype())) {}

  static int64_t SegmentEnd(const WeightView&, int64_t begin, int64_t limit) {
    return std::min(limit, (begin / kSegment + 1) * kSegment);
  }

  HWY_INLINE bool Begin(int64_t begin, int64_t end) {
    if (begin % kNumLanes != 0) return false;
    const int64_t first = begin / size_.elements, last = (end + size_.elements - 1) / size_.elements;
    first_ = first * size_.elements;
    WidenBlocks(w_->dtype(), row_ + first * size_.bytes, size_, last - first, values_);
    return true;
  }

  // Inputs i .. i + 15; i is a multiple of 16.
  HWY_INLINE Lanes Load(int64_t i) const {
    const Lanes r = LoadLanes(values_ + (i - first_));
    return kCompute == Compute::kBF16 ? RoundLanesToBF16(r) : r;
  }

  HWY_NOINLINE Lanes LoadSlowly(int64_t i, int64_t end) const {
    float values[kNumLanes];
    for (int l = 0; l < kNumLanes; ++l) {
      values[l] = i + l < end ? WeightValue<BlockWeights>(*w_, o_, i + l, kCompute) : kPadWeight;
    }
    return LoadLanes(values);
  }

 private:
  static constexpr int64_t kSegment = 256;  // the largest block, and a multiple of the others

  const WeightView* w_;
  int64_t o_;
  const uint8_t* row_;
  DTypeBlock size_;
  int64_t first_ = 0;  // of values_
  alignas(64) float values_[kSegment];
};

// Calls F<Reader>::Run(w, args...) for the reader of w's format.
template <template <class> class F, Compute kCompute, class Formats = WeightFormats, class... Args>
HWY_INLINE void WithWeightReader(const WeightView& w, Args... args) {
  VisitWeightFormat<Formats>(w.format, [&](auto format) HWY_ATTR {
    using Format = decltype(format);
    // Rounding bf16 numbers changes nothing: one kernel serves both.
    F<WeightReader<Format, Format::kIsBF16 ? Compute::kF32 : kCompute>>::Run(w, args...);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET
#endif  // include guard
