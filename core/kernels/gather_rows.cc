#include "core/kernels/gather_rows.h"

#include <algorithm>
#include <cstring>

#include "core/device/cuda_launcher.h"
#include "core/kernels/live_rows.h"

namespace tokenferry {
namespace {

constexpr int64_t kMinTaskFloats = 16384;  // less work than this is not worth waking a thread

int64_t RowsPerTask(int64_t floats_per_row) {
  return std::max<int64_t>(1, kMinTaskFloats / std::max<int64_t>(1, floats_per_row));
}

void GatherRange(const GatherRowsArgs& a, int64_t begin, int64_t end) {
  const int64_t cols = a.src.cols;
  for (int64_t i = begin; i < end; ++i) {
    const void* src = a.src.row(a.idx == nullptr ? i : a.idx[i]);
    if (a.dtype == a.src.dtype) {
      const int64_t row_bytes = cols * a.src.element_bytes();
      std::memcpy(static_cast<char*>(a.out) + i * row_bytes, src, row_bytes);
    } else {
      const auto* values = static_cast<const float*>(src);
      BF16* out = static_cast<BF16*>(a.out) + i * cols;
      for (int64_t c = 0; c < cols; ++c) out[c] = ToBF16(values[c]);
    }
  }
}

void GatherReference(const GatherRowsArgs& a) { GatherRange(a, 0, NumLive(a.num_rows, a.live_rows)); }

void GatherCpu(const GatherRowsArgs& a, CpuContext& context) {
  const int64_t per_task = RowsPerTask(a.src.cols), num_rows = NumLive(a.num_rows, a.live_rows);
  context.pool.ParallelFor((num_rows + per_task - 1) / per_task, [&](int64_t task, int) {
    GatherRange(a, task * per_task, std::min(num_rows, (task + 1) * per_task));
  });
}

}  // namespace

absl::Status CudaGatherRows(const GatherRowsArgs& args, void* stream);  // gather_rows.cu

const Op<GatherRowsArgs> kGatherRows{"gather rows", GatherReference, GatherCpu, TF_CUDA_LAUNCHER(CudaGatherRows)};

}  // namespace tokenferry
