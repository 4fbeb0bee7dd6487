// Gates, ups and activation in one kernel: the bits of the operations one after the other, whatever the tile.
#include <cmath>

#include "core/kernels/gated_matmul.h"
#include "core/kernels/matmul.h"
#include "experts/ffn/expert_ffn.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

struct GatedCase {
  WeightFormat format;
  int64_t outs = 0, cols = 0;
  std::vector<int64_t> rows = {3, 0, 18};  // by group
};

std::ostream& operator<<(std::ostream& out, const GatedCase& c) {
  return out << ToString(c.format) << ", " << c.outs << " outputs, " << c.cols << " inputs, " << c.rows.size()
             << " groups";
}

// Copied whole with an odd end, converted for an odd width, FP8 with and without blocks that suit, codes, a plain type.
const std::vector<GatedCase> kGatedCases = {
    {{.dtype = DType::kBF16}, 130, 136},         {{.dtype = DType::kBF16}, 7, 8, {1}},
    {{.dtype = DType::kBF16}, 33, 71},           {F8BlockWeights::Of(128, 128), 144, 336},
    {F8BlockWeights::Of(5, 24), 17, 48, {0, 2}}, {kCodes[4], 65, 64},
    {{.dtype = DType::kF16}, 64, 20, {0}}};

const std::vector<int64_t> kRowsOfTiles = {1, 9, 17, 33, 65, 193};  // of a group: each takes another tile

using GatedInputs = std::function<GatedMatMulArgs(OpRun&)>;

// Gate and up are halves of one matrix, as some files have them.
template <class X>
GatedMatMulArgs RandomInputs(OpRun& run, const GatedCase& c) {
  std::vector<int64_t> offsets = {0};
  std::vector<WeightView> gates, ups;
  for (const int64_t n : c.rows) {
    WeightView both = RandomWeight(run, c.format, 2 * c.outs, c.cols);
    both.row_offset = 0;
    gates.push_back(both.Rows(0, c.outs));
    ups.push_back(both.Rows(c.outs, c.outs));
    offsets.push_back(offsets.back() + n);
  }
  constexpr int64_t kSourceRows = 11;
  GatedMatMulArgs args;
  args.x = run.Input(NormalValues<X>(run.rng(), kSourceRows * c.cols, 2));
  args.x_dtype = kDTypeOf<X>;
  args.x_stride = c.cols;
  args.row_idx = run.Input(UniformInts(run.rng(), offsets.back(), 0, kSourceRows));
  args.offsets = run.Input(offsets);
  args.num_groups = static_cast<int64_t>(c.rows.size());
  args.max_rows = offsets.back();
  args.gate = {gates[0], run.Input(gates)};
  args.up = {ups[0], run.Input(ups)};
  return args;
}

// One matrix each, and rows as they lie.
template <class X>
GatedMatMulArgs DenseInputs(OpRun& run, const GatedCase& c) {
  GatedMatMulArgs args;
  args.max_rows = c.rows[0];
  args.x = run.Input(NormalValues<X>(run.rng(), args.max_rows * c.cols, 2));
  args.x_dtype = kDTypeOf<X>;
  args.x_stride = c.cols;
  args.gate.layout = RandomWeight(run, c.format, c.outs, c.cols);
  args.up.layout = RandomWeight(run, c.format, c.outs, c.cols);
  return args;
}

void MultiplyOne(OpRun& run, const GatedMatMulArgs& a, const WeightArray& weights, float* y) {
  const int64_t outs = weights.layout.rows;
  if (a.offsets == nullptr) {
    return MatMul(run.stream(), {.x = a.x,
                                 .x_dtype = a.x_dtype,
                                 .x_stride = a.x_stride,
                                 .row_idx = a.row_idx,
                                 .num_rows = a.max_rows,
                                 .w = weights.layout,
                                 .y = y,
                                 .y_stride = outs,
                                 .compute = Compute::kBF16});
  }
  GroupedMatMul(run.stream(), {.x = a.x,
                               .x_dtype = a.x_dtype,
                               .x_stride = a.x_stride,
                               .row_idx = a.row_idx,
                               .offsets = a.offsets,
                               .num_groups = a.num_groups,
                               .max_rows = a.max_rows,
                               .weights = weights,
                               .y = y,
                               .y_stride = outs,
                               .compute = Compute::kBF16});
}

// One after the other; not rounded yet.
MatrixView<float> ActivateApart(OpRun& run, const GatedMatMulArgs& a) {
  const int64_t n = a.max_rows, outs = a.gate.layout.rows;
  const MatrixView<float> gate{run.Output<float>("activation", n * outs), n, outs, outs};
  const MatrixView<float> up{run.Output<float>("up", n * outs), n, outs, outs};
  MultiplyOne(run, a, a.gate, gate.data);
  MultiplyOne(run, a, a.up, up.data);
  SiluMul(run.stream(), {gate, up, gate});
  return gate;
}

class GatedMatMulCudaTest : public CudaCompareTest {
 protected:
  // `gap`: elements before y and between its rows, which stay as they are.
  void ExpectTheSequence(Device& device, const GatedInputs& inputs, int64_t gap, const std::vector<int64_t>& tiles) {
    OpRun run(device, 7);
    GatedMatMulArgs args = inputs(run);
    const MatrixView<float> activation = ActivateApart(run, args);
    const int64_t n = activation.rows, outs = activation.cols, stride = outs + gap;
    for (const int64_t rows : tiles) {
      args.expected_rows = rows * args.num_groups;
      args.y = {run.Output<BF16>("y", gap + n * stride) + gap, n, outs, stride};
      GatedMatMul(run.stream(), args);
    }
    const auto results = run.Finish();
    ASSERT_TRUE(results.ok()) << results.status();
    std::vector<uint8_t> want(2 * (gap + n * stride), 0xA5);
    for (int64_t i = 0; i < n * outs; ++i) {
      float x;
      std::memcpy(&x, &results->at(0).bytes[4 * i], 4);
      const BF16 rounded = ToBF16(x);
      std::memcpy(&want[2 * (gap + i / outs * stride + i % outs)], &rounded, 2);
    }
    want.resize(want.size() + OpRun::kGuardBytes, 0xEE);
    for (size_t t = 0; t < tiles.size(); ++t) {
      EXPECT_EQ(results->at(2 + t).bytes, want) << tiles[t] << " rows per group";
    }
  }
};

TEST_F(GatedMatMulCudaTest, IsTheSequence) {
  int64_t gap = 0;
  for (const GatedCase& c : kGatedCases) {
    SCOPED_TRACE(testing::Message() << c);
    gap = (gap + 1) % 4;
    const GatedInputs bf16 = [&](OpRun& run) { return RandomInputs<BF16>(run, c); };
    const GatedInputs f32 = [&](OpRun& run) { return RandomInputs<float>(run, c); };
    const std::vector<int64_t> tiles = c.outs > 64 ? kRowsOfTiles : std::vector<int64_t>{9};
    ExpectTheSequence(*cuda_, bf16, gap, tiles);
    ExpectTheSequence(*cuda_, f32, 0, tiles);
    ExpectTheSequence(*reference_, bf16, gap, {0});
  }
}

TEST_F(GatedMatMulCudaTest, OfOneMatrixEach) {
  for (const int64_t rows : {0, 1, 300}) {
    SCOPED_TRACE(rows);
    const GatedCase c{{.dtype = DType::kBF16}, 66, 16, {rows}};
    ExpectTheSequence(*cuda_, [&](OpRun& run) { return DenseInputs<float>(run, c); }, 0, {0});
    ExpectTheSequence(*reference_, [&](OpRun& run) { return DenseInputs<BF16>(run, c); }, 0, {0});
  }
}

// One is copied, the other converted.
TEST_F(GatedMatMulCudaTest, OfTwoFormats) {
  const GatedInputs inputs = [](OpRun& run) {
    GatedMatMulArgs args = DenseInputs<BF16>(run, {{.dtype = DType::kBF16}, 20, 32, {5}});
    args.up.layout = RandomWeight(run, {.dtype = DType::kF16}, 20, 32);
    return args;
  };
  ExpectTheSequence(*cuda_, inputs, 0, {0});
}

// Gates for which exp overflows, underflows or is subnormal, times ups of every kind.
TEST_F(GatedMatMulCudaTest, OfSpecialValues) {
  const GatedInputs inputs = [](OpRun& run) {
    constexpr int64_t kCols = 8;
    const float gates[] = {0.0f, INFINITY, NAN, 1.0f, 3e38f, 88.5f, 89.5f, 103.5f, 1e-40f, 20.0f};
    const float ups[] = {1.5f, 0.0f, -INFINITY, NAN, -3e38f, 1e-39f};
    std::vector<float> gate, up, x = {1, 0, 0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0};
    for (const float g : gates) {
      for (const float u : ups) {
        gate.push_back(g), up.push_back(u);
        gate.resize(gate.size() + kCols - 1), up.resize(up.size() + kCols - 1);
      }
    }
    const auto weight = [&](const std::vector<float>& values) {
      std::vector<BF16> rounded;
      for (const float v : values) rounded.push_back(ToBF16(v));
      return WeightView{.format = {.dtype = DType::kBF16},
                        .data = run.Input(rounded),
                        .rows = static_cast<int64_t>(values.size()) / kCols,
                        .cols = kCols};
    };
    GatedMatMulArgs args;
    args.x = run.Input(x);
    args.x_stride = kCols;
    args.max_rows = 2;
    args.gate.layout = weight(gate);
    args.up.layout = weight(up);
    return args;
  };
  ExpectTheSequence(*cuda_, inputs, 0, kRowsOfTiles);
  ExpectTheSequence(*reference_, inputs, 0, {0});
}

// The product down takes the rounded activation to the sums that it makes of the wide one; also where a bias, here of
// zeros, keeps gate and up from being one kernel.
TEST_F(GatedMatMulCudaTest, LeavesExpertsTheirBits) {
  for (const auto& [c, has_bias] : {std::pair{kGatedCases[0], false}, std::pair{kGatedCases[3], false},
                                    std::pair{kGatedCases[5], false}, std::pair{kGatedCases[5], true}}) {
    SCOPED_TRACE(testing::Message() << c << ", bias " << has_bias);
    OpRun run(*cuda_, 7);
    const GatedMatMulArgs args = RandomInputs<BF16>(run, c);
    const MatrixView<float> activation = ActivateApart(run, args);
    std::vector<WeightView> downs;
    for (size_t g = 0; g < c.rows.size(); ++g)
      downs.push_back(RandomWeight(run, {.dtype = DType::kBF16}, c.cols, c.outs));
    const WeightArray down = {downs[0], run.Input(downs)};
    GatedMatMulArgs rows = args;
    rows.x = activation.data;
    rows.x_dtype = DType::kF32;
    rows.x_stride = activation.stride;
    rows.row_idx = nullptr;
    MultiplyOne(run, rows, down, run.Output<float>("want", args.max_rows * c.cols));
    WeightArray bias;
    if (has_bias) {
      const WeightView zeros{
          .format = {.dtype = DType::kF32}, .data = run.Input(std::vector<float>(c.outs)), .rows = 1, .cols = c.outs};
      bias = {zeros, run.Input(std::vector<WeightView>(c.rows.size(), zeros))};
    }
    float* const out = run.Output<float>("got", args.max_rows * c.cols);
    ExpertFfn(run.stream(), {.rows = {.rows = args.x,
                                      .dtype = args.x_dtype,
                                      .hidden = c.cols,
                                      .row_stride = args.x_stride,
                                      .row_idx = args.row_idx,
                                      .slot_offsets = args.offsets,
                                      .max_selections = args.max_rows},
                             .num_slots = args.num_groups,
                             .intermediate = c.outs,
                             .gate = args.gate,
                             .up = args.up,
                             .down = down,
                             .gate_bias = bias,
                             .scratch = run.Output<float>("scratch", args.max_rows * 2 * c.outs),
                             .out = MakeMatrix<float>(out, args.max_rows, c.cols),
                             .compute = Compute::kBF16});
    const auto results = run.Finish();
    ASSERT_TRUE(results.ok()) << results.status();
    EXPECT_EQ(results->at(2).bytes, results->at(3).bytes);
  }
}

}  // namespace
}  // namespace tokenferry
