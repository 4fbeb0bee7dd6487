#include "runtime/ops/norm_ops.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "core/kernels/dot.h"
#include "core/kernels/row_parallel.h"
#include "runtime/ops/row_kernels.h"

namespace tokenferry {
namespace {

// Each operation is a loop over independent rows; the reference runs it in order, the CPU kernel in parallel.

void EmbedRow(const EmbedArgs& a, int64_t t, const RowKernels& kernels) {
  kernels.widen(a.table, {a.ids[t], 1, 0, a.table.cols}, Compute::kF32, a.out.row(t));
}

void EmbedReference(const EmbedArgs& a) {
  for (int64_t t = 0; t < a.num_tokens; ++t) EmbedRow(a, t, PortableRowKernels());
}

void EmbedCpu(const EmbedArgs& a, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  ParallelRows(context, a.num_tokens, a.table.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) EmbedRow(a, t, kernels);
  });
}

void RoundRow(MatrixView<const float> x, int64_t t, MatrixView<BF16> rounded) {
  if (rounded.data == nullptr) return;
  for (int64_t i = 0; i < x.cols; ++i) rounded.row(t)[i] = ToBF16(x.row(t)[i]);
}

// `sum_squares` is the dot product of the row with itself.
void NormRow(const RmsNormArgs& a, int64_t t, float sum_squares) {
  const float* x = a.x.row(t);
  float* out = a.out.row(t);
  const float inverse = 1.0f / std::sqrt(sum_squares / static_cast<float>(a.x.cols) + a.eps);
  if (a.weight == nullptr) {
    for (int64_t i = 0; i < a.x.cols; ++i) out[i] = x[i] * inverse;
  } else if (a.weight_dtype == DType::kF32) {
    const float* weight = static_cast<const float*>(a.weight);
    for (int64_t i = 0; i < a.x.cols; ++i) out[i] = x[i] * inverse * weight[i];
  } else {
    const BF16* weight = static_cast<const BF16*>(a.weight);
    for (int64_t i = 0; i < a.x.cols; ++i) out[i] = x[i] * inverse * ToFloat(weight[i]);
  }
  RoundRow(a.out, t, a.rounded);
}

void RmsNormReference(const RmsNormArgs& a) {
  for (int64_t t = 0; t < a.x.rows; ++t) NormRow(a, t, DotF32(a.x.row(t), a.x.row(t), a.x.cols));
}

void RmsNormCpu(const RmsNormArgs& a, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  ParallelRows(context, a.x.rows, a.x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const Rows row{a.x.row(t), 1, a.x.stride};
      float sum_squares;
      kernels.dot(row, row, a.x.cols, &sum_squares, 1);
      NormRow(a, t, sum_squares);
    }
  });
}

// In matmul.h's lane order.
float SumRow(const float* x, int64_t size) {
  float lanes[kNumLanes] = {};
  for (int64_t i = 0; i < size; ++i) lanes[i % kNumLanes] += x[i];
  return SumLanes(lanes);
}

// out = x - mean, the first step of a layer norm.
void CentreRow(const LayerNormArgs& a, int64_t t) {
  const float* x = a.x.row(t);
  float* out = a.out.row(t);
  const float mean = SumRow(x, a.x.cols) / static_cast<float>(a.x.cols);
  for (int64_t i = 0; i < a.x.cols; ++i) out[i] = x[i] - mean;
}

// The second step, in place; `sum_squares` is the dot product of the centred row with itself.
void ScaleCentredRow(const LayerNormArgs& a, int64_t t, float sum_squares) {
  float* out = a.out.row(t);
  const float inverse = 1.0f / std::sqrt(sum_squares / static_cast<float>(a.x.cols) + a.eps);
  if (a.weight_dtype == DType::kF32) {
    const float* weight = static_cast<const float*>(a.weight);
    for (int64_t i = 0; i < a.x.cols; ++i) out[i] = out[i] * inverse * weight[i] + a.bias[i];
  } else {
    const BF16* weight = static_cast<const BF16*>(a.weight);
    for (int64_t i = 0; i < a.x.cols; ++i) out[i] = out[i] * inverse * ToFloat(weight[i]) + a.bias[i];
  }
  RoundRow(a.out, t, a.rounded);
}

void LayerNormReference(const LayerNormArgs& a) {
  for (int64_t t = 0; t < a.x.rows; ++t) {
    CentreRow(a, t);
    ScaleCentredRow(a, t, DotF32(a.out.row(t), a.out.row(t), a.x.cols));
  }
}

void LayerNormCpu(const LayerNormArgs& a, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  ParallelRows(context, a.x.rows, a.x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      CentreRow(a, t);
      const Rows centred{a.out.row(t), 1, a.out.stride};
      float sum_squares;
      kernels.dot(centred, centred, a.x.cols, &sum_squares, 1);
      ScaleCentredRow(a, t, sum_squares);
    }
  });
}

void AddRow(const AddArgs& a, int64_t t) {
  float* x = a.x.row(t);
  const float* first = a.a.row(t);
  if (a.b.data == nullptr) {
    for (int64_t i = 0; i < a.x.cols; ++i) x[i] += a.factor * first[i];
  } else {
    const float* second = a.b.row(t);
    for (int64_t i = 0; i < a.x.cols; ++i) x[i] += a.factor * (first[i] + second[i]);
  }
}

void AddReference(const AddArgs& a) {
  for (int64_t t = 0; t < a.x.rows; ++t) AddRow(a, t);
}

void AddCpu(const AddArgs& a, CpuContext& context) {
  ParallelRows(context, a.x.rows, a.x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) AddRow(a, t);
  });
}

bool IsF32OrBF16(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

template <class Args>
void CheckNorm(const Args& args) {
  TF_CHECK(IsF32OrBF16(args.weight_dtype));
  TF_CHECK_EQ(args.x.cols, args.out.cols);
  TF_CHECK_EQ(args.x.rows, args.out.rows);
  if (args.rounded.data == nullptr) return;
  TF_CHECK_EQ(args.rounded.cols, args.out.cols);
  TF_CHECK_EQ(args.rounded.rows, args.out.rows);
}

}  // namespace

// norm_ops.cu
absl::Status CudaEmbed(const EmbedArgs& args, void* stream);
absl::Status CudaAdd(const AddArgs& args, void* stream);
absl::Status CudaRmsNorm(const RmsNormArgs& args, void* stream);
absl::Status CudaLayerNorm(const LayerNormArgs& args, void* stream);

constexpr Op<EmbedArgs> kEmbed{"embed", &EmbedReference, &EmbedCpu, TF_CUDA_LAUNCHER(CudaEmbed)};
constexpr Op<RmsNormArgs> kRmsNorm{"rms_norm", &RmsNormReference, &RmsNormCpu, TF_CUDA_LAUNCHER(CudaRmsNorm)};
constexpr Op<LayerNormArgs> kLayerNorm{"layer_norm", &LayerNormReference, &LayerNormCpu,
                                       TF_CUDA_LAUNCHER(CudaLayerNorm)};
constexpr Op<AddArgs> kAdd{"add", &AddReference, &AddCpu, TF_CUDA_LAUNCHER(CudaAdd)};

void Embed(Stream& stream, const EmbedArgs& args) {
  CheckWeight(args.table);
  TF_CHECK_EQ(args.out.cols, args.table.cols);
  stream.Launch(kEmbed, args);
}

void RmsNorm(Stream& stream, const RmsNormArgs& args) {
  CheckNorm(args);
  stream.Launch(kRmsNorm, args);
}

void LayerNorm(Stream& stream, const LayerNormArgs& args) {
  CheckNorm(args);
  TF_CHECK(args.x.rows == 0 || (args.weight != nullptr && args.bias != nullptr));
  stream.Launch(kLayerNorm, args);
}

void Add(Stream& stream, const AddArgs& args) {
  TF_CHECK_EQ(args.x.cols, args.a.cols);
  TF_CHECK_EQ(args.x.rows, args.a.rows);
  stream.Launch(kAdd, args);
}

}  // namespace tokenferry
