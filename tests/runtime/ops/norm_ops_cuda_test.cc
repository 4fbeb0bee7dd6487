#include "runtime/ops/elementwise_ops.h"
#include "runtime/ops/norm_ops.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

template <class Weight>
void RmsNormCase(OpRun& run, int64_t num_rows, int64_t cols) {
  const int64_t stride = cols + run.rng()() % 3, out_stride = cols + run.rng()() % 3;
  RmsNormArgs args;
  args.x = {run.Input(NormalFloats(run.rng(), num_rows * stride)), num_rows, cols, stride};
  args.weight = run.Input(NormalValues<Weight>(run.rng(), cols));
  args.weight_dtype = kDTypeOf<Weight>;
  args.out = {run.Output<float>("out", num_rows * out_stride), num_rows, cols, out_stride};
  args.rounded = {run.Output<BF16>("rounded", num_rows * stride), num_rows, cols, stride};
  RmsNorm(run.stream(), args);
  args.rounded = {};
  float* x = run.InOut("in place", NormalFloats(run.rng(), num_rows * stride));
  args.x = {x, num_rows, cols, stride};
  args.out = {x, num_rows, cols, stride};
  RmsNorm(run.stream(), args);
}

template <class Weight>
void LayerNormCase(OpRun& run, int64_t num_rows, int64_t cols) {
  const int64_t stride = cols + run.rng()() % 3, out_stride = cols + run.rng()() % 3;
  LayerNormArgs args;
  args.x = {run.Input(NormalFloats(run.rng(), num_rows * stride)), num_rows, cols, stride};
  args.weight = run.Input(NormalValues<Weight>(run.rng(), cols));
  args.weight_dtype = kDTypeOf<Weight>;
  args.bias = run.Input(NormalFloats(run.rng(), cols));
  args.out = {run.Output<float>("out", num_rows * out_stride), num_rows, cols, out_stride};
  args.rounded = {run.Output<BF16>("rounded", num_rows * stride), num_rows, cols, stride};
  LayerNorm(run.stream(), args);
  args.rounded = {};
  float* x = run.InOut("in place", NormalFloats(run.rng(), num_rows * stride));
  args.x = {x, num_rows, cols, stride};
  args.out = {x, num_rows, cols, stride};
  LayerNorm(run.stream(), args);
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
  // With what is static more than the shared memory that needs no asking.
  ExpectSameBits([](OpRun& run) { RmsNormCase<BF16>(run, 1, 12'288); }, 1);
}

TEST_F(NormOpsCudaTest, LayerNorm) {
  for (int64_t num_rows : kRowCounts) {
    for (int64_t cols : kWidths) {
      SCOPED_TRACE(testing::Message() << num_rows << " rows of " << cols);
      ExpectSameBits([&](OpRun& run) { LayerNormCase<float>(run, num_rows, cols); });
      ExpectSameBits([&](OpRun& run) { LayerNormCase<BF16>(run, num_rows, cols); });
    }
  }
}

void EmbedCase(OpRun& run, const WeightFormat& format, int64_t num_tokens, int64_t cols) {
  constexpr int64_t kVocabulary = 11;
  EmbedArgs args;
  args.ids = run.Input(UniformInts(run.rng(), num_tokens, 0, kVocabulary));
  args.num_tokens = num_tokens;
  args.table = RandomWeight(run, format, kVocabulary, cols);
  args.out = {run.Output<float>("out", num_tokens * cols), num_tokens, cols, cols};
  Embed(run.stream(), args);
}

TEST_F(NormOpsCudaTest, Embed) {
  for (const WeightFormat& format : kWeightFormats) {
    for (int64_t num_tokens : kRowCounts) {
      for (int64_t cols : kWidths) {
        SCOPED_TRACE(testing::Message() << ToString(format) << ": " << num_tokens << " tokens of " << cols);
        ExpectSameBits([&](OpRun& run) { EmbedCase(run, format, num_tokens, cols); });
      }
    }
  }
  for (const WeightFormat& format : BlockFormats()) {
    for (int64_t num_tokens : {0, 1, 9}) {
      SCOPED_TRACE(testing::Message() << ToString(format) << ": " << num_tokens << " tokens");
      ExpectSameBits([&](OpRun& run) { EmbedCase(run, format, num_tokens, 2 * BlockOf(format.dtype).elements); });
    }
  }
}

TEST_F(NormOpsCudaTest, Add) {
  for (int64_t num_rows : kRowCounts) {
    for (int64_t cols : kWidths) {
      SCOPED_TRACE(testing::Message() << num_rows << " rows of " << cols);
      ExpectSameBits([&](OpRun& run) {
        const int64_t stride = cols + run.rng()() % 3;
        const auto matrix = [&] {
          return MatrixView<const float>{run.Input(NormalFloats(run.rng(), num_rows * stride)), num_rows, cols, stride};
        };
        AddArgs args;
        args.x = {run.InOut("x", NormalFloats(run.rng(), num_rows * stride)), num_rows, cols, stride};
        args.a = matrix();
        Add(run.stream(), args);
        args.b = matrix();
        Add(run.stream(), args);
      });
    }
  }
}

TEST_F(NormOpsCudaTest, ScaleRows) {
  for (int64_t num_rows : kRowCounts) {
    for (int64_t cols : kWidths) {
      SCOPED_TRACE(testing::Message() << num_rows << " rows of " << cols);
      ExpectSameBits([&](OpRun& run) {
        const int64_t stride = cols + run.rng()() % 3;
        ScaleRows(run.stream(), {{run.Input(NormalFloats(run.rng(), num_rows * stride)), num_rows, cols, stride},
                                 {run.Input(NormalFloats(run.rng(), num_rows)), num_rows, 1, 1},
                                 {run.Output<float>("out", num_rows * cols), num_rows, cols, cols}});
      });
    }
  }
}

TEST_F(NormOpsCudaTest, Elementwise) {
  for (int64_t num_rows : kRowCounts) {
    for (int64_t cols : kWidths) {
      SCOPED_TRACE(testing::Message() << num_rows << " rows of " << cols);
      ExpectSameBits([&](OpRun& run) {
        const int64_t stride = cols + run.rng()() % 3;
        const MatrixView<float> x{run.InOut("x", NormalFloats(run.rng(), num_rows * stride)), num_rows, cols, stride};
        AddBias(run.stream(), {x, run.Input(NormalFloats(run.rng(), cols))});
        Clamp(run.stream(), {x, 1.5f});
        Scale(run.stream(), {x, 0.3f});
        GateRows(run.stream(), {x, run.Input(NormalFloats(run.rng(), num_rows, 20))});
        Gate(run.stream(), {x, {run.Input(NormalFloats(run.rng(), num_rows * stride, 20)), num_rows, cols, stride}});
      });
    }
  }
}

}  // namespace
}  // namespace tokenferry
