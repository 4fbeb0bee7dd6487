// For tests that are built with allocation_counter.cc: it replaces operator new of the whole program.
#pragma once

#include <cstdint>

namespace tokenferry {

// Calls of operator new on this thread so far.
int64_t NumAllocations();

}  // namespace tokenferry
