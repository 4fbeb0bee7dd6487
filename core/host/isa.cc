#include "core/host/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tokenferry {
namespace {
constexpr absl::string_view kNames[] = {"portable", "neon", "avx2", "avx512", "avx512-bf16"};
uint32_t Bit(Isa isa) { return 1u << static_cast<int>(isa); }

#if defined(__x86_64__)
// clang 14's __builtin_cpu_supports does not know f16c.
bool HasF16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif
}  // namespace

uint32_t SupportedIsas() {
  uint32_t mask = Bit(Isa::kPortable);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c()) {
    mask |= Bit(Isa::kAvx2);
    // The AVX-512 kernels use F, BW, DQ, VL and CD (Highway's AVX3 baseline).
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd")) {
      mask |= Bit(Isa::kAvx512);
      // Its kernels look FP8 codes up with VBMI: Zen 4, Sapphire Rapids and later; Cooper Lake has no VBMI.
      if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi")) mask |= Bit(Isa::kAvx512Bf16);
    }
  }
#elif defined(__aarch64__)
  mask |= Bit(Isa::kNeon);
#endif
  return mask;
}

Isa BestIsa(uint32_t mask) {
  for (int i = static_cast<int>(Isa::kAvx512Bf16); i > 0; --i) {
    if (mask & (1u << i)) return static_cast<Isa>(i);
  }
  return Isa::kPortable;
}

absl::string_view IsaName(Isa isa) { return kNames[static_cast<int>(isa)]; }

absl::StatusOr<Isa> IsaFromName(absl::string_view name) {
  for (int i = 0; i <= static_cast<int>(Isa::kAvx512Bf16); ++i) {
    if (kNames[i] == name) return static_cast<Isa>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown instruction set '", name, "': one of portable, neon, avx2, avx512, avx512-bf16"));
}

}  // namespace tokenferry
