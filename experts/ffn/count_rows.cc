#include "experts/ffn/count_rows.h"

#include "core/device/cuda_launcher.h"

namespace tokenferry {
namespace {

void Count(const CountRowsArgs& a) {
  for (int64_t s = 0; s < a.num_slots; ++s) a.counts[s] += a.slot_offsets[s + 1] - a.slot_offsets[s];
}

}  // namespace

absl::Status CudaCountRows(const CountRowsArgs& args, void* stream);  // count_rows.cu

constexpr Op<CountRowsArgs> kCountRows = {"count_rows", Count, [](const CountRowsArgs& a, CpuContext&) { Count(a); },
                                          TF_CUDA_LAUNCHER(CudaCountRows)};

void CountRows(Stream& stream, const CountRowsArgs& args) { stream.Launch(kCountRows, args); }

}  // namespace tokenferry
