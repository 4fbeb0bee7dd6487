// A kernel without one of its barriers, by which a test sees that the fakes notice what the barrier is there for.
#pragma once

#include "tests/fakegpu/ptx/program.h"

namespace tokenferry::fakegpu {

// Environment TF_FAKEGPU_WITHOUT_BARRIER=NAME:N, where NAME occurs in the kernel's mangled name: takes the Nth bar.sync
// of its PTX out, from 0, and says so on stderr; or says that it has fewer. To be called before the kernel is decoded.
void TakeOutBarrier(Kernel& kernel);

}  // namespace tokenferry::fakegpu
