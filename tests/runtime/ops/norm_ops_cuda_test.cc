#include "runtime/ops/norm_ops.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

template <class T>
std::vector<T> RandomValues(OpRun& run, size_t size) {
  std::vector<T> values;
  for (float x : NormalFloats(run.rng(), size)) {
    if constexpr (std::is_same_v<T, BF16>) {
      values.push_back(ToBF16(x));
    } else {
      values.push_back(x);
    }
  }
  return values;
}

template <class Weight>
void RmsNormCase(OpRun& run, int64_t num_rows, int64_t cols) {
  const int64_t stride = cols + run.rng()() % 3, out_stride = cols + run.rng()() % 3;
  RmsNormArgs args;
  args.x = {run.Input(NormalFloats(run.rng(), num_rows * stride)), num_rows, cols, stride};
  args.weight = run.Input(RandomValues<Weight>(run, cols));
  args.weight_dtype = std::is_same_v<Weight, BF16> ? DType::kBF16 : DType::kF32;
  args.out = {run.Output<float>("out", num_rows * out_stride), num_rows, cols, out_stride};
  RmsNorm(run.stream(), args);
  float* x = run.InOut("in place", NormalFloats(run.rng(), num_rows * stride));
  args.x = {x, num_rows, cols, stride};
  args.out = {x, num_rows, cols, stride};
  RmsNorm(run.stream(), args);
}

class NormOpsCudaTest : public CudaCompareTest {};

TEST_F(NormOpsCudaTest, RmsNorm) {
  for (int64_t num_rows : kRowCounts) {
    for (int64_t cols : kWidths) {
      SCOPED_TRACE(testing::Message() << num_rows << " rows of " << cols);
      ExpectSameBits([&](OpRun& run) { RmsNormCase<float>(run, num_rows, cols); });
      ExpectSameBits([&](OpRun& run) { RmsNormCase<BF16>(run, num_rows, cols); });
    }
  }
}

}  // namespace
}  // namespace tokenferry
