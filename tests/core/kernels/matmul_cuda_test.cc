#include "core/kernels/matmul.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

constexpr int64_t kSourceRows = 9;

struct ProductShape {
  int64_t num_rows, outs, cols;
};
std::ostream& operator<<(std::ostream& out, const ProductShape& s) {
  return out << s.num_rows << " rows, " << s.outs << " outputs, " << s.cols << " inputs";
}
// One row and several, tiles that are full, short and missing, inputs below and beyond a step and a block.
const std::vector<ProductShape> kShapes = {{0, 4, 16}, {1, 1, 1},   {1, 33, 40},  {2, 4, 16},
                                           {3, 5, 17}, {4, 32, 64}, {7, 37, 129}, {33, 70, 300}};

template <class X>
void MatMulCase(OpRun& run, const WeightFormat& format, const ProductShape& shape, Compute compute) {
  const int64_t x_stride = shape.cols + run.rng()() % 3, y_stride = shape.outs + run.rng()() % 3;
  MatMulArgs args;
  args.x = run.Input(NormalValues<X>(run.rng(), std::max(kSourceRows, shape.num_rows) * x_stride));
  args.x_dtype = kDTypeOf<X>;
  args.x_stride = x_stride;
  args.num_rows = shape.num_rows;
  args.w = RandomWeight(run, format, shape.outs, shape.cols);
  args.y = run.Output<float>("y", shape.num_rows * y_stride);
  args.y_stride = y_stride;
  args.compute = compute;
  MatMul(run.stream(), args);
  args.row_idx = run.Input(UniformInts(run.rng(), shape.num_rows, 0, kSourceRows));
  args.y = run.InOut("accumulated", NormalFloats(run.rng(), shape.num_rows * y_stride));
  args.accumulate = Accumulate::kYes;
  MatMul(run.stream(), args);
}

template <class X, class Y>
void GroupedCase(OpRun& run, const WeightFormat& format, const std::vector<int64_t>& rows_per_group, int64_t outs,
                 int64_t cols, Compute compute) {
  std::vector<int64_t> offsets = {0};
  std::vector<WeightView> weights;
  for (int64_t n : rows_per_group) {
    weights.push_back(RandomWeight(run, format, outs, cols));
    offsets.push_back(offsets.back() + n);
  }
  const int64_t x_stride = cols + run.rng()() % 3, y_stride = outs + run.rng()() % 3;
  GroupedMatMulArgs args;
  args.x = run.Input(NormalValues<X>(run.rng(), kSourceRows * x_stride));
  args.x_dtype = kDTypeOf<X>;
  args.x_stride = x_stride;
  args.row_idx = run.Input(UniformInts(run.rng(), offsets.back(), 0, kSourceRows));
  args.offsets = run.Input(offsets);
  args.num_groups = static_cast<int64_t>(weights.size());
  args.max_rows = offsets.back();
  args.weights = {{.format = format, .rows = outs, .cols = cols}, run.Input(weights)};
  args.y = run.Output<Y>("y", offsets.back() * y_stride);
  args.y_dtype = kDTypeOf<Y>;
  args.y_stride = y_stride;
  args.compute = compute;
  GroupedMatMul(run.stream(), args);
}

class MatMulCudaTest : public CudaCompareTest {};

TEST_F(MatMulCudaTest, Codes) {
  for (const WeightFormat& format : kCodes) {
    for (const ProductShape& shape : {ProductShape{1, 33, 40}, {3, 5, 4}, {7, 37, 132}}) {
      SCOPED_TRACE(testing::Message() << ToString(format) << ", " << shape);
      ExpectSameBits([&](OpRun& run) { MatMulCase<float>(run, format, shape, Compute::kF32); },
                     NumSeeds(format, shape.outs, shape.cols));
    }
  }
}

// Every type: rows of one block and of two, tiles that are full, short and missing.
TEST_F(MatMulCudaTest, Blocks) {
  for (const WeightFormat& format : BlockFormats()) {
    SCOPED_TRACE(ToString(format));
    const int64_t block = BlockOf(format.dtype).elements;
    for (const ProductShape& shape : {ProductShape{0, 4, block}, {1, 5, 2 * block}, {3, 9, block}}) {
      ExpectSameBits([&](OpRun& run) { MatMulCase<float>(run, format, shape, Compute::kF32); });
    }
    ExpectSameBits([&](OpRun& run) { MatMulCase<BF16>(run, format, {2, 1, block}, Compute::kF32); });
    ExpectSameBits([&](OpRun& run) { GroupedCase<float, float>(run, format, {2, 0, 1}, 3, block, Compute::kF32); });
    ExpectSameBits([&](OpRun& run) { GroupedCase<BF16, float>(run, format, {0, 1}, 5, block, Compute::kF32); });
    ExpectSameBits([&](OpRun& run) { GroupedCase<BF16, BF16>(run, format, {1, 5}, 1, block, Compute::kF32); });
    ExpectSameBits([&](OpRun& run) { GroupedCase<float, BF16>(run, format, {1, 2}, 3, block, Compute::kF32); });
  }
}

TEST_F(MatMulCudaTest, Dense) {
  for (const WeightFormat& format : kWeightFormats) {
    for (const ProductShape& shape : kShapes) {
      SCOPED_TRACE(testing::Message() << ToString(format) << ", " << shape);
      ExpectSameBits([&](OpRun& run) { MatMulCase<float>(run, format, shape, Compute::kF32); },
                     NumSeeds(format, shape.outs, shape.cols));
      ExpectSameBits([&](OpRun& run) { MatMulCase<BF16>(run, format, shape, Compute::kF32); },
                     NumSeeds(format, shape.outs, shape.cols));
    }
  }
}

TEST_F(MatMulCudaTest, Grouped) {
  const std::vector<std::vector<int64_t>> groups = {{0}, {1}, {0, 0, 0}, {3, 0, 1, 18, 5, 0, 2}};
  const auto test = [&](const WeightFormat& format, const std::vector<int64_t>& rows) {
    for (const auto& [outs, cols] : {std::pair{1, 1}, {33, 40}, {37, 129}, {70, 300}}) {
      SCOPED_TRACE(testing::Message() << ToString(format) << ", " << rows.size() << " groups, " << outs << " outputs, "
                                      << cols << " inputs");
      ExpectSameBits([&](OpRun& run) { GroupedCase<float, float>(run, format, rows, outs, cols, Compute::kF32); },
                     NumSeeds(format, outs, cols));
      ExpectSameBits([&](OpRun& run) { GroupedCase<BF16, float>(run, format, rows, outs, cols, Compute::kF32); },
                     NumSeeds(format, outs, cols));
      ExpectSameBits([&](OpRun& run) { GroupedCase<float, BF16>(run, format, rows, outs, cols, Compute::kF32); },
                     NumSeeds(format, outs, cols));
      ExpectSameBits([&](OpRun& run) { GroupedCase<BF16, BF16>(run, format, rows, outs, cols, Compute::kF32); },
                     NumSeeds(format, outs, cols));
    }
  };
  for (const WeightFormat& format : kWeightFormats) {
    for (const auto& rows : groups) test(format, rows);
  }
}

}  // namespace
}  // namespace tokenferry
