// CPU instruction sets the kernels are built for. One set per job: the ranks agree on the best that all of them have.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

// Ordered: a machine that has a set has all sets before it on its architecture. kPortable is plain C++.
enum class Isa : uint8_t { kPortable, kNeon, kAvx2, kAvx512, kAvx512Bf16 };

// The sets this machine has and this build carries kernels for: bit (1 << Isa). kPortable is always there.
uint32_t SupportedIsas();

// The best set in `mask`.
Isa BestIsa(uint32_t mask);

absl::string_view IsaName(Isa isa);  // "portable", "neon", "avx2", "avx512", "avx512-bf16"
absl::StatusOr<Isa> IsaFromName(absl::string_view name);

}  // namespace tokenferry
