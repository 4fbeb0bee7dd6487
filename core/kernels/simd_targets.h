// Which Highway targets our kernels are built for. Include before hwy/highway.h, once per file. The build's static
// target (emulation on x86-64) is compiled empty: Isa::kPortable is plain C++. A kernel file: bodies between
// HWY_BEFORE_NAMESPACE and HWY_AFTER_NAMESPACE inside `#if TF_SIMD_TARGET`, and, under HWY_ONCE, a choice by the job's
// instruction set (not by what the machine has) with TF_SIMD_CHOOSE.
#pragma once

#define HWY_DISABLED_TARGETS (~(HWY_EMU128 | HWY_SCALAR | HWY_AVX2 | HWY_AVX3 | HWY_NEON))

// True while foreach_target.h compiles one of our targets.
#define TF_SIMD_TARGET (HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON)

#if defined(__x86_64__)
// The value of `expression` in the namespace of `isa`'s target, or `portable`.
#define TF_SIMD_CHOOSE(isa, name, portable) \
  ((isa) >= ::tokenferry::Isa::kAvx512 ? N_AVX3::name : (isa) == ::tokenferry::Isa::kAvx2 ? N_AVX2::name : (portable))
#elif defined(__aarch64__)
#define TF_SIMD_CHOOSE(isa, name, portable) ((isa) == ::tokenferry::Isa::kNeon ? N_NEON::name : (portable))
#else
#define TF_SIMD_CHOOSE(isa, name, portable) (portable)
#endif
