// Highway twin of core/kernels/exp.h, bit for bit. Per-target include: see core/kernels/simd_targets.h.
#if defined(TOKENFERRY_CORE_KERNELS_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENFERRY_CORE_KERNELS_EXP_INL_H_
#undef TOKENFERRY_CORE_KERNELS_EXP_INL_H_
#else
#define TOKENFERRY_CORE_KERNELS_EXP_INL_H_
#endif

#include "core/kernels/exp.h"
#include "core/kernels/simd_targets.h"
#include "hwy/highway.h"

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {

// exp of each lane; `d` is any float tag.
template <class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE V ExpF32(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  namespace ei = exp_internal;
  const hn::RebindToSigned<D> di;
  const V shift = hn::Set(d, ei::kRoundShift);
  const V shifted = hn::MulAdd(x, hn::Set(d, ei::kLog2e), shift);
  const V n = hn::Sub(shifted, shift);
  const V r = hn::NegMulAdd(n, hn::Set(d, ei::kLn2Low), hn::NegMulAdd(n, hn::Set(d, ei::kLn2High), x));
  V q = hn::Set(d, ei::Taylor(0));
  q = hn::MulAdd(q, r, hn::Set(d, ei::Taylor(1)));
  q = hn::MulAdd(q, r, hn::Set(d, ei::Taylor(2)));
  q = hn::MulAdd(q, r, hn::Set(d, ei::Taylor(3)));
  q = hn::MulAdd(q, r, hn::Set(d, ei::Taylor(4)));
  q = hn::MulAdd(q, r, hn::Set(d, ei::Taylor(5)));
  const V p = hn::Add(hn::Set(d, 1.0f), hn::MulAdd(hn::Mul(r, r), q, r));
  const auto exponent = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, shift));
  const auto half = hn::ShiftRight<1>(exponent);
  const auto bias = hn::Set(di, 127);
  const V first = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const V second = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(exponent, half), bias)));
  V y = hn::Mul(hn::Mul(p, first), second);
  y = hn::IfThenElse(hn::Gt(x, hn::Set(d, ei::kOverflow)), hn::BitCast(d, hn::Set(di, 0x7F800000)), y);
  y = hn::IfThenElse(hn::Lt(x, hn::Set(d, ei::kUnderflow)), hn::Zero(d), y);
  return hn::IfThenElse(hn::IsNaN(x), hn::BitCast(d, hn::Set(di, 0x7FC00000)), y);
}

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET
#endif  // include guard
