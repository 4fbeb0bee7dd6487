// Highway twin of core/kernels/dot.h, bit for bit. Per-target include: see core/kernels/simd_targets.h.
#if defined(TOKENFERRY_CORE_KERNELS_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TOKENFERRY_CORE_KERNELS_DOT_INL_H_
#undef TOKENFERRY_CORE_KERNELS_DOT_INL_H_
#else
#define TOKENFERRY_CORE_KERNELS_DOT_INL_H_
#endif

#include "core/kernels/lanes-inl.h"

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {

// `a` and `b` need no alignment.
HWY_INLINE float DotF32(const float* a, const float* b, int64_t size) {
  Lanes sum = ZeroLanes();
  int64_t i = 0;
  for (; i + kNumLanes <= size; i += kNumLanes) sum = FmaLanes(LoadLanes(a + i), LoadLanes(b + i), sum);
  if (i < size) {
    float a_tail[kNumLanes], b_tail[kNumLanes];
    for (int l = 0; l < kNumLanes; ++l) {
      a_tail[l] = i + l < size ? a[i + l] : kPadRow;
      b_tail[l] = i + l < size ? b[i + l] : kPadWeight;
    }
    sum = FmaLanes(LoadLanes(a_tail), LoadLanes(b_tail), sum);
  }
  return SumLanes(sum);
}

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET
#endif  // include guard
