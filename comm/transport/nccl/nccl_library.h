// NCCL's library, loaded when a job asks for it: nobody else needs it, so a program that was built with NCCL starts on
// a machine that has none. nccl_library.cc defines the functions that this project calls under NCCL's own names, each
// of which calls the loaded one; a program may link other definitions of all of them instead (tests/fakegpu/nccl).
#pragma once

#include "core/status.h"

namespace tokenferry {

// To be called before any of them. FailedPrecondition, in one line with what to do, when there is no libnccl.so.2, or
// one that lacks a function. Any thread; later calls return what the first has found.
absl::Status LoadNccl();

}  // namespace tokenferry
