// Sizes in whole units: of alignment, of pages.
#pragma once

#include <cstdint>

namespace tokenferry {

// The number of units of `multiple` that n needs. n >= 0, multiple > 0.
constexpr int64_t CeilDiv(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple; }

// The smallest multiple of `multiple` that is at least n. n >= 0, multiple > 0.
constexpr int64_t RoundUp(int64_t n, int64_t multiple) { return CeilDiv(n, multiple) * multiple; }

}  // namespace tokenferry
