// Bytes as people read them.
#pragma once

#include <cstdint>

namespace tokenferry {

inline constexpr double kMibPerByte = 1.0 / (1 << 20);

inline double Mib(int64_t num_bytes) { return static_cast<double>(num_bytes) * kMibPerByte; }

}  // namespace tokenferry
