// Kernels that wait for each other.
#pragma once

#include <cuda_runtime_api.h>

namespace tokenferry::fakegpu {

// Ends when *flag is at least `value`.
void WaitFor(const unsigned long long* flag, unsigned long long value, cudaStream_t stream);
void Raise(unsigned long long* flag, cudaStream_t stream);  // adds 1 to *flag

}  // namespace tokenferry::fakegpu
