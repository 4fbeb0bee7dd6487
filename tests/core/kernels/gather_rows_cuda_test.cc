#include "core/kernels/gather_rows.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

// Rows of `cols` values behind each other with a gap, starting `skip` values behind an aligned address.
template <class T>
void GatherCase(OpRun& run, int64_t num_rows, int64_t cols, int64_t skip, DType out_dtype, bool has_idx = true) {
  const int64_t source_rows = has_idx ? 9 : num_rows;
  const int64_t stride = cols + run.rng()() % 3;
  const std::vector<T> values = NormalValues<T>(run.rng(), skip + source_rows * stride);
  const int64_t out_bytes = out_dtype == DType::kBF16 ? 2 : 4;
  GatherRowsArgs args;
  args.src = MatrixView<const T>{run.Input(values) + skip, source_rows, cols, stride};
  if (has_idx) args.idx = run.Input(UniformInts(run.rng(), num_rows, 0, source_rows));
  args.num_rows = num_rows;
  args.out = run.Output<char>("out", (num_rows * cols + skip) * out_bytes) + skip * out_bytes;
  args.dtype = out_dtype;
  if (!has_idx) args.live_rows = run.Input(std::vector<int64_t>{num_rows - num_rows / 3});
  run.stream().Launch(kGatherRows, args);
}

class GatherRowsCudaTest : public CudaCompareTest {};

TEST_F(GatherRowsCudaTest, CopiesAndRounds) {
  for (int64_t num_rows : kRowCounts) {
    for (int64_t cols : kWidths) {
      for (int64_t skip : {0, 1}) {
        SCOPED_TRACE(testing::Message() << num_rows << " rows of " << cols << ", " << skip << " off");
        ExpectSameBits([&](OpRun& run) { GatherCase<float>(run, num_rows, cols, skip, DType::kF32); });
        ExpectSameBits([&](OpRun& run) { GatherCase<float>(run, num_rows, cols, skip, DType::kBF16); });
        ExpectSameBits([&](OpRun& run) { GatherCase<BF16>(run, num_rows, cols, skip, DType::kBF16); });
        ExpectSameBits([&](OpRun& run) { GatherCase<float>(run, num_rows, cols, skip, DType::kF32, false); });
        ExpectSameBits([&](OpRun& run) { GatherCase<float>(run, num_rows, cols, skip, DType::kBF16, false); });
      }
    }
  }
}

}  // namespace
}  // namespace tokenferry
