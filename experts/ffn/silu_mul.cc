// SiluMul, by Silu of core/kernels/exp.h and its twin in vectors.
#include <algorithm>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "core/kernels/live_rows.h"
#include "core/kernels/row_parallel.h"
#include "experts/ffn/expert_ffn.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "experts/ffn/silu_mul.cc"
#include "core/kernels/simd_targets.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h, once per target.
#include "core/kernels/exp-inl.h"

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {

// One vector of at most 16 lanes.
template <class V>
HWY_INLINE V SiluMulVec(V z, V up) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::CappedTag<float, 16> d;
  const V denominator = hn::Add(hn::Set(d, 1.0f), ExpF32(d, hn::Neg(z)));
  const V silu = hn::IfThenElse(hn::IsInf(denominator), hn::Set(d, -0.0f), hn::Div(z, denominator));
  return hn::Mul(silu, up);
}

void SiluMulRow(const float* gate, const float* up, float* out, int64_t size) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::CappedTag<float, 16> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes)
    hn::StoreU(SiluMulVec(hn::LoadU(d, gate + i), hn::LoadU(d, up + i)), d, out + i);
  if (i == size) return;
  float gate_tail[16] = {}, up_tail[16] = {}, out_tail[16];
  std::copy(gate + i, gate + size, gate_tail);
  std::copy(up + i, up + size, up_tail);
  hn::StoreU(SiluMulVec(hn::LoadU(d, gate_tail), hn::LoadU(d, up_tail)), d, out_tail);
  std::copy(out_tail, out_tail + (size - i), out + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET

#if HWY_ONCE
namespace tokenferry {
namespace {

void PortableSiluMulRow(const float* gate, const float* up, float* out, int64_t size) {
  for (int64_t i = 0; i < size; ++i) out[i] = Silu(gate[i]) * up[i];
}

void ReferenceSiluMul(const SiluMulArgs& args) {
  for (int64_t r = 0, end = NumLive(args.out.rows, args.live_rows); r < end; ++r) {
    PortableSiluMulRow(args.gate.row(r), args.up.row(r), args.out.row(r), args.out.cols);
  }
}

void CpuSiluMul(const SiluMulArgs& args, CpuContext& context) {
  const auto row = TF_SIMD_CHOOSE(context.isa, SiluMulRow, PortableSiluMulRow);
  ParallelRows<8192>(context, NumLive(args.out.rows, args.live_rows), args.out.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      row(args.gate.row(r), args.up.row(r), args.out.row(r), args.out.cols);
    }
  });
}

}  // namespace

absl::Status CudaSiluMul(const SiluMulArgs& args, void* stream);  // silu_mul.cu

constexpr Op<SiluMulArgs> kSiluMul = {"silu_mul", ReferenceSiluMul, CpuSiluMul, TF_CUDA_LAUNCHER(CudaSiluMul)};

void SiluMul(Stream& stream, const SiluMulArgs& args) {
  TF_CHECK_EQ(args.gate.rows, args.out.rows);
  TF_CHECK_EQ(args.up.rows, args.out.rows);
  TF_CHECK_EQ(args.gate.cols, args.out.cols);
  TF_CHECK_EQ(args.up.cols, args.out.cols);
  stream.Launch(kSiluMul, args);
}

}  // namespace tokenferry
#endif  // HWY_ONCE
