// What some families have between and after the products of experts, element by element.
#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "core/kernels/exp.h"
#include "core/kernels/live_rows.h"
#include "core/kernels/row_parallel.h"
#include "experts/ffn/expert_ffn.h"

namespace tokenferry {
namespace {

void SwigluRows(const ClampedSwigluArgs& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const float *gate = a.gate.row(r), *up = a.up.row(r);
    float* out = a.out.row(r);
    for (int64_t i = 0; i < a.out.cols; ++i) {
      // NaN stays NaN: every comparison with it is false.
      const float g = gate[i] > a.limit ? a.limit : gate[i];
      const float u = up[i] > a.limit ? a.limit : up[i] < -a.limit ? -a.limit : up[i];
      out[i] = (u + 1.0f) * (g / (1.0f + ExpF32(-a.alpha * g)));
    }
  }
}

void SwigluReference(const ClampedSwigluArgs& a) { SwigluRows(a, 0, NumLive(a.out.rows, a.live_rows)); }

void SwigluCpu(const ClampedSwigluArgs& a, CpuContext& context) {
  ParallelRows<8192>(context, NumLive(a.out.rows, a.live_rows), a.out.cols,
                     [&](int64_t begin, int64_t end) { SwigluRows(a, begin, end); });
}

void ReluRows(const ReluArgs& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    float* x = a.x.row(r);
    for (int64_t i = 0; i < a.x.cols; ++i) x[i] = x[i] < 0 ? 0.0f : x[i];
  }
}

void ReluReference(const ReluArgs& a) { ReluRows(a, 0, NumLive(a.x.rows, a.live_rows)); }

void ReluCpu(const ReluArgs& a, CpuContext& context) {
  ParallelRows<8192>(context, NumLive(a.x.rows, a.live_rows), a.x.cols,
                     [&](int64_t begin, int64_t end) { ReluRows(a, begin, end); });
}

// Rows of one slot.
void AddBiasRows(const AddSlotBiasArgs& a, int64_t slot, int64_t begin, int64_t end) {
  const auto* bias = static_cast<const float*>(a.bias.views[slot].data);
  for (int64_t r = begin; r < end; ++r) {
    if (a.x.dtype == DType::kF32) {
      auto* x = static_cast<float*>(a.x.row(r));
      for (int64_t i = 0; i < a.x.cols; ++i) x[i] += bias[i];
    } else {
      auto* x = static_cast<BF16*>(a.x.row(r));
      for (int64_t i = 0; i < a.x.cols; ++i) x[i] = ToBF16(ToFloat(x[i]) + bias[i]);
    }
  }
}

void AddSlotBiasReference(const AddSlotBiasArgs& a) {
  for (int64_t s = 0; s < a.num_slots; ++s) AddBiasRows(a, s, a.slot_offsets[s], a.slot_offsets[s + 1]);
}

void AddSlotBiasCpu(const AddSlotBiasArgs& a, CpuContext& context) {
  context.pool.ParallelFor(a.num_slots,
                           [&](int64_t s, int) { AddBiasRows(a, s, a.slot_offsets[s], a.slot_offsets[s + 1]); });
}

}  // namespace

absl::Status CudaClampedSwiglu(const ClampedSwigluArgs& args, void* stream);  // expert_epilogues.cu
absl::Status CudaAddSlotBias(const AddSlotBiasArgs& args, void* stream);
absl::Status CudaRelu(const ReluArgs& args, void* stream);

constexpr Op<ClampedSwigluArgs> kClampedSwiglu{"clamped_swiglu", SwigluReference, SwigluCpu,
                                               TF_CUDA_LAUNCHER(CudaClampedSwiglu)};
constexpr Op<AddSlotBiasArgs> kAddSlotBias{"add_slot_bias", AddSlotBiasReference, AddSlotBiasCpu,
                                           TF_CUDA_LAUNCHER(CudaAddSlotBias)};
constexpr Op<ReluArgs> kRelu{"relu", ReluReference, ReluCpu, TF_CUDA_LAUNCHER(CudaRelu)};

void Relu(Stream& stream, const ReluArgs& args) { stream.Launch(kRelu, args); }

void ClampedSwiglu(Stream& stream, const ClampedSwigluArgs& args) {
  TF_CHECK_EQ(args.gate.rows, args.out.rows);
  TF_CHECK_EQ(args.up.rows, args.out.rows);
  TF_CHECK_EQ(args.gate.cols, args.out.cols);
  TF_CHECK_EQ(args.up.cols, args.out.cols);
  stream.Launch(kClampedSwiglu, args);
}

void AddSlotBias(Stream& stream, const AddSlotBiasArgs& args) {
  TF_CHECK_EQ(args.bias.layout.cols, args.x.cols);
  TF_CHECK(args.bias.layout.dtype() == DType::kF32);
  stream.Launch(kAddSlotBias, args);
}

}  // namespace tokenferry
