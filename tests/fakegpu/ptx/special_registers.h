// %tid.x and the like.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace tokenferry::fakegpu {

struct Block;

bool IsSpecialRegister(absl::string_view name);
uint64_t SpecialRegister(absl::string_view name, const Block& block, int thread);

}  // namespace tokenferry::fakegpu
