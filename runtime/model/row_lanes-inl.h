// What the row kernels need of the 16 virtual lanes beyond core/kernels/lanes-inl.h: parts of a vector, softmax,
// widening. Per-target include: see core/kernels/simd_targets.h.
#if defined(TOKENFERRY_RUNTIME_MODEL_ROW_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENFERRY_RUNTIME_MODEL_ROW_LANES_INL_H_
#undef TOKENFERRY_RUNTIME_MODEL_ROW_LANES_INL_H_
#else
#define TOKENFERRY_RUNTIME_MODEL_ROW_LANES_INL_H_
#endif

#include "core/kernels/exp-inl.h"
#include "core/kernels/lanes-inl.h"
#include "core/scalar.h"

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {

using U32Tag = hn::RebindToUnsigned<F32Tag>;
using U32Vec = hn::Vec<U32Tag>;

// Of the first n of 16 lanes, those in vector v.
HWY_INLINE hn::Mask<F32Tag> FirstMask(int64_t n, int v) {
  const int64_t here = n - v * kVecLanes;
  return hn::FirstN(F32Tag(), static_cast<size_t>(here < 0 ? 0 : here > kVecLanes ? kVecLanes : here));
}

HWY_INLINE Lanes SetLanes(float x) {
  Lanes r;
  for (int v = 0; v < kVecs; ++v) r.v[v] = hn::Set(F32Tag(), x);
  return r;
}

HWY_INLINE void StoreLanes(const Lanes& a, float* p) {
  for (int v = 0; v < kVecs; ++v) hn::StoreU(a.v[v], F32Tag(), p + v * kVecLanes);
}

// The first n <= 16 elements, zeros behind them; memory behind them is not touched.
HWY_INLINE Lanes LoadFirst(int64_t n, const float* p) {
  Lanes r;
  for (int v = 0; v < kVecs; ++v) r.v[v] = hn::MaskedLoad(FirstMask(n, v), F32Tag(), p + v * kVecLanes);
  return r;
}

HWY_INLINE void StoreFirst(int64_t n, const Lanes& a, float* p) {
  for (int v = 0; v < kVecs; ++v) hn::BlendedStore(a.v[v], FirstMask(n, v), F32Tag(), p + v * kVecLanes);
}

HWY_INLINE Lanes MulLanes(const Lanes& a, const Lanes& b) {
  Lanes r;
  for (int v = 0; v < kVecs; ++v) r.v[v] = hn::Mul(a.v[v], b.v[v]);
  return r;
}

// exp(a - max).
HWY_INLINE Lanes ExpLanes(const Lanes& a, float max) {
  Lanes r;
  for (int v = 0; v < kVecs; ++v) r.v[v] = ExpF32(F32Tag(), hn::Sub(a.v[v], hn::Set(F32Tag(), max)));
  return r;
}

// In the first n lanes; the others of the last argument stay as they are.
HWY_INLINE Lanes FmaFirst(int64_t n, const Lanes& a, const Lanes& b, Lanes c) {
  for (int v = 0; v < kVecs; ++v) {
    c.v[v] = hn::IfThenElse(FirstMask(n, v), hn::MulAdd(a.v[v], b.v[v], c.v[v]), c.v[v]);
  }
  return c;
}

HWY_INLINE Lanes AddFirst(int64_t n, const Lanes& a, Lanes sum) {
  for (int v = 0; v < kVecs; ++v) sum.v[v] = hn::IfThenElse(FirstMask(n, v), hn::Add(sum.v[v], a.v[v]), sum.v[v]);
  return sum;
}

HWY_INLINE Lanes MaxFirst(int64_t n, const Lanes& a, Lanes top) {  // a NaN in `a` is passed over
  for (int v = 0; v < kVecs; ++v) {
    top.v[v] = hn::IfThenElse(hn::And(FirstMask(n, v), hn::Gt(a.v[v], top.v[v])), a.v[v], top.v[v]);
  }
  return top;
}

HWY_INLINE float MaxOfLanes(const Lanes& a) {
  F32Vec top = a.v[0];
  for (int v = 1; v < kVecs; ++v) top = hn::Max(top, a.v[v]);
  return hn::GetLane(hn::MaxOfLanes(F32Tag(), top));
}

HWY_INLINE Lanes LoadBF16(const BF16* p) {
  const hn::Rebind<uint16_t, F32Tag> narrow;
  Lanes r;
  for (int v = 0; v < kVecs; ++v) {
    const auto bits = hn::LoadU(narrow, reinterpret_cast<const uint16_t*>(p) + v * kVecLanes);
    r.v[v] = hn::BitCast(F32Tag(), hn::ShiftLeft<16>(hn::PromoteTo(U32Tag(), bits)));
  }
  return r;
}

// As ToFloat(F8E4M3): the fields shifted into place, times 2^120 for the difference of the exponents' biases.
HWY_INLINE Lanes LoadE4M3(const F8E4M3* p) {
  const U32Tag d;
  const hn::Rebind<uint8_t, F32Tag> narrow;
  Lanes r;
  for (int v = 0; v < kVecs; ++v) {
    const U32Vec code = hn::PromoteTo(d, hn::LoadU(narrow, reinterpret_cast<const uint8_t*>(p) + v * kVecLanes));
    const U32Vec magnitude = hn::And(code, hn::Set(d, 0x7F));
    const U32Vec sign = hn::ShiftLeft<24>(hn::And(code, hn::Set(d, 0x80)));
    const F32Vec value = hn::Mul(hn::BitCast(F32Tag(), hn::ShiftLeft<20>(magnitude)), hn::Set(F32Tag(), 0x1p120f));
    const auto is_nan = hn::Eq(magnitude, hn::Set(d, 0x7F));
    r.v[v] =
        hn::BitCast(F32Tag(), hn::Or(hn::IfThenElse(is_nan, hn::Set(d, 0x7FC00000u), hn::BitCast(d, value)), sign));
  }
  return r;
}

// ToFloat(ToBF16(x)): to nearest, ties to even; NaN stays a NaN.
HWY_INLINE Lanes RoundToBF16(Lanes a) {
  const U32Tag d;
  for (int v = 0; v < kVecs; ++v) {
    const U32Vec bits = hn::BitCast(d, a.v[v]);
    const U32Vec odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1));
    const U32Vec rounded = hn::Add(hn::Add(bits, hn::Set(d, 0x7FFF)), odd);
    const U32Vec quiet = hn::Or(bits, hn::Set(d, 0x400000));
    const U32Vec chosen = hn::IfThenElse(hn::RebindMask(d, hn::IsNaN(a.v[v])), quiet, rounded);
    a.v[v] = hn::BitCast(F32Tag(), hn::And(chosen, hn::Set(d, 0xFFFF0000u)));
  }
  return a;
}

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET
#endif  // include guard
