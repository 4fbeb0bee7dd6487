#include "runtime/ops/norm_ops.h"

#include <cmath>
#include <random>

#include "core/kernels/dot.h"
#include "core/kernels/gather_rows.h"
#include "tests/support/device_cases.h"

namespace tokenferry {
namespace {

constexpr unsigned kSeed = 7;

std::vector<BF16> ToBF16s(const std::vector<float>& x) {
  std::vector<BF16> out;
  for (float v : x) out.push_back(ToBF16(v));
  return out;
}

class NormOps : public testing::TestWithParam<CpuDeviceOptions> {
 protected:
  std::mt19937 rng_{kSeed};
};
INSTANTIATE_TEST_SUITE_P(Fast, NormOps, testing::ValuesIn(FastDevices()));
INSTANTIATE_TEST_SUITE_P(Reference, NormOps, testing::Values(ReferenceDevice()));

// Rows wider than the matrix, so that a stride taken for the width shows.
constexpr int64_t kGap = 3;

TEST_P(NormOps, RmsNormFollowsItsFormulaInPlaceAndNot) {
  for (int64_t cols : {1, 2, 15, 16, 17, 31, 40, 128, 1000, 1536}) {
    for (int64_t rows : {0, 1, 5, 70}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << cols);
      const int64_t stride = cols + kGap;
      const std::vector<float> x = RandomNormal(rng_, rows * stride), weight = RandomNormal(rng_, cols);
      const std::vector<BF16> narrow = ToBF16s(weight);
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        std::vector<float> want = x;
        for (int64_t t = 0; t < rows; ++t) {
          const float* row = x.data() + t * stride;
          const float inverse = 1.0f / std::sqrt(DotF32(row, row, cols) / static_cast<float>(cols) + 1e-5f);
          double squares = 0;
          for (int64_t i = 0; i < cols; ++i) squares += static_cast<double>(row[i]) * row[i];
          const double exact = 1 / std::sqrt(squares / static_cast<double>(cols) + 1e-5f);
          for (int64_t i = 0; i < cols; ++i) {
            const float w = dtype == DType::kF32 ? weight[i] : ToFloat(narrow[i]);
            want[t * stride + i] = row[i] * inverse * w;
            // The sum has relative error (cols / 16 + 6) u, halved by the root; 6 more roundings, u = 2^-24.
            const double tolerance = (static_cast<double>(cols) / 32 + 10) * 0x1p-24;
            ASSERT_NEAR(want[t * stride + i], row[i] * exact * w, std::abs(row[i] * exact * w) * tolerance);
          }
        }
        TestDevice device(GetParam());
        Buffer in = device.Upload(x), out = device.Upload(x);
        Buffer w = dtype == DType::kF32 ? device.Upload(weight) : device.Upload(narrow);
        RmsNormArgs args{.x = {in.as<float>(), rows, cols, stride},
                         .weight = w.data(),
                         .weight_dtype = dtype,
                         .eps = 1e-5f,
                         .out = {out.as<float>(), rows, cols, stride}};
        RmsNorm(device.stream(), args);
        EXPECT_TRUE(SameBits(device.Download<float>(out), want));
        EXPECT_TRUE(SameBits(device.Download<float>(in), x));
        args.out = {in.as<float>(), rows, cols, stride};
        Buffer rounded = device.Upload(ToBF16s(x));
        args.rounded = {rounded.as<BF16>(), rows, cols, stride};
        RmsNorm(device.stream(), args);
        EXPECT_TRUE(SameBits(device.Download<float>(in), want));
        EXPECT_TRUE(SameBits(device.Download<BF16>(rounded), ToBF16s(want)));
      }
    }
  }
}

// Against the definition in f32, bit for bit, and in double. Rows have a mean of 3, so that a kernel which forgets it,
// or takes the second moment for the variance, is far off.
TEST_P(NormOps, LayerNormFollowsItsFormulaInPlaceAndNot) {
  constexpr float kEps = 1e-5f;
  for (int64_t cols : {1, 2, 15, 16, 17, 31, 40, 128, 1000, 1536}) {
    const std::vector<float> ones(cols, 1.0f);
    for (int64_t rows : {0, 1, 5, 70}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << cols);
      const int64_t stride = cols + kGap;
      std::vector<float> x = RandomNormal(rng_, rows * stride);
      for (float& v : x) v += 3;
      const std::vector<float> weight = RandomNormal(rng_, cols), bias = RandomNormal(rng_, cols);
      const std::vector<BF16> narrow = ToBF16s(weight);
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        std::vector<float> want = x;
        for (int64_t t = 0; t < rows; ++t) {
          const float* row = x.data() + t * stride;
          const float mean = DotF32(row, ones.data(), cols) / static_cast<float>(cols);
          std::vector<float> centred(row, row + cols);
          for (float& c : centred) c -= mean;
          const float variance = DotF32(centred.data(), centred.data(), cols) / static_cast<float>(cols);
          const float inverse = 1.0f / std::sqrt(variance + kEps);
          double exact_mean = 0, exact_variance = 0;
          for (int64_t i = 0; i < cols; ++i) exact_mean += row[i] / static_cast<double>(cols);
          for (int64_t i = 0; i < cols; ++i) {
            exact_variance += (row[i] - exact_mean) * (row[i] - exact_mean) / static_cast<double>(cols);
          }
          const double exact_inverse = 1 / std::sqrt(exact_variance + kEps);
          for (int64_t i = 0; i < cols; ++i) {
            const float w = dtype == DType::kF32 ? weight[i] : ToFloat(narrow[i]);
            want[t * stride + i] = centred[i] * inverse * w + bias[i];
            // u = 2^-24. The mean of cols values of at most 8 errs by (cols / 16 + 6) u times 8, and a centred value by
            // that and a rounding: `shift`. It enters the value times inverse * w, and once more through the variance,
            // whose relative error is at most 2 shift * inverse (Cauchy-Schwarz: no centred value's mean size exceeds
            // 1 / inverse) and (cols / 16 + 6) u for its sum, halved by the root; 6 more roundings.
            const double sum_error = (static_cast<double>(cols) / 16 + 6) * 0x1p-24, shift = 8 * (sum_error + 0x1p-24);
            const double value = std::abs((row[i] - exact_mean) * exact_inverse * w);
            const double tolerance = shift * exact_inverse * std::abs(w) +
                                     value * (shift * exact_inverse + sum_error / 2 + 6 * 0x1p-24) +
                                     std::abs(bias[i]) * 0x1p-24;
            ASSERT_NEAR(want[t * stride + i], (row[i] - exact_mean) * exact_inverse * w + bias[i], tolerance);
          }
        }
        TestDevice device(GetParam());
        Buffer in = device.Upload(x), out = device.Upload(x), b = device.Upload(bias);
        Buffer w = dtype == DType::kF32 ? device.Upload(weight) : device.Upload(narrow);
        LayerNormArgs args{.x = {in.as<float>(), rows, cols, stride},
                           .weight = w.data(),
                           .weight_dtype = dtype,
                           .bias = b.as<float>(),
                           .eps = kEps,
                           .out = {out.as<float>(), rows, cols, stride}};
        LayerNorm(device.stream(), args);
        EXPECT_TRUE(SameBits(device.Download<float>(out), want));
        EXPECT_TRUE(SameBits(device.Download<float>(in), x));
        args.out = {in.as<float>(), rows, cols, stride};
        Buffer rounded = device.Upload(ToBF16s(x));
        args.rounded = {rounded.as<BF16>(), rows, cols, stride};
        LayerNorm(device.stream(), args);
        EXPECT_TRUE(SameBits(device.Download<float>(in), want));
        EXPECT_TRUE(SameBits(device.Download<BF16>(rounded), ToBF16s(want)));
      }
    }
  }
}

TEST_P(NormOps, EmbedCopiesOrWidensRows) {
  constexpr int64_t kVocab = 11;
  for (int64_t cols : {1, 16, 33, 100}) {
    for (int64_t num_tokens : {0, 1, 9}) {
      const std::vector<float> table = RandomNormal(rng_, kVocab * cols);
      const std::vector<BF16> narrow = ToBF16s(table);
      std::vector<int32_t> ids(num_tokens);
      for (int32_t& id : ids) id = static_cast<int32_t>(rng_() % kVocab);
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        std::vector<float> want(num_tokens * (cols + kGap), -5);
        TestDevice device(GetParam());
        Buffer out = device.Upload(want), ids_buffer = device.Upload(ids);
        Buffer data = dtype == DType::kF32 ? device.Upload(table) : device.Upload(narrow);
        for (int64_t t = 0; t < num_tokens; ++t) {
          for (int64_t i = 0; i < cols; ++i) {
            const int64_t from = ids[t] * cols + i;
            want[t * (cols + kGap) + i] = dtype == DType::kF32 ? table[from] : ToFloat(narrow[from]);
          }
        }
        Embed(device.stream(), {.ids = ids_buffer.as<int32_t>(),
                                .num_tokens = num_tokens,
                                .table = {.format = {dtype}, .data = data.data(), .rows = kVocab, .cols = cols},
                                .out = {out.as<float>(), num_tokens, cols, cols + kGap}});
        EXPECT_TRUE(SameBits(device.Download<float>(out), want));
      }
    }
  }
}

TEST_P(NormOps, AddRoundsTheSumOfTwoFirst) {
  for (int64_t rows : {0, 1, 6, 300}) {
    for (int64_t cols : {1, 7, 65}) {
      const int64_t stride = cols + kGap;
      const std::vector<float> x = RandomNormal(rng_, rows * stride), a = RandomNormal(rng_, rows * cols),
                               b = RandomNormal(rng_, rows * cols);
      std::vector<float> one = x, two = x;
      for (int64_t t = 0; t < rows; ++t) {
        for (int64_t i = 0; i < cols; ++i) {
          one[t * stride + i] += a[t * cols + i];
          const float sum = a[t * cols + i] + b[t * cols + i];
          two[t * stride + i] += sum;
        }
      }
      TestDevice device(GetParam());
      Buffer first = device.Upload(x), second = device.Upload(x), ab = device.Upload(a), bb = device.Upload(b);
      const MatrixView<float> av = MakeMatrix<float>(ab.data(), rows, cols),
                              bv = MakeMatrix<float>(bb.data(), rows, cols);
      Add(device.stream(), {.x = {first.as<float>(), rows, cols, stride}, .a = av});
      Add(device.stream(), {.x = {second.as<float>(), rows, cols, stride}, .a = av, .b = bv});
      EXPECT_TRUE(SameBits(device.Download<float>(first), one));
      // With no rows the second matrix is a null pointer, as when it is absent; the result is the same: nothing.
      EXPECT_TRUE(SameBits(device.Download<float>(second), two));
    }
  }
}

TEST_P(NormOps, GatherRowsCopiesRows) {
  constexpr int64_t kRows = 13, kCols = 37;
  const std::vector<float> x = RandomNormal(rng_, kRows * (kCols + kGap));
  for (int64_t n : {0, 1, 1000}) {
    std::vector<int32_t> row_idx(n);
    for (int32_t& row : row_idx) row = static_cast<int32_t>(rng_() % kRows);
    std::vector<float> want;
    for (int32_t row : row_idx) want.insert(want.end(), &x[row * (kCols + kGap)], &x[row * (kCols + kGap)] + kCols);
    TestDevice device(GetParam());
    Buffer in = device.Upload(x), index = device.Upload(row_idx), out = device.Allocate<float>(n * kCols);
    const MatrixView<const float> src{in.as<float>(), kRows, kCols, kCols + kGap};
    device.stream().Launch(kGatherRows, {src, index.as<int32_t>(), n, out.data(), DType::kF32});
    EXPECT_TRUE(SameBits(device.Download<float>(out), want));
  }
}

}  // namespace
}  // namespace tokenferry
