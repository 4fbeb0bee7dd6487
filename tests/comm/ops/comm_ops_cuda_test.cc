#include "comm/ops/copy_rows.h"
#include "comm/ops/exchange_ops.h"
#include "comm/ops/row_codec_ops.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

constexpr int64_t kSourceRows = 9;

template <class In, class Out>
void CombineCase(OpRun& run, int64_t num_tokens, int64_t cols) {
  constexpr int64_t kTopK = 9;
  std::vector<int64_t> offsets = {0};
  for (int64_t t = 0; t < num_tokens; ++t) offsets.push_back(offsets.back() + run.rng()() % (kTopK + 1));
  const int64_t stride = cols + run.rng()() % 3;
  CombineRowsArgs args;
  args.rows =
      MatrixView<const In>{run.Input(NormalValues<In>(run.rng(), kSourceRows * stride)), kSourceRows, cols, stride};
  args.offsets = run.Input(offsets);
  args.selection = run.Input(UniformInts(run.rng(), offsets.back(), 0, kSourceRows));
  args.k = run.Input(UniformInts(run.rng(), offsets.back(), 0, kTopK));
  args.weight = {run.Input(NormalFloats(run.rng(), num_tokens * kTopK)), num_tokens, kTopK, kTopK};
  args.out = MatrixView<Out>{run.Output<Out>("out", num_tokens * stride), num_tokens, cols, stride};
  run.stream().Launch(kCombineRows, args);
}

template <class T>
void CodecCase(OpRun& run, int64_t num_rows, int64_t cols, DType dtype) {
  std::vector<T> values = NormalValues<T>(run.rng(), kSourceRows * cols);
  for (int64_t i = 0; i < cols; ++i) values[i] = T{};  // a row of zeros
  if (cols > 2) {
    const auto set = [&](int64_t i, float x) {
      if constexpr (std::is_same_v<T, BF16>) {
        values[i] = ToBF16(x);
      } else {
        values[i] = x;
      }
    };
    set(cols + 1, INFINITY);  // blocks whose scale is NaN, and one whose values are too small to matter
    set(2 * cols + 2, NAN);
    for (int64_t i = 3 * cols; i < 4 * cols; ++i) set(i, 1e-45f);
  }
  QuantiseRowsArgs narrow;
  narrow.src = MatrixView<const T>{run.Input(values), kSourceRows, cols, cols};
  std::vector<int32_t> idx = UniformInts(run.rng(), num_rows, 0, kSourceRows);
  for (size_t i = 0; i < idx.size() && i < 4; ++i) idx[i] = static_cast<int32_t>(i);
  narrow.idx = run.Input(idx);
  narrow.num_rows = num_rows;
  narrow.dtype = dtype;
  narrow.out = run.Output<uint8_t>("codes", num_rows * RowBytes(dtype, cols));
  run.stream().Launch(kQuantiseRows, narrow);
  WidenRowsArgs wide;
  wide.rows = narrow.out;
  wide.dtype = dtype;
  wide.num_rows = num_rows;
  wide.hidden = cols;
  wide.out = run.Output<T>("values", num_rows * cols);
  wide.out_dtype = kDTypeOf<T>;
  wide.live_rows = RandomLiveRows(run, num_rows);
  run.stream().Launch(kWidenRows, wide);
}

class CommOpsCudaTest : public CudaCompareTest {
 protected:
  // For every usual number of rows and width.
  void ForShapes(const std::function<void(int64_t, int64_t)>& test) {
    for (int64_t num_rows : kRowCounts) {
      for (int64_t cols : kWidths) {
        SCOPED_TRACE(testing::Message() << num_rows << " rows of " << cols);
        test(num_rows, cols);
      }
    }
  }
};

TEST_F(CommOpsCudaTest, CopyRows) {
  ForShapes([&](int64_t num_rows, int64_t row_bytes) {
    ExpectSameBits([&](OpRun& run) {
      std::vector<uint8_t> bytes(kSourceRows * row_bytes);
      for (uint8_t& b : bytes) b = static_cast<uint8_t>(run.rng()());
      CopyRowsArgs args;
      args.src = run.Input(bytes);
      args.idx = run.Input(UniformInts(run.rng(), num_rows, 0, kSourceRows));
      args.num_rows = num_rows;
      args.row_bytes = row_bytes;
      args.out = run.Output<uint8_t>("out", num_rows * row_bytes);
      run.stream().Launch(kCopyRows, args);
    });
  });
}

TEST_F(CommOpsCudaTest, PullRowsFrom) {
  ForShapes([&](int64_t num_rows, int64_t row_bytes) {
    ExpectSameBits([&](OpRun& run) {
      std::vector<const char*> from;
      std::vector<uint8_t> bytes(kSourceRows * row_bytes);
      for (uint8_t& b : bytes) b = static_cast<uint8_t>(run.rng()());
      const char* const parts[] = {reinterpret_cast<const char*>(run.Input(bytes)),
                                   reinterpret_cast<const char*>(run.Input(bytes))};
      for (const int32_t i : UniformInts(run.rng(), num_rows, 0, 2 * kSourceRows)) {
        from.push_back(parts[i % 2] + i / 2 * row_bytes);
      }
      auto* const out = run.Output<uint8_t>("out", num_rows * row_bytes);
      run.stream().Launch(kPullRowsFrom, {run.Input(from), num_rows, row_bytes, reinterpret_cast<char*>(out)});
    });
  });
}

TEST_F(CommOpsCudaTest, CombineRows) {
  ForShapes([&](int64_t num_tokens, int64_t cols) {
    ExpectSameBits([&](OpRun& run) { CombineCase<float, float>(run, num_tokens, cols); });
    ExpectSameBits([&](OpRun& run) { CombineCase<BF16, float>(run, num_tokens, cols); });
    ExpectSameBits([&](OpRun& run) { CombineCase<float, BF16>(run, num_tokens, cols); });
    ExpectSameBits([&](OpRun& run) { CombineCase<BF16, BF16>(run, num_tokens, cols); });
  });
}

TEST_F(CommOpsCudaTest, QuantiseAndWiden) {
  ForShapes([&](int64_t num_rows, int64_t cols) {
    for (DType dtype : {DType::kF8E4M3, DType::kI8}) {
      ExpectSameBits([&](OpRun& run) { CodecCase<float>(run, num_rows, cols, dtype); });
      ExpectSameBits([&](OpRun& run) { CodecCase<BF16>(run, num_rows, cols, dtype); });
    }
  });
}

}  // namespace
}  // namespace tokenferry
