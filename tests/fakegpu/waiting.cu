#include "tests/fakegpu/waiting.h"

namespace tokenferry::fakegpu {
namespace {

__global__ void WaitForKernel(const unsigned long long* flag, unsigned long long value) {
  unsigned long long seen;
  do {
    __nanosleep(100);
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(seen) : "l"(flag) : "memory");
  } while (seen < value);
}

__global__ void RaiseKernel(unsigned long long* flag) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(flag), "l"(*flag + 1) : "memory");
}

}  // namespace

void WaitFor(const unsigned long long* flag, unsigned long long value, cudaStream_t stream) {
  WaitForKernel<<<1, 1, 0, stream>>>(flag, value);
}
void Raise(unsigned long long* flag, cudaStream_t stream) { RaiseKernel<<<1, 1, 0, stream>>>(flag); }

}  // namespace tokenferry::fakegpu
