#include "bench/alltoall/bench_ops.h"

#include <algorithm>
#include <cstring>

#include "core/device/cuda_launcher.h"

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

// Eight words at a time: one vector on AVX-512, two or four elsewhere.
typedef uint64_t Words __attribute__((vector_size(64)));

// Asks for the same places of the next row ahead of time: no hardware guesses where a gathered row begins, nor the next
// page. Into the second cache: more lines can be on their way there than to the first (12 against 19 GB/s on one core
// of an EPYC 9004, 4 KiB pages).
[[gnu::always_inline]] inline uint64_t Checksum(const uint8_t* row, const uint8_t* next_row, int64_t num_bytes) {
  Words lanes[4] = {};
  int64_t i = 0;
  for (; i + int64_t{sizeof(lanes)} <= num_bytes; i += sizeof(lanes)) {
    Words words[4];
    for (int line = 0; line < 4; ++line) __builtin_prefetch(next_row + i + 64 * line, /*write=*/0, /*locality=*/2);
    std::memcpy(words, row + i, sizeof(words));
    lanes[0] ^= words[0];
    lanes[1] ^= words[1];
    lanes[2] ^= words[2];
    lanes[3] ^= words[3];
  }
  uint64_t sum = 0;
  for (; i < num_bytes; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, row + i, std::min<int64_t>(8, num_bytes - i));
    sum ^= word;
  }
  const Words all = lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3];
  for (int l = 0; l < 8; ++l) sum ^= all[l];
  return sum;
}

[[gnu::always_inline]] inline void ReadRange(const ReadRowsArgs& a, int64_t begin, int64_t end) {
  for (int64_t s = begin; s < end; ++s) {
    const int64_t next = std::min(s + 1, a.num_selections - 1);
    a.checksum[s] = Checksum(Row(a.rows, IndexOf(a.row_idx, s), a.row_stride),
                             Row(a.rows, IndexOf(a.row_idx, next), a.row_stride), a.row_bytes);
  }
}

void ReadRangePortable(const ReadRowsArgs& a, int64_t begin, int64_t end) { ReadRange(a, begin, end); }

// The selections that are to be read; the checksums of the others are written.
ReadRowsArgs WhatIsRead(ReadRowsArgs a) {
  if (a.num_read == nullptr) return a;
  std::fill(a.checksum + *a.num_read, a.checksum + a.num_selections, 0);
  a.num_selections = *a.num_read;
  return a;
}

using ReadFn = void (*)(const ReadRowsArgs&, int64_t, int64_t);
#if defined(__x86_64__)
[[gnu::target("avx2")]] void ReadRangeAvx2(const ReadRowsArgs& a, int64_t begin, int64_t end) {
  ReadRange(a, begin, end);
}
[[gnu::target("avx512f")]] void ReadRangeAvx512(const ReadRowsArgs& a, int64_t begin, int64_t end) {
  ReadRange(a, begin, end);
}
ReadFn ReadFor(Isa isa) {
  return isa >= Isa::kAvx512 ? ReadRangeAvx512 : isa >= Isa::kAvx2 ? ReadRangeAvx2 : ReadRangePortable;
}
#else
ReadFn ReadFor(Isa) { return ReadRangePortable; }
#endif

// Finite values only: no NaN to keep, so that the loop vectorises.
BF16 RoundFinite(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  return BF16{static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

template <class In>
void ScaleRow(const In* row, float factor, int64_t hidden, DType out_dtype, void* out) {
  if (out_dtype == DType::kF32) {
    for (int64_t c = 0; c < hidden; ++c) static_cast<float*>(out)[c] = factor * ToFloat(row[c]);
  } else {
    for (int64_t c = 0; c < hidden; ++c) static_cast<BF16*>(out)[c] = RoundFinite(factor * ToFloat(row[c]));
  }
}

void TransformRange(const TransformRowsArgs& a, int64_t begin, int64_t end) {
  int64_t slot = std::upper_bound(a.slot_offsets, a.slot_offsets + a.num_slots + 1, begin) - a.slot_offsets - 1;
  for (int64_t s = begin; s < end; ++s) {
    while (s >= a.slot_offsets[slot + 1]) ++slot;
    const void* row = Row(a.rows, IndexOf(a.row_idx, s), a.row_stride * DTypeBytes(a.dtype));
    void* out = Row(a.out, s, a.out_stride * DTypeBytes(a.out_dtype));
    if (a.dtype == DType::kF32) {
      ScaleRow(static_cast<const float*>(row), a.slot_factor[slot], a.hidden, a.out_dtype, out);
    } else {
      ScaleRow(static_cast<const BF16*>(row), a.slot_factor[slot], a.hidden, a.out_dtype, out);
    }
  }
}

void MoveRange(const MoveRowsArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    std::memcpy(Row(a.dst, IndexOf(a.dst_idx, i), a.row_bytes), Row(a.src, IndexOf(a.src_idx, i), a.row_bytes),
                a.row_bytes);
  }
}

}  // namespace

absl::Status CudaReadRows(const ReadRowsArgs& args, void* stream);  // bench_ops.cu
absl::Status CudaTransformRows(const TransformRowsArgs& args, void* stream);
absl::Status CudaMoveRows(const MoveRowsArgs& args, void* stream);

const Op<ReadRowsArgs> kReadRows{"bench: read rows",
                                 [](const ReadRowsArgs& args) {
                                   const ReadRowsArgs a = WhatIsRead(args);
                                   ReadRangePortable(a, 0, a.num_selections);
                                 },
                                 [](const ReadRowsArgs& args, CpuContext& context) {
                                   const ReadRowsArgs a = WhatIsRead(args);
                                   const ReadFn read = ReadFor(context.isa);
                                   ForRows(context, a.num_selections, a.row_bytes,
                                           [&](int64_t begin, int64_t end) { read(a, begin, end); });
                                 },
                                 TF_CUDA_LAUNCHER(CudaReadRows)};

const Op<TransformRowsArgs> kTransformRows{
    "bench: transform rows", [](const TransformRowsArgs& a) { TransformRange(a, 0, a.slot_offsets[a.num_slots]); },
    [](const TransformRowsArgs& a, CpuContext& context) {
      ForRows(context, a.slot_offsets[a.num_slots], a.hidden * 4,
              [&](int64_t begin, int64_t end) { TransformRange(a, begin, end); });
    },
    TF_CUDA_LAUNCHER(CudaTransformRows)};

const Op<MoveRowsArgs> kMoveRows{"bench: move rows", [](const MoveRowsArgs& a) { MoveRange(a, 0, a.num_rows); },
                                 [](const MoveRowsArgs& a, CpuContext& context) {
                                   ForRows(context, a.num_rows, a.row_bytes,
                                           [&](int64_t begin, int64_t end) { MoveRange(a, begin, end); });
                                 },
                                 TF_CUDA_LAUNCHER(CudaMoveRows)};

}  // namespace tokenferry
