// The 16 virtual lanes of core/kernels/matmul.h on Highway vectors: one vector on AVX-512, two on AVX2, four on NEON.
// Per-target include: see core/kernels/simd_targets.h.
#if defined(TOKENFERRY_CORE_KERNELS_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENFERRY_CORE_KERNELS_LANES_INL_H_
#undef TOKENFERRY_CORE_KERNELS_LANES_INL_H_
#else
#define TOKENFERRY_CORE_KERNELS_LANES_INL_H_
#endif

#include "core/kernels/dot.h"
#include "core/kernels/simd_targets.h"
#include "hwy/highway.h"

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32Tag = hn::CappedTag<float, 16>;
using F32x4Tag = hn::FixedTag<float, 4>;
using F32Vec = hn::Vec<F32Tag>;
using F32x4 = hn::Vec<F32x4Tag>;
inline constexpr int kVecLanes = HWY_MAX_BYTES >= 64 ? 16 : HWY_MAX_BYTES / 4;
inline constexpr int kVecs = kNumLanes / kVecLanes;

// Lanes [v * kVecLanes, (v + 1) * kVecLanes) are v[v].
struct Lanes {
  HWY_INLINE Lanes() {}  // GCC gives a constructor of its own making no target, and on NEON it could not call F32Vec's
  F32Vec v[kVecs];
};

HWY_INLINE Lanes ZeroLanes() {
  Lanes r;
  for (int v = 0; v < kVecs; ++v) r.v[v] = hn::Zero(F32Tag());
  return r;
}

HWY_INLINE Lanes LoadLanes(const float* p) {
  Lanes r;
  for (int v = 0; v < kVecs; ++v) r.v[v] = hn::LoadU(F32Tag(), p + v * kVecLanes);
  return r;
}

HWY_INLINE Lanes FmaLanes(const Lanes& a, const Lanes& b, const Lanes& c) {
  Lanes r;
  for (int v = 0; v < kVecs; ++v) r.v[v] = hn::MulAdd(a.v[v], b.v[v], c.v[v]);
  return r;
}

// The first two levels of the tree: lanes l, l + 4, l + 8, l + 12 into one.
HWY_INLINE F32x4 FoldToFour(const Lanes& a) {
#if HWY_MAX_BYTES >= 64
  const hn::FixedTag<float, 8> d8;
  const auto eight = hn::Add(hn::LowerHalf(d8, a.v[0]), hn::UpperHalf(d8, a.v[0]));
  return hn::Add(hn::LowerHalf(F32x4Tag(), eight), hn::UpperHalf(F32x4Tag(), eight));
#elif HWY_MAX_BYTES == 32
  const auto eight = hn::Add(a.v[0], a.v[1]);
  return hn::Add(hn::LowerHalf(F32x4Tag(), eight), hn::UpperHalf(F32x4Tag(), eight));
#else
  return hn::Add(hn::Add(a.v[0], a.v[2]), hn::Add(a.v[1], a.v[3]));
#endif
}

HWY_INLINE float SumLanes(const Lanes& a) {
  F32x4 s = FoldToFour(a);
  s = hn::Add(s, hn::Shuffle1032(s));
  s = hn::Add(s, hn::Shuffle2301(s));
  return hn::GetLane(s);
}

// Four sums at once.
HWY_INLINE F32x4 SumFourLanes(const Lanes& a, const Lanes& b, const Lanes& c, const Lanes& d) {
  const F32x4Tag d4;
  const hn::FixedTag<double, 2> d2;
  const auto fold_pair = [&](F32x4 p, F32x4 q) HWY_ATTR {  // {p0 + p2, p1 + p3, q0 + q2, q1 + q3}
    const auto pd = hn::BitCast(d2, p), qd = hn::BitCast(d2, q);
    return hn::Add(hn::BitCast(d4, hn::InterleaveLower(d2, pd, qd)), hn::BitCast(d4, hn::InterleaveUpper(d2, pd, qd)));
  };
  const F32x4 ab = fold_pair(FoldToFour(a), FoldToFour(b)), cd = fold_pair(FoldToFour(c), FoldToFour(d));
  return hn::Add(hn::ConcatEven(d4, cd, ab), hn::ConcatOdd(d4, cd, ab));
}

// Numbers that leave a lane unchanged, bit for bit, when they stand in for inputs beyond the end: x = +0, w = -0.
inline constexpr float kPadRow = 0.0f;
inline constexpr float kPadWeight = -0.0f;

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET
#endif  // include guard
