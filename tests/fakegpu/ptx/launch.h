// Executes a kernel: blocks and warps in an order drawn by seed, with the rules of barriers.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "tests/fakegpu/ptx/memory.h"
#include "tests/fakegpu/ptx/program.h"

namespace tokenferry::fakegpu {

// A rule that the kernel broke, with kernel, block, thread, and the line in the PTX.
class KernelFault : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct KernelLaunch {
  uint32_t grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
  uint32_t dynamic_shared_bytes = 0;
  std::vector<char> params;  // as Kernel::param_offsets says
  uint32_t seed = 0;
  int num_resident_blocks = 3;                       // that take turns; others wait for one to end
  int64_t max_warp_instructions = int64_t{1} << 30;  // more: it does not end
};

struct LaunchCounts {
  int64_t warp_instructions = 0;
};

enum class Progress : uint8_t {
  kEnded,
  kWaits,  // for somebody else, who has to be let in; then it is to be called again
};

// A kernel under way. `kernel` and `memory` must outlive it.
class KernelRun {
 public:
  // Throws UnsupportedPtx for what cannot be decoded.
  KernelRun(Kernel& kernel, const KernelLaunch& launch, GlobalMemory& memory);
  ~KernelRun();

  // Goes on until every thread has ended, or until one sleeps (nanosleep): it waits for another kernel or the host.
  // Throws KernelFault.
  Progress Advance();
  const LaunchCounts& counts() const { return counts_; }

 private:
  struct State;  // the blocks that take turns

  const int num_resident_blocks_;
  const int64_t max_warp_instructions_;
  std::unique_ptr<State> state_;
  LaunchCounts counts_;
};

// Until every thread has ended.
LaunchCounts RunKernel(Kernel& kernel, const KernelLaunch& launch, GlobalMemory& memory);

}  // namespace tokenferry::fakegpu
