#include "runtime/ops/elementwise_ops.h"

#include <algorithm>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "core/kernels/exp.h"
#include "core/kernels/row_parallel.h"
#include "runtime/ops/row_kernels.h"

namespace tokenferry {
namespace {

void Row(const AddBiasArgs& a, int64_t t) {
  float* x = a.x.row(t);
  for (int64_t i = 0; i < a.x.cols; ++i) x[i] += a.bias[i];
}

void Row(const ClampArgs& a, int64_t t) {
  float* x = a.x.row(t);
  for (int64_t i = 0; i < a.x.cols; ++i) x[i] = x[i] > a.limit ? a.limit : x[i] < -a.limit ? -a.limit : x[i];
}

void Row(const GateRowsArgs& a, int64_t t) {
  float* x = a.x.row(t);
  const float gate = Sigmoid(a.logits[t]);
  for (int64_t i = 0; i < a.x.cols; ++i) x[i] *= gate;
}

void Row(const ScaleArgs& a, int64_t t) {
  float* x = a.x.row(t);
  for (int64_t i = 0; i < a.x.cols; ++i) x[i] *= a.factor;
}

void Row(const ScaleRowsArgs& a, int64_t t) {
  const float* x = a.x.row(t);
  float* out = a.out.row(t);
  const float weight = *a.weight.row(t);
  for (int64_t i = 0; i < a.x.cols; ++i) out[i] = x[i] * weight;
}

void GateRow(const GateArgs& a, int64_t t, const RowKernels& kernels) {
  constexpr int64_t kPiece = 256;
  float sigmoid[kPiece];
  float* x = a.x.row(t);
  for (int64_t begin = 0; begin < a.x.cols; begin += kPiece) {
    const int64_t size = std::min(kPiece, a.x.cols - begin);
    kernels.sigmoid(a.gate.row(t) + begin, size, sigmoid);
    for (int64_t i = 0; i < size; ++i) x[begin + i] *= sigmoid[i];
  }
}

void GateReference(const GateArgs& a) {
  for (int64_t t = 0; t < a.x.rows; ++t) GateRow(a, t, PortableRowKernels());
}

void GateCpu(const GateArgs& a, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  ParallelRows(context, a.x.rows, a.x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) GateRow(a, t, kernels);
  });
}

template <class Args>
void Reference(const Args& args) {
  for (int64_t t = 0; t < args.x.rows; ++t) Row(args, t);
}

template <class Args>
void Cpu(const Args& args, CpuContext& context) {
  ParallelRows(context, args.x.rows, args.x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) Row(args, t);
  });
}

}  // namespace

absl::Status CudaAddBias(const AddBiasArgs& args, void* stream);  // elementwise_ops.cu
absl::Status CudaClamp(const ClampArgs& args, void* stream);
absl::Status CudaGateRows(const GateRowsArgs& args, void* stream);
absl::Status CudaGate(const GateArgs& args, void* stream);
absl::Status CudaScale(const ScaleArgs& args, void* stream);
absl::Status CudaScaleRows(const ScaleRowsArgs& args, void* stream);

constexpr Op<AddBiasArgs> kAddBias{"add_bias", &Reference<AddBiasArgs>, &Cpu<AddBiasArgs>,
                                   TF_CUDA_LAUNCHER(CudaAddBias)};
constexpr Op<ClampArgs> kClamp{"clamp", &Reference<ClampArgs>, &Cpu<ClampArgs>, TF_CUDA_LAUNCHER(CudaClamp)};
constexpr Op<GateRowsArgs> kGateRows{"gate_rows", &Reference<GateRowsArgs>, &Cpu<GateRowsArgs>,
                                     TF_CUDA_LAUNCHER(CudaGateRows)};
constexpr Op<ScaleArgs> kScale{"scale", &Reference<ScaleArgs>, &Cpu<ScaleArgs>, TF_CUDA_LAUNCHER(CudaScale)};

constexpr Op<ScaleRowsArgs> kScaleRows{"scale_rows", &Reference<ScaleRowsArgs>, &Cpu<ScaleRowsArgs>,
                                       TF_CUDA_LAUNCHER(CudaScaleRows)};
constexpr Op<GateArgs> kGate{"gate", &GateReference, &GateCpu, TF_CUDA_LAUNCHER(CudaGate)};

void Scale(Stream& stream, const ScaleArgs& args) { stream.Launch(kScale, args); }

void Gate(Stream& stream, const GateArgs& args) {
  TF_CHECK_EQ(args.x.rows, args.gate.rows);
  TF_CHECK_EQ(args.x.cols, args.gate.cols);
  stream.Launch(kGate, args);
}

void ScaleRows(Stream& stream, const ScaleRowsArgs& args) {
  TF_CHECK_EQ(args.x.rows, args.out.rows);
  TF_CHECK_EQ(args.x.cols, args.out.cols);
  TF_CHECK_EQ(args.weight.rows, args.x.rows);
  stream.Launch(kScaleRows, args);
}

void AddBias(Stream& stream, const AddBiasArgs& args) {
  TF_CHECK(args.bias != nullptr);
  stream.Launch(kAddBias, args);
}

void Clamp(Stream& stream, const ClampArgs& args) {
  TF_CHECK_GT(args.limit, 0);
  stream.Launch(kClamp, args);
}

void GateRows(Stream& stream, const GateRowsArgs& args) {
  TF_CHECK(args.logits != nullptr);
  stream.Launch(kGateRows, args);
}

}  // namespace tokenferry
