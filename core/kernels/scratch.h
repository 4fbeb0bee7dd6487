// Memory that a kernel's thread keeps between calls.
#pragma once

#include <cstddef>

namespace tokenferry {

// At least `num_bytes` for the calling thread, 64-byte aligned, contents undefined, valid until its next call. Grows to
// the largest size asked for and stays until the thread ends.
void* ThreadScratch(size_t num_bytes);

}  // namespace tokenferry
