#include "experts/ffn/padded_rows.h"

#include <cstring>

#include "core/check.h"
#include "core/device/cuda_launcher.h"

namespace tokenferry {
namespace {

void PadSlot(const PadRowsArgs& a, int64_t s) {
  const int64_t row_bytes = a.in.hidden * DTypeBytes(a.in.dtype),
                stride_bytes = a.in.row_stride * DTypeBytes(a.in.dtype);
  const int64_t begin = a.in.slot_offsets[s], count = a.in.slot_offsets[s + 1] - begin;
  TF_CHECK_LE(count, a.capacity);
  char* out = static_cast<char*>(a.out) + s * a.capacity * row_bytes;
  for (int64_t i = 0; i < count; ++i) {
    const char* row = static_cast<const char*>(a.in.rows) + a.in.row_idx[begin + i] * stride_bytes;
    std::memcpy(out + i * row_bytes, row, row_bytes);
  }
  std::memset(out + count * row_bytes, 0, (a.capacity - count) * row_bytes);
  if (s == 0) a.out_slot_offsets[0] = 0;
  a.out_slot_offsets[s + 1] = (s + 1) * a.capacity;
  for (int64_t i = 0; i < a.capacity; ++i) {
    a.out_row_idx[s * a.capacity + i] = static_cast<int32_t>(s * a.capacity + i);
  }
}

void UnpadSlot(const UnpadRowsArgs& a, int64_t s) {
  const int64_t begin = a.slot_offsets[s], count = a.slot_offsets[s + 1] - begin;
  if (count > 0)
    std::memcpy(a.out.row(begin), a.padded.row(s * a.capacity), count * a.out.cols * a.out.element_bytes());
}

}  // namespace

// padded_rows.cu
absl::Status CudaPadRows(const PadRowsArgs& args, void* stream);
absl::Status CudaUnpadRows(const UnpadRowsArgs& args, void* stream);

constexpr Op<PadRowsArgs> kPadRows = {"pad_rows",
                                      [](const PadRowsArgs& a) {
                                        for (int64_t s = 0; s < a.num_slots; ++s) PadSlot(a, s);
                                      },
                                      [](const PadRowsArgs& a, CpuContext& context) {
                                        context.pool.ParallelFor(a.num_slots, [&](int64_t s, int) { PadSlot(a, s); });
                                      },
                                      TF_CUDA_LAUNCHER(CudaPadRows)};
constexpr Op<UnpadRowsArgs> kUnpadRows = {"unpad_rows",
                                          [](const UnpadRowsArgs& a) {
                                            for (int64_t s = 0; s < a.num_slots; ++s) UnpadSlot(a, s);
                                          },
                                          [](const UnpadRowsArgs& a, CpuContext& context) {
                                            context.pool.ParallelFor(a.num_slots,
                                                                     [&](int64_t s, int) { UnpadSlot(a, s); });
                                          },
                                          TF_CUDA_LAUNCHER(CudaUnpadRows)};

void PadRows(Stream& stream, const PadRowsArgs& args) { stream.Launch(kPadRows, args); }

void UnpadRows(Stream& stream, const UnpadRowsArgs& args) {
  TF_CHECK_EQ(args.padded.cols, args.out.cols);
  TF_CHECK(args.padded.dtype == args.out.dtype);
  TF_CHECK_EQ(args.padded.stride, args.padded.cols);
  TF_CHECK_EQ(args.out.stride, args.out.cols);
  stream.Launch(kUnpadRows, args);
}

}  // namespace tokenferry
