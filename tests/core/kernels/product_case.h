// A product of random numbers, and its comparison with the plain reference.
#pragma once

#include "core/kernels/matmul.h"
#include "tests/core/kernels/kernel_test_util.h"

namespace tokenferry {

// One product on the host; row_idx empty: none.
struct Case {
  int64_t num_rows = 1, x_rows = 1;
  HostWeight w;
  std::vector<float> x;  // [x_rows, cols]
  DType x_dtype = DType::kF32;
  std::vector<int32_t> row_idx;
  Compute compute = Compute::kF32;
  Accumulate accumulate = Accumulate::kNo;
};

inline constexpr int64_t kExtraColumns = 3;  // y's row stride is wider than its rows; what lies between must stay

inline Case RandomCase(int64_t num_rows, int64_t num_outs, int64_t cols, DType w_dtype, std::mt19937& random) {
  Case c;
  c.num_rows = num_rows;
  c.x_rows = num_rows + 2;
  c.w = RandomWeight(w_dtype, num_outs, cols, random);
  c.x = RandomFloats(c.x_rows * cols, random);
  for (int64_t t = 0; t < num_rows; ++t) c.row_idx.push_back(static_cast<int32_t>(random() % c.x_rows));
  return c;
}

inline std::vector<float> RunProduct(const Case& c, const CpuDeviceOptions& options) {
  TestDevice device(options);
  const int64_t y_stride = c.w.shape.rows + kExtraColumns;
  std::vector<float> y(c.num_rows * y_stride);
  for (size_t i = 0; i < y.size(); ++i) y[i] = 0.5f + static_cast<float>(i);
  float* y_device = device.Upload(y);
  MatMulArgs args;
  args.x = c.x_dtype == DType::kF32 ? static_cast<void*>(device.Upload(c.x)) : device.Upload(ToBF16s(c.x));
  args.x_dtype = c.x_dtype;
  args.x_stride = c.w.shape.cols;
  args.row_idx = c.row_idx.empty() ? nullptr : device.Upload(c.row_idx);
  args.num_rows = c.num_rows;
  args.w = c.w.Upload(device);
  args.y = y_device;
  args.y_stride = y_stride;
  args.compute = c.compute;
  args.accumulate = c.accumulate;
  MatMul(device.stream(), args);
  return device.Download(y_device, y.size());
}

inline std::vector<Isa> ExactIsas(Compute compute) {
  std::vector<Isa> list = SupportedIsaList();
  if (compute == Compute::kBF16) std::erase(list, Isa::kAvx512Bf16);
  return list;
}

inline void ExpectExact(const Case& c) {
  const std::vector<float> expected = RunProduct(c, ReferenceOptions());
  for (Isa isa : ExactIsas(c.compute)) {
    for (int threads : {1, 3}) {
      EXPECT_TRUE(SameBytes(RunProduct(c, FastOptions(isa, threads)), expected))
          << IsaName(isa) << " threads " << threads;
    }
  }
}

// Few rows and many go different ways through a kernel and must give a row the same bits, on every instruction set.
inline void ExpectRowsAlone(const Case& c) {
  Case first = c;
  first.num_rows = 1;
  const size_t row_bytes = c.w.shape.rows * sizeof(float);
  for (Isa isa : SupportedIsaList()) {
    const std::vector<float> all = RunProduct(c, FastOptions(isa)), alone = RunProduct(first, FastOptions(isa));
    EXPECT_EQ(std::memcmp(all.data(), alone.data(), row_bytes), 0) << IsaName(isa);
  }
}

}  // namespace tokenferry
