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

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {

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

// The first n <= 16 elements, zeros behind them; memory behind them is not touched. NEON has no masked loads and
// stores: Highway's would read and write back what lies behind, which may belong to another thread.
HWY_INLINE Lanes LoadFirst(int64_t n, const float* p) {
#if HWY_TARGET == HWY_NEON
  if (n == kNumLanes) return LoadLanes(p);
  HWY_ALIGN float copy[kNumLanes] = {};
  for (int64_t i = 0; i < n; ++i) copy[i] = p[i];
  return LoadLanes(copy);
#else
  Lanes r;
  for (int v = 0; v < kVecs; ++v) r.v[v] = hn::MaskedLoad(FirstMask(n, v), F32Tag(), p + v * kVecLanes);
  return r;
#endif
}

HWY_INLINE void StoreFirst(int64_t n, const Lanes& a, float* p) {
#if HWY_TARGET == HWY_NEON
  if (n == kNumLanes) return StoreLanes(a, p);
  HWY_ALIGN float copy[kNumLanes];
  StoreLanes(a, copy);
  for (int64_t i = 0; i < n; ++i) p[i] = copy[i];
#else
  for (int v = 0; v < kVecs; ++v) hn::BlendedStore(a.v[v], FirstMask(n, v), F32Tag(), p + v * kVecLanes);
#endif
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

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET
#endif  // include guard
