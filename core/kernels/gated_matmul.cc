#include "core/kernels/gated_matmul.h"

#include <vector>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "core/kernels/dot.h"
#include "core/kernels/exp.h"
#include "core/kernels/matmul_values.h"

namespace tokenferry {
namespace {

void MultiplyGroup(const GatedMatMulArgs& a, const WeightView& gate, const WeightView& up, int64_t begin, int64_t end) {
  constexpr Compute kCompute = Compute::kBF16;
  const int64_t cols = gate.cols;
  std::vector<float> x(cols), gate_row(cols), up_row(cols);
  for (int64_t o = 0; o < gate.rows; ++o) {
    WeightValues(gate, o, 0, cols, kCompute, gate_row.data());
    WeightValues(up, o, 0, cols, kCompute, up_row.data());
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = a.row_idx == nullptr ? t : a.row_idx[t];
      const void* const from = static_cast<const uint8_t*>(a.x) + row * a.x_stride * DTypeBytes(a.x_dtype);
      for (int64_t i = 0; i < cols; ++i) x[i] = RowValue(from, a.x_dtype, i, kCompute);
      const float silu = Silu(DotF32(x.data(), gate_row.data(), cols));
      a.y.row(t)[o] = ToBF16(silu * DotF32(x.data(), up_row.data(), cols));
    }
  }
}

void ReferenceGatedMatMul(const GatedMatMulArgs& a) {
  const auto matrix = [](const WeightArray& w, int64_t g) { return w.views == nullptr ? w.layout : w.views[g]; };
  for (int64_t g = 0; g < a.num_groups; ++g) {
    const int64_t begin = a.offsets == nullptr ? 0 : a.offsets[g],
                  end = a.offsets == nullptr ? a.max_rows : a.offsets[g + 1];
    MultiplyGroup(a, matrix(a.gate, g), matrix(a.up, g), begin, end);
  }
}

}  // namespace

absl::Status CudaGatedMatMul(const GatedMatMulArgs& args, void* stream);  // gated_matmul.cu

constexpr Op<GatedMatMulArgs> kGatedMatMul = {"gated_matmul", ReferenceGatedMatMul, nullptr,
                                              TF_CUDA_LAUNCHER(CudaGatedMatMul)};

void GatedMatMul(Stream& stream, const GatedMatMulArgs& args) {
  TF_CHECK(args.x_dtype == DType::kF32 || args.x_dtype == DType::kBF16);
  TF_CHECK_EQ(args.gate.layout.rows, args.up.layout.rows);
  TF_CHECK_EQ(args.gate.layout.cols, args.up.layout.cols);
  TF_CHECK_GE(args.y.stride, args.gate.layout.rows);
  stream.Launch(kGatedMatMul, args);
}

}  // namespace tokenferry
