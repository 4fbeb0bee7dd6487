#include "runtime/ops/row_kernels.h"

#include <algorithm>

#include "core/kernels/exp.h"
#include "core/kernels/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/ops/row_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

// Behind foreach_target.h: once per target.
#include "core/kernels/weight_reader-inl.h"
#include "runtime/ops/row_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tokenferry {
#if TF_SIMD_TARGET
namespace HWY_NAMESPACE {
namespace {

// Register tiles: 16 accumulators of 16 lanes fit where there are 32 registers of 512 bits; 4 of 2 registers elsewhere.
constexpr bool kManyRegisters = HWY_TARGET == HWY_AVX3;
constexpr int kDotRows = kManyRegisters ? 4 : 2, kDotCols = kManyRegisters ? 4 : 2;
constexpr int kSumRows = 4, kSumParts = kManyRegisters ? 4 : 1;

template <int kRows, int kCols>
HWY_INLINE void DotTile(const float* HWY_RESTRICT x, int64_t x_stride, const float* HWY_RESTRICT w, int64_t w_stride,
                        int64_t cols, float* HWY_RESTRICT out, int64_t out_stride) {
  Lanes sum[kRows][kCols];
  for (int a = 0; a < kRows; ++a) {
    for (int b = 0; b < kCols; ++b) sum[a][b] = ZeroLanes();
  }
  int64_t i = 0;
  for (; i + kNumLanes <= cols; i += kNumLanes) {
    Lanes right[kCols];
    for (int b = 0; b < kCols; ++b) right[b] = LoadLanes(w + b * w_stride + i);
    for (int a = 0; a < kRows; ++a) {
      const Lanes left = LoadLanes(x + a * x_stride + i);
      for (int b = 0; b < kCols; ++b) sum[a][b] = FmaLanes(left, right[b], sum[a][b]);
    }
  }
  const int64_t rest = cols - i;
  for (int a = 0; a < kRows; ++a) {
    for (int b = 0; b < kCols; ++b) {
      if (rest > 0) {
        sum[a][b] =
            FmaFirst(rest, LoadFirst(rest, x + a * x_stride + i), LoadFirst(rest, w + b * w_stride + i), sum[a][b]);
      }
      out[a * out_stride + b] = SumLanes(sum[a][b]);
    }
  }
}

template <int kRows>
HWY_INLINE void DotRowTile(const float* x, int64_t x_stride, Rows w, int64_t cols, float* out, int64_t out_stride) {
  int64_t b = 0;
  for (; b + kDotCols <= w.num_rows; b += kDotCols) {
    DotTile<kRows, kDotCols>(x, x_stride, w.data + b * w.stride, w.stride, cols, out + b, out_stride);
  }
  for (; b < w.num_rows; ++b) {
    DotTile<kRows, 1>(x, x_stride, w.data + b * w.stride, w.stride, cols, out + b, out_stride);
  }
}

void Dot(Rows x, Rows w, int64_t cols, float* out, int64_t out_stride) {
  int64_t a = 0;
  for (; a + kDotRows <= x.num_rows; a += kDotRows) {
    DotRowTile<kDotRows>(x.data + a * x.stride, x.stride, w, cols, out + a * out_stride, out_stride);
  }
  for (; a < x.num_rows; ++a) DotRowTile<1>(x.data + a * x.stride, x.stride, w, cols, out + a * out_stride, out_stride);
}

// kRows rows of the sum over kParts * kNumLanes columns; with kParts == 1 only the first `count` columns.
template <int kRows, int kParts>
HWY_INLINE void SumTile(const float* HWY_RESTRICT p, int64_t p_stride, const float* HWY_RESTRICT c, int64_t num_keys,
                        int64_t c_stride, int64_t count, const float* HWY_RESTRICT rescale, float* HWY_RESTRICT acc,
                        int64_t acc_stride) {
  const bool whole = kParts > 1 || count == kNumLanes;
  Lanes sum[kRows][kParts];
  for (int a = 0; a < kRows; ++a) {
    for (int k = 0; k < kParts; ++k) {
      const float* from = acc + a * acc_stride + k * kNumLanes;
      sum[a][k] = whole ? LoadLanes(from) : LoadFirst(count, from);
      if (rescale != nullptr) sum[a][k] = MulLanes(sum[a][k], SetLanes(rescale[a]));
    }
  }
  for (int64_t j = 0; j < num_keys; ++j) {
    Lanes right[kParts];
    for (int k = 0; k < kParts; ++k) {
      const float* from = c + j * c_stride + k * kNumLanes;
      right[k] = whole ? LoadLanes(from) : LoadFirst(count, from);
    }
    for (int a = 0; a < kRows; ++a) {
      const Lanes weight = SetLanes(p[a * p_stride + j]);
      for (int k = 0; k < kParts; ++k) sum[a][k] = FmaLanes(weight, right[k], sum[a][k]);
    }
  }
  for (int a = 0; a < kRows; ++a) {
    for (int k = 0; k < kParts; ++k) {
      float* to = acc + a * acc_stride + k * kNumLanes;
      whole ? StoreLanes(sum[a][k], to) : StoreFirst(count, sum[a][k], to);
    }
  }
}

template <int kRows>
HWY_INLINE void SumRowTile(const float* p, int64_t p_stride, Rows c, int64_t cols, const float* rescale, float* acc,
                           int64_t acc_stride) {
  int64_t i = 0;
  for (; i + kSumParts * kNumLanes <= cols; i += kSumParts * kNumLanes) {
    SumTile<kRows, kSumParts>(p, p_stride, c.data + i, c.num_rows, c.stride, kNumLanes, rescale, acc + i, acc_stride);
  }
  for (; i < cols; i += kNumLanes) {
    const int64_t count = std::min<int64_t>(kNumLanes, cols - i);
    SumTile<kRows, 1>(p, p_stride, c.data + i, c.num_rows, c.stride, count, rescale, acc + i, acc_stride);
  }
}

void WeightedSum(Rows p, Rows c, int64_t cols, const float* rescale, float* acc, int64_t acc_stride) {
  int64_t a = 0;
  for (; a + kSumRows <= p.num_rows; a += kSumRows) {
    SumRowTile<kSumRows>(p.data + a * p.stride, p.stride, c, cols, rescale == nullptr ? nullptr : rescale + a,
                         acc + a * acc_stride, acc_stride);
  }
  for (; a < p.num_rows; ++a) {
    SumRowTile<1>(p.data + a * p.stride, p.stride, c, cols, rescale == nullptr ? nullptr : rescale + a,
                  acc + a * acc_stride, acc_stride);
  }
}

float SoftmaxBlock(float* scores, int64_t size, float scale, float* max, float* rescale) {
  const float old_max = *max;
  const Lanes factor = SetLanes(scale);
  Lanes top = SetLanes(old_max);
  for (int64_t j = 0; j < size; j += kNumLanes) {
    const int64_t count = std::min<int64_t>(kNumLanes, size - j);
    const Lanes scaled = MulLanes(LoadFirst(count, scores + j), factor);
    StoreFirst(count, scaled, scores + j);
    top = MaxFirst(count, scaled, top);
  }
  *max = MaxOfLanes(top);
  *rescale = tokenferry::ExpF32(old_max - *max);
  Lanes sum = ZeroLanes();
  for (int64_t j = 0; j < size; j += kNumLanes) {
    const int64_t count = std::min<int64_t>(kNumLanes, size - j);
    const Lanes weight = ExpLanes(LoadFirst(count, scores + j), *max);
    StoreFirst(count, weight, scores + j);
    sum = AddFirst(count, weight, sum);
  }
  return SumLanes(sum);
}

template <class Reader>
struct WidenPanel {
  static void Run(const WeightView& w, const Panel& panel, float* out) {
    for (int64_t r = 0; r < panel.num_rows; ++r, out += panel.num_cols) {
      Row(w, panel.row + r, panel.col, panel.col + panel.num_cols, out);
    }
  }

  static HWY_INLINE void Row(const WeightView& w, int64_t row, int64_t begin, int64_t end, float* out) {
    Reader reader(w, row);
    for (int64_t i = begin; i < end;) {
      const int64_t segment_end = reader.SegmentEnd(w, i, end);
      const bool fast = reader.Begin(i, segment_end);
      for (; i + kNumLanes <= segment_end; i += kNumLanes, out += kNumLanes) {
        StoreLanes(fast ? reader.Load(i) : reader.LoadSlowly(i, segment_end), out);
      }
      if (i == segment_end) continue;
      StoreFirst(segment_end - i, reader.LoadSlowly(i, segment_end), out);
      out += segment_end - i;
      i = segment_end;
    }
  }
};

void Widen(const WeightView& w, Panel panel, Compute compute, float* out) {
  compute == Compute::kBF16 ? WithWeightReader<WidenPanel, Compute::kBF16>(w, panel, out)
                            : WithWeightReader<WidenPanel, Compute::kF32>(w, panel, out);
}

void Sigmoid(const float* x, int64_t size, float* out) {
  const Lanes one = SetLanes(1.0f);
  for (int64_t i = 0; i < size; i += kNumLanes) {
    const int64_t count = std::min<int64_t>(kNumLanes, size - i);
    Lanes gate = LoadFirst(count, x + i);
    for (int v = 0; v < kVecs; ++v) {
      gate.v[v] = hn::Div(one.v[v], hn::Add(one.v[v], ExpF32(F32Tag(), hn::Neg(gate.v[v]))));
    }
    StoreFirst(count, gate, out + i);
  }
}

// kParts * kNumLanes columns of the state; with kParts == 1 only the first `count` of them.
template <int kParts>
HWY_INLINE void DeltaColumns(const DeltaStep& s, int64_t column, int64_t count) {
  const bool whole = kParts > 1 || count == kNumLanes;
  const Lanes decay = SetLanes(s.decay), beta = SetLanes(s.beta);
  float* const state = s.state + column;
  const auto load = [&](const float* from) { return whole ? LoadLanes(from) : LoadFirst(count, from); };
  Lanes delta[kParts], out[kParts];
  for (int p = 0; p < kParts; ++p) delta[p] = out[p] = ZeroLanes();
  for (int64_t i = 0; i < s.key_dim; ++i) {
    const Lanes k = SetLanes(s.k[i]);
    for (int p = 0; p < kParts; ++p) {
      delta[p] = FmaLanes(k, MulLanes(decay, load(state + i * s.value_dim + p * kNumLanes)), delta[p]);
    }
  }
  for (int p = 0; p < kParts; ++p) {
    const Lanes v = load(s.v + column + p * kNumLanes);
    for (int n = 0; n < kVecs; ++n) delta[p].v[n] = hn::Mul(beta.v[n], hn::Sub(v.v[n], delta[p].v[n]));
  }
  for (int64_t i = 0; i < s.key_dim; ++i) {
    const Lanes k = SetLanes(s.k[i]), q = SetLanes(s.q[i]);
    for (int p = 0; p < kParts; ++p) {
      float* const at = state + i * s.value_dim + p * kNumLanes;
      const Lanes next = FmaLanes(k, delta[p], MulLanes(decay, load(at)));
      whole ? StoreLanes(next, at) : StoreFirst(count, next, at);
      out[p] = FmaLanes(q, next, out[p]);
    }
  }
  for (int p = 0; p < kParts; ++p) {
    float* const to = s.out + column + p * kNumLanes;
    whole ? StoreLanes(out[p], to) : StoreFirst(count, out[p], to);
  }
}

void StepDelta(const DeltaStep& s) {
  int64_t column = 0;
  for (; column + kSumParts * kNumLanes <= s.value_dim; column += kSumParts * kNumLanes) {
    DeltaColumns<kSumParts>(s, column, kNumLanes);
  }
  for (; column < s.value_dim; column += kNumLanes) {
    DeltaColumns<1>(s, column, std::min<int64_t>(kNumLanes, s.value_dim - column));
  }
}

ValueRange Range(const float* x, int64_t size) {
  const F32Tag d;
  Lanes low = ZeroLanes(), high = ZeroLanes(), nothing = ZeroLanes();
  for (int64_t i = 0; i < size; i += kNumLanes) {
    const Lanes values = size - i >= kNumLanes ? LoadLanes(x + i) : LoadFirst(size - i, x + i);
    for (int v = 0; v < kVecs; ++v) {
      low.v[v] = hn::Min(values.v[v], low.v[v]);
      high.v[v] = hn::Max(values.v[v], high.v[v]);
      nothing.v[v] = hn::Add(nothing.v[v], hn::Sub(values.v[v], values.v[v]));  // NaN, where it is not finite
    }
  }
  ValueRange range{.high = MaxOfLanes(high)};
  for (int v = 0; v < kVecs; ++v) {
    range.low = std::min(range.low, hn::GetLane(hn::MinOfLanes(d, low.v[v])));
    range.is_finite &= hn::AllTrue(d, hn::Eq(nothing.v[v], nothing.v[v]));
  }
  return range;
}

// Bytes of `size` numbers: `round` makes those of a vector, each in an int32_t.
template <class Round>
HWY_INLINE void RoundToBytes(const float* x, int64_t size, const Round& round, uint8_t* out) {
  const hn::Rebind<uint8_t, F32Tag> bytes;
  for (int64_t i = 0; i < size; i += kNumLanes) {
    const int64_t count = std::min<int64_t>(kNumLanes, size - i);
    const Lanes values = count == kNumLanes ? LoadLanes(x + i) : LoadFirst(count, x + i);
    uint8_t rest[kNumLanes];
    uint8_t* to = count == kNumLanes ? out + i : rest;
    for (int v = 0; v < kVecs; ++v) hn::StoreU(hn::DemoteTo(bytes, round(values.v[v])), bytes, to + v * kVecLanes);
    if (to == rest) std::copy_n(rest, count, out + i);
  }
}

// Below 2^-6 E4M3 is in steps of 2^-9, as f32 is from 2^14 on.
void RoundToF8(const float* x, int64_t size, float scale, F8E4M3* out) {
  const F32Tag d;
  const hn::RebindToSigned<F32Tag> ints;
  const auto round = [&](F32Vec values) HWY_ATTR {
    const auto quotient = hn::Div(values, hn::Set(d, scale)), magnitude = hn::Abs(quotient);
    const auto bits = hn::BitCast(ints, magnitude);
    const auto top = hn::Set(d, 0x1p14f);
    const auto even = hn::And(hn::ShiftRight<20>(bits), hn::Set(ints, 1));
    const auto up = hn::Add(bits, hn::Add(even, hn::Set(ints, 0x7FFFF)));
    const auto normal = hn::Sub(hn::ShiftRight<20>(up), hn::Set(ints, (127 - 7) << 3));
    const auto small = hn::Sub(hn::BitCast(ints, hn::Add(magnitude, top)), hn::BitCast(ints, top));
    const auto is_small = hn::Lt(bits, hn::BitCast(ints, hn::Set(d, 0x1p-6f)));
    const auto code = hn::Min(hn::IfThenElse(is_small, small, normal), hn::Set(ints, 0x7E));
    const auto sign = hn::And(hn::ShiftRight<24>(hn::BitCast(ints, quotient)), hn::Set(ints, 0x80));
    return hn::Or(code, sign);
  };
  RoundToBytes(x, size, round, reinterpret_cast<uint8_t*>(out));
}

void RoundToCodes(const float* x, int64_t size, const CodeRounding& r, uint8_t* codes) {
  const hn::RebindToSigned<F32Tag> ints;
  const auto scale = hn::Set(F32Tag(), r.scale);
  const auto zero = hn::Set(ints, r.zero), least = hn::Set(ints, r.least), most = hn::Set(ints, r.most);
  const auto round = [&](F32Vec values) HWY_ATTR {
    const auto code = hn::Add(hn::NearestInt(hn::Div(values, scale)), zero);
    return hn::And(hn::Min(hn::Max(code, least), most), hn::Set(ints, 0xFF));
  };
  RoundToBytes(x, size, round, codes);
}

}  // namespace

const RowKernels& Kernels() {
  static constexpr RowKernels kKernels{&Dot,       &WeightedSum, &SoftmaxBlock, &Widen,       &Sigmoid,
                                       &StepDelta, &Range,       &RoundToF8,    &RoundToCodes};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
#endif
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tokenferry {

const RowKernels& RowKernelsFor(Isa isa) { return TF_SIMD_CHOOSE(isa, Kernels(), PortableRowKernels()); }

}  // namespace tokenferry
#endif
