// Decorator: before each transfer all ranks swap what they are about to do, so that ranks that are not in
// the same call, or do not agree on a size, are named with both sides' values. Poisons receive memory, so that bytes
// that never arrived show. For tests and for hunting; costs one small all-to-all per transfer.
#pragma once

#include <memory>

#include "comm/transport/transport.h"

namespace tokenferry {

inline constexpr uint8_t kPoison = 0xFB;  // f32 and bf16 of these bytes are large negative numbers

std::unique_ptr<Transport> CreateCheckedTransport(std::unique_ptr<Transport> inner);

}  // namespace tokenferry
