#include "comm/ops/copy_rows.h"

#include <algorithm>
#include <cstring>

#include "core/device/cuda_launcher.h"

namespace tokenferry {
namespace {

constexpr int64_t kMinTaskBytes = 65536;  // less work than this is not worth waking a thread

void CopyRange(const CopyRowsArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    std::memcpy(static_cast<char*>(a.out) + i * a.row_bytes, static_cast<const char*>(a.src) + a.idx[i] * a.row_bytes,
                a.row_bytes);
  }
}

void CopyRange(const PullRowsFromArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) std::memcpy(a.out + i * a.row_bytes, a.from[i], a.row_bytes);
}

template <class Args>
void CopyReference(const Args& a) {
  CopyRange(a, 0, a.num_rows);
}

template <class Args>
void CopyCpu(const Args& a, CpuContext& context) {
  const int64_t per_task = std::max<int64_t>(1, kMinTaskBytes / std::max<int64_t>(1, a.row_bytes));
  context.pool.ParallelFor((a.num_rows + per_task - 1) / per_task, [&](int64_t task, int) {
    CopyRange(a, task * per_task, std::min(a.num_rows, (task + 1) * per_task));
  });
}

}  // namespace

absl::Status CudaCopyRows(const CopyRowsArgs& args, void* stream);  // copy_rows.cu
absl::Status CudaPullRowsFrom(const PullRowsFromArgs& args, void* stream);

const Op<CopyRowsArgs> kCopyRows{"copy rows", CopyReference<CopyRowsArgs>, CopyCpu<CopyRowsArgs>,
                                 TF_CUDA_LAUNCHER(CudaCopyRows)};
const Op<PullRowsFromArgs> kPullRowsFrom{"pull rows from", CopyReference<PullRowsFromArgs>, CopyCpu<PullRowsFromArgs>,
                                         TF_CUDA_LAUNCHER(CudaPullRowsFrom)};

}  // namespace tokenferry
