#include "bench/bench_ops.h"

#include <algorithm>
#include <cstring>

namespace tokenferry {
namespace {

constexpr int64_t kMinTaskBytes = 65536;  // less work than this is not worth waking a thread

// Rows [begin, end) in tasks of at least kMinTaskBytes.
template <class Body>
void ForRows(CpuContext& context, int64_t num_rows, int64_t row_bytes, const Body& body) {
  const int64_t per_task = std::max<int64_t>(1, kMinTaskBytes / std::max<int64_t>(1, row_bytes));
  context.pool.ParallelFor((num_rows + per_task - 1) / per_task, [&](int64_t task, int) {
    body(task * per_task, std::min(num_rows, (task + 1) * per_task));
  });
}

int64_t IndexOf(const int32_t* idx, int64_t i) { return idx == nullptr ? i : idx[i]; }

const uint8_t* Row(const void* rows, int64_t i, int64_t stride_bytes) {
  return static_cast<const uint8_t*>(rows) + i * stride_bytes;
}
uint8_t* Row(void* rows, int64_t i, int64_t stride_bytes) { return static_cast<uint8_t*>(rows) + i * stride_bytes; }

uint64_t Checksum(const uint8_t* row, int64_t num_bytes) {
  uint64_t lanes[16] = {}, words[16];
  int64_t i = 0;
  for (; i + int64_t{sizeof(words)} <= num_bytes; i += sizeof(words)) {
    std::memcpy(words, row + i, sizeof(words));
    for (int l = 0; l < 16; ++l) lanes[l] ^= words[l];
  }
  uint64_t sum = 0;
  for (; i < num_bytes; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, row + i, std::min<int64_t>(8, num_bytes - i));
    sum ^= word;
  }
  for (const uint64_t lane : lanes) sum ^= lane;
  return sum;
}

void ReadRange(const ReadRowsArgs& a, int64_t begin, int64_t end) {
  for (int64_t s = begin; s < end; ++s) {
    a.checksum[s] = Checksum(Row(a.rows, IndexOf(a.row_idx, s), a.row_stride), a.row_bytes);
  }
}

void TransformRange(const TransformRowsArgs& a, int64_t begin, int64_t end) {
  int64_t slot = std::upper_bound(a.slot_offsets, a.slot_offsets + a.num_slots + 1, begin) - a.slot_offsets - 1;
  for (int64_t s = begin; s < end; ++s) {
    while (s >= a.slot_offsets[slot + 1]) ++slot;
    const float factor = a.slot_factor[slot];
    const uint8_t* row = Row(a.rows, IndexOf(a.row_idx, s), a.row_stride * DTypeBytes(a.dtype));
    const auto value = [&](int64_t c) {
      return a.dtype == DType::kF32 ? reinterpret_cast<const float*>(row)[c]
                                    : ToFloat(reinterpret_cast<const BF16*>(row)[c]);
    };
    uint8_t* out = Row(a.out, s, a.out_stride * DTypeBytes(a.out_dtype));
    for (int64_t c = 0; c < a.hidden; ++c) {
      const float y = factor * value(c);
      if (a.out_dtype == DType::kF32) {
        reinterpret_cast<float*>(out)[c] = y;
      } else {
        reinterpret_cast<BF16*>(out)[c] = ToBF16(y);
      }
    }
  }
}

void MoveRange(const MoveRowsArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    std::memcpy(Row(a.dst, IndexOf(a.dst_idx, i), a.row_bytes), Row(a.src, IndexOf(a.src_idx, i), a.row_bytes),
                a.row_bytes);
  }
}

float Load(float x) { return x; }
float Load(BF16 x) { return ToFloat(x); }
void Store(float x, float* out) { *out = x; }
// Finite values only: no NaN to keep, so that the loop vectorises.
void Store(float x, BF16* out) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  out->bits = static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

template <class T, int kColumns>
[[gnu::always_inline]] inline void SumBlock(const SumRowsArgs& a, int64_t i, int64_t column) {
  float sum[kColumns] = {};
  for (int64_t j = a.offsets[i]; j < a.offsets[i + 1]; ++j) {
    const float weight = a.weight == nullptr ? 1.0f : a.weight[j];
    const T* row = static_cast<const T*>(a.rows) + a.idx[j] * a.hidden + column;
    for (int c = 0; c < kColumns; ++c) sum[c] = __builtin_fmaf(weight, Load(row[c]), sum[c]);
  }
  T* out = static_cast<T*>(a.out) + i * a.hidden + column;
  for (int c = 0; c < kColumns; ++c) Store(sum[c], out + c);
}

template <class T>
[[gnu::always_inline]] inline void SumRangeOf(const SumRowsArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    int64_t c = 0;
    for (; c + 64 <= a.hidden; c += 64) SumBlock<T, 64>(a, i, c);
    for (; c < a.hidden; ++c) SumBlock<T, 1>(a, i, c);
  }
}

[[gnu::always_inline]] inline void SumRange(const SumRowsArgs& a, int64_t begin, int64_t end) {
  if (a.dtype == DType::kF32) return SumRangeOf<float>(a, begin, end);
  SumRangeOf<BF16>(a, begin, end);
}

void SumRangePortable(const SumRowsArgs& a, int64_t begin, int64_t end) { SumRange(a, begin, end); }

using SumFn = void (*)(const SumRowsArgs&, int64_t, int64_t);
#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] void SumRangeAvx2(const SumRowsArgs& a, int64_t begin, int64_t end) {
  SumRange(a, begin, end);
}
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]] void SumRangeAvx512(const SumRowsArgs& a,
                                                                                                  int64_t begin,
                                                                                                  int64_t end) {
  SumRange(a, begin, end);
}
SumFn SumFor(Isa isa) {
  return isa >= Isa::kAvx512 ? SumRangeAvx512 : isa >= Isa::kAvx2 ? SumRangeAvx2 : SumRangePortable;
}
#else
SumFn SumFor(Isa) { return SumRangePortable; }
#endif

}  // namespace

const Op<ReadRowsArgs> kReadRows{"bench: read rows", [](const ReadRowsArgs& a) { ReadRange(a, 0, a.num_selections); },
                                 [](const ReadRowsArgs& a, CpuContext& context) {
                                   ForRows(context, a.num_selections, a.row_bytes,
                                           [&](int64_t begin, int64_t end) { ReadRange(a, begin, end); });
                                 }};

const Op<TransformRowsArgs> kTransformRows{
    "bench: transform rows", [](const TransformRowsArgs& a) { TransformRange(a, 0, a.slot_offsets[a.num_slots]); },
    [](const TransformRowsArgs& a, CpuContext& context) {
      ForRows(context, a.slot_offsets[a.num_slots], a.hidden * 4,
              [&](int64_t begin, int64_t end) { TransformRange(a, begin, end); });
    }};

const Op<MoveRowsArgs> kMoveRows{"bench: move rows", [](const MoveRowsArgs& a) { MoveRange(a, 0, a.num_rows); },
                                 [](const MoveRowsArgs& a, CpuContext& context) {
                                   ForRows(context, a.num_rows, a.row_bytes,
                                           [&](int64_t begin, int64_t end) { MoveRange(a, begin, end); });
                                 }};

const Op<SumRowsArgs> kSumRows{"bench: sum rows", [](const SumRowsArgs& a) { SumRangePortable(a, 0, a.num_out); },
                               [](const SumRowsArgs& a, CpuContext& context) {
                                 const SumFn sum = SumFor(context.isa);
                                 ForRows(context, a.num_out, a.hidden * 16,
                                         [&](int64_t begin, int64_t end) { sum(a, begin, end); });
                               }};

}  // namespace tokenferry
