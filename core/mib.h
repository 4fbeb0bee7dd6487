// Bytes as people read them.
#pragma once

#include <cstdint>

namespace tokenferry {

inline double Mib(int64_t num_bytes) { return static_cast<double>(num_bytes) / (1 << 20); }

}  // namespace tokenferry
