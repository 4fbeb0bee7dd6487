// Device on the cores of this process. Eager in the product; lazy and trap modes for tests (see device.h's rules: code
// that passes in all of them is ready for a GPU).
#pragma once

#include <memory>
#include <vector>

#include "core/device/device.h"

namespace tokenferry {

enum class CpuExecution : uint8_t {
  kEager,  // an operation has run when Launch returns
  kLazy,   // copies, fills and operations run when a Synchronize (of their stream, or of one that waits for an event
           // recorded behind them) or a free needs them, and not before
};

enum class CpuMemory : uint8_t {
  kPlain,
  kTrap,  // kDevice memory is inaccessible (mprotect) while no work of the device runs: SIGSEGV shows the culprit.
          // New memory holds 0xA5 in every byte; 32 GiB per buffer and 64 GiB in all at most
};

enum class KernelSet : uint8_t { kFast, kReference };

struct CpuDeviceOptions {
  int num_threads = 1;
  std::vector<int> cpus;  // as ThreadPool's
  Isa isa = Isa::kPortable;
  CpuExecution execution = CpuExecution::kEager;
  CpuMemory memory = CpuMemory::kPlain;
  KernelSet kernels = KernelSet::kFast;
};

// The device, with all its streams and buffers, may be used by one thread at a time (its operations use the pool's
// threads). Devices are independent of each other: ranks that are threads of one process have one each.
std::unique_ptr<Device> CreateCpuDevice(CpuDeviceOptions options);

}  // namespace tokenferry
