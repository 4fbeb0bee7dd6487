// The largest shapes that benchmarks of exchanges and layers take from their flags.
#pragma once

#include <cstdint>

namespace tokenferry {

inline constexpr int64_t kMaxBenchTokens = 1 << 20, kMaxBenchHidden = 1 << 20;
inline constexpr int kMaxBenchExperts = 1 << 16, kMaxBenchTopK = 32, kMaxBenchIters = 1 << 20;

}  // namespace tokenferry
