#include "core/device/cuda_launch.cuh"
#include "core/kernels/store.cuh"
#include "tests/comm/exchange/exchange_case_ops.h"

namespace tokenferry {
namespace {

// A block per selection, a thread per column.
template <class In, class Out>
__global__ void TestExpertsKernel(ExpertRows rows, const int32_t* slot_expert, int64_t num_slots, MatrixView<Out> out) {
  const int64_t s = blockIdx.x;
  int64_t slot = 0;
  while (slot < num_slots && rows.slot_offsets[slot + 1] <= s) ++slot;
  if (slot == num_slots) return;
  const In* row = static_cast<const In*>(rows.rows) + rows.row_idx[s] * rows.row_stride;
  for (int64_t h = threadIdx.x; h < rows.hidden; h += blockDim.x) {
    StoreFloat(ExpertOutput(slot_expert[slot], ToFloat(row[h]), ToFloat(row[(h + 1) % rows.hidden])), out.row(s)[h]);
  }
}

template <class In, class Out>
absl::Status Experts(const TestExpertsArgs& a, void* stream) {
  return LaunchKernel(TestExpertsKernel<In, Out>, {a.rows.max_selections, ThreadsFor(a.rows.hidden)}, stream, a.rows,
                      a.slot_expert, a.num_slots, a.out.as<Out>());
}

template <class Out>
__global__ void WriteHomeKernel(MatrixView<const float> from, MatrixView<Out> to) {
  for (int64_t h = threadIdx.x; h < to.cols; h += blockDim.x) {
    StoreFloat(from.row(blockIdx.x)[h], to.row(blockIdx.x)[h]);
  }
}

}  // namespace

absl::Status CudaTestExperts(const TestExpertsArgs& a, void* stream) {
  const bool to_bf16 = a.out.dtype == DType::kBF16;
  if (a.rows.dtype == DType::kBF16) return to_bf16 ? Experts<BF16, BF16>(a, stream) : Experts<BF16, float>(a, stream);
  return to_bf16 ? Experts<float, BF16>(a, stream) : Experts<float, float>(a, stream);
}

absl::Status CudaWriteHome(const WriteHomeArgs& a, void* stream) {
  const LaunchShape shape{a.to.rows, ThreadsFor(a.to.cols)};
  return a.to.dtype == DType::kBF16 ? LaunchKernel(WriteHomeKernel<BF16>, shape, stream, a.from, a.to.as<BF16>())
                                    : LaunchKernel(WriteHomeKernel<float>, shape, stream, a.from, a.to.as<float>());
}

}  // namespace tokenferry
