#include "comm/ops/exchange_ops.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "core/kernels/simd_targets.h"

#ifndef TOKENFERRY_COMM_EXCHANGE_OPS_ONCE
#define TOKENFERRY_COMM_EXCHANGE_OPS_ONCE
namespace tokenferry {
namespace {

enum class Caching : uint8_t { kKeep, kPast };  // whether results are to stay in the caches

// The meaning.
inline void CombineElement(const CombineRowsArgs& a, int64_t t, int64_t c) {
  float sum = 0.0f;
  for (int64_t i = a.offsets[t]; i < a.offsets[t + 1]; ++i) {
    const int64_t row = a.selection[i];
    const float x = a.rows.dtype == DType::kBF16 ? ToFloat(a.rows.as<const BF16>().row(row)[c])
                                                 : a.rows.as<const float>().row(row)[c];
    sum = std::fma(a.weight.row(t)[a.k[i]], x, sum);
  }
  if (a.out.dtype == DType::kBF16) {
    a.out.as<BF16>().row(t)[c] = ToBF16(sum);
  } else {
    a.out.as<float>().row(t)[c] = sum;
  }
}

}  // namespace
}  // namespace tokenferry
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "comm/ops/exchange_ops.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tokenferry {
#if TF_SIMD_TARGET
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, 16>;
using Vec = hn::Vec<Tag>;
using BitsTag = hn::RebindToUnsigned<Tag>;
constexpr int kLanes = HWY_MAX_BYTES >= 64 ? 16 : HWY_MAX_BYTES / 4;
// Sums of a block of columns stay in registers. Each row's part of a block is one run of 256 bytes (bf16, AVX-512):
// long enough for the memory to stream, and all of a token's rows stream side by side.
constexpr int kVecs = 8;
// How far ahead of the sums rows are asked for, into the second cache: the hardware neither sees a row's beginning
// coming nor looks past a page. Behind a row's end its place is taken by the next token's row.
constexpr int64_t kBytesAhead = 2048;

HWY_INLINE Vec Load(const float* p) { return hn::LoadU(Tag(), p); }
HWY_INLINE Vec Load(const BF16* p) {
  const hn::Rebind<uint16_t, Tag> narrow;
  const auto bits = hn::PromoteTo(BitsTag(), hn::LoadU(narrow, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(Tag(), hn::ShiftLeft<16>(bits));
}

// ToBF16 of every lane.
HWY_INLINE void Store(Vec x, BF16* p) {
  const BitsTag d;
  const auto bits = hn::BitCast(d, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(d, 0x7FFF)), odd));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(d, 0x40));
  const auto is_nan = hn::RebindMask(d, hn::IsNaN(x));
  const hn::Rebind<uint16_t, Tag> narrow;
  hn::StoreU(hn::DemoteTo(narrow, hn::BitCast(hn::RebindToSigned<Tag>(), hn::IfThenElse(is_nan, quiet, rounded))),
             narrow, reinterpret_cast<uint16_t*>(p));
}
HWY_INLINE void Store(Vec x, float* p) { hn::StoreU(x, Tag(), p); }
// Past the caches: the line is not read first. `p` is aligned.
HWY_INLINE void StorePast(Vec x, float* p) { hn::Stream(x, Tag(), p); }
HWY_INLINE void StorePast(Vec x, BF16* p) { Store(x, p); }

// What to ask for while a token's i-th row is read: `column` of the row of selection i + `skip`.
struct Ahead {
  int64_t skip = 0, column = 0;
};
template <class In>
HWY_INLINE Ahead AheadOf(const CombineRowsArgs& a, int64_t t, int64_t column, int64_t num_columns) {
  const int64_t ahead = column + std::min<int64_t>(kBytesAhead / sizeof(In), a.out.cols);
  if (ahead + num_columns <= a.out.cols) return {0, ahead};
  return {a.offsets[t + 1] - a.offsets[t], std::max<int64_t>(0, ahead - a.out.cols)};
}

template <class In, class Out, int kNum, bool kPast>
HWY_INLINE void CombineBlock(const CombineRowsArgs& a, int64_t t, int64_t column) {
  Vec sum[kNum];
  for (int v = 0; v < kNum; ++v) sum[v] = hn::Zero(Tag());
  const float* weights = a.weight.row(t);
  const auto* rows = static_cast<const In*>(a.rows.data);  // null when nobody has a selection
  const Ahead ahead = AheadOf<In>(a, t, column, kNum * kLanes);
  const int64_t last = a.offsets[a.out.rows] - 1;
  for (int64_t i = a.offsets[t]; i < a.offsets[t + 1]; ++i) {
    const Vec weight = hn::Set(Tag(), weights[a.k[i]]);
    const In* row = rows + a.selection[i] * a.rows.stride + column;
    const In* later = rows + a.selection[std::min(i + ahead.skip, last)] * a.rows.stride + ahead.column;
    for (int v = 0; v < kNum; ++v) {
      if (v * kLanes * sizeof(In) % 64 == 0) __builtin_prefetch(later + v * kLanes, /*write=*/0, /*locality=*/2);
      sum[v] = hn::MulAdd(weight, Load(row + v * kLanes), sum[v]);
    }
  }
  Out* out = a.out.as<Out>().row(t) + column;
  for (int v = 0; v < kNum; ++v) {
    if (kPast) {
      StorePast(sum[v], out + v * kLanes);
    } else {
      Store(sum[v], out + v * kLanes);
    }
  }
}

template <class In, class Out, bool kPast>
HWY_INLINE void CombineTokens(const CombineRowsArgs& a, int64_t begin, int64_t end) {
  constexpr int64_t kColumns = kVecs * kLanes;
  for (int64_t t = begin; t < end; ++t) {
    int64_t c = 0;
    for (; c + kColumns <= a.out.cols; c += kColumns) CombineBlock<In, Out, kVecs, kPast>(a, t, c);
    for (; c + kLanes <= a.out.cols; c += kLanes) CombineBlock<In, Out, 1, kPast>(a, t, c);
    for (; c < a.out.cols; ++c) CombineElement(a, t, c);
  }
}

template <class In, class Out>
HWY_INLINE void CombineTyped(const CombineRowsArgs& a, Caching caching, int64_t begin, int64_t end) {
  const auto is_aligned = [](int64_t bytes) { return bytes % (kLanes * 4) == 0; };
  if (caching == Caching::kPast && is_aligned(reinterpret_cast<intptr_t>(a.out.data)) &&
      is_aligned(a.out.stride * sizeof(Out))) {
    CombineTokens<In, Out, true>(a, begin, end);
    hwy::FlushStream();
  } else {
    CombineTokens<In, Out, false>(a, begin, end);
  }
}

void CombineRange(const CombineRowsArgs& a, Caching caching, int64_t begin, int64_t end) {
  const bool from_bf16 = a.rows.dtype == DType::kBF16, to_bf16 = a.out.dtype == DType::kBF16;
  if (from_bf16 && to_bf16) return CombineTyped<BF16, BF16>(a, Caching::kKeep, begin, end);
  if (from_bf16) return CombineTyped<BF16, float>(a, caching, begin, end);
  if (to_bf16) return CombineTyped<float, BF16>(a, Caching::kKeep, begin, end);
  CombineTyped<float, float>(a, caching, begin, end);
}

}  // namespace
}  // namespace HWY_NAMESPACE
#endif  // TF_SIMD_TARGET
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tokenferry {
namespace {

void CombinePortable(const CombineRowsArgs& a, Caching, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t c = 0; c < a.out.cols; ++c) CombineElement(a, t, c);
  }
}

void CombineReference(const CombineRowsArgs& a) { CombinePortable(a, Caching::kKeep, 0, a.out.rows); }

void CombineCpu(const CombineRowsArgs& a, CpuContext& context) {
  constexpr int64_t kMinTaskFloats = 16384;  // less work than this is not worth waking a thread
  // Results larger than a second cache come back from further away: not reading their lines before writing them is
  // worth more (round trip of 128 tokens x 7168 on 4 ranks of 2 cores: 13 % less).
  constexpr int64_t kKeptBytes = int64_t{2} << 20;
  const auto range = TF_SIMD_CHOOSE(context.isa, CombineRange, CombinePortable);
  const Caching caching =
      a.out.rows * a.out.cols * a.out.element_bytes() > kKeptBytes ? Caching::kPast : Caching::kKeep;
  const int64_t floats_per_row = std::max<int64_t>(1, a.out.cols * std::max<int64_t>(1, a.weight.cols));
  const int64_t per_task = std::max<int64_t>(1, kMinTaskFloats / floats_per_row);
  context.pool.ParallelFor((a.out.rows + per_task - 1) / per_task, [&](int64_t task, int) {
    range(a, caching, task * per_task, std::min(a.out.rows, (task + 1) * per_task));
  });
}

}  // namespace

absl::Status CudaCombineRows(const CombineRowsArgs& args, void* stream);  // exchange_ops.cu

const Op<CombineRowsArgs> kCombineRows{"combine rows", CombineReference, CombineCpu, TF_CUDA_LAUNCHER(CudaCombineRows)};

}  // namespace tokenferry
#endif  // HWY_ONCE
