// The one use of the wall clock: answers say when they were made ("created"). No wait and no deadline depends on it.
#pragma once

#include <cstdint>

namespace tokenferry {

int64_t SecondsSince1970();

}  // namespace tokenferry
