// State of the fake CUDA runtime, and what its entry points share. Private to tests/fakegpu/cudart.
//
// Environment: TF_FAKEGPU_ARCH 80 | 90 | 100 (whose PTX is run; 90), TF_FAKEGPU_ORDER eager | lazy | random (lazy),
// TF_FAKEGPU_SEED (1), TF_FAKEGPU_DEVICES (1): how many GPUs there seem to be, which share one memory,
// TF_FAKEGPU_SHARED_KIB: what a block may have of shared memory (163 of arch 80, 227 of the others; GPUs of 86, 89 and
// 120 have 99), TF_FAKEGPU_IPC refused (memory of other processes cannot be mapped, as in many containers),
// TF_FAKEGPU_LAUNCHED (a file, where the mangled names of all kernels that are launched are written),
// TF_FAKEGPU_WITHOUT_BARRIER (missing_barrier.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/fakegpu/cudart/device_memory.h"
#include "tests/fakegpu/cudart/work_queue.h"
#include "tests/fakegpu/ptx/launch.h"

struct CUstream_st : tokenferry::fakegpu::QueueStream {};
struct CUevent_st : tokenferry::fakegpu::QueueEvent {};
struct CUgraph_st {
  tokenferry::fakegpu::GraphPlan plan;
};
struct CUgraphExec_st {
  tokenferry::fakegpu::GraphPlan plan;
};

namespace tokenferry::fakegpu {

// One fat binary: the PTX of one source file.
struct FatBinary {
  std::vector<std::string> texts;  // PTX of each architecture
  std::unique_ptr<Module> module;  // of the one that is run, parsed at the first launch
};

struct Function {
  FatBinary* binary = nullptr;
  std::string name;
  int max_dynamic_shared = 0;  // that was asked for
};

struct Runtime {
  // The one of this process; made at the first call, which may be a static initialiser's.
  static Runtime& Get();

  // Lets other threads have the lock, which the caller holds once, for a moment.
  void LetOthersGoOn();

  std::recursive_mutex mutex;
  int arch;
  int num_devices;
  size_t max_shared_bytes;  // of a block, static and dynamic
  WorkQueue queue;
  DeviceMemory memory;
  std::map<const void*, Function> functions;  // by the host's stub
  std::vector<std::unique_ptr<FatBinary>> binaries;
  cudaError_t sticky = cudaSuccess;  // a device that failed stays failed
  std::string fault;                 // why; a test may clear both
  std::set<const Kernel*> launched;
  std::FILE* launched_file;  // null: nobody wants their names
  int64_t num_launches = 0, num_warp_instructions = 0;
  bool allows_ipc;                            // environment TF_FAKEGPU_IPC is not "refused"
  std::vector<std::string>* trace = nullptr;  // where the calls of all threads are named, in order

 private:
  Runtime();
};

inline thread_local cudaError_t last_error = cudaSuccess;
inline thread_local int current_device = 0;  // a new thread begins with device 0

// Runs `body` (Runtime& -> cudaError_t) under the lock, which it leaves while work waits. A rule that a kernel or copy
// broke is printed and becomes the device's error for good; every later call returns it.
template <class Body>
cudaError_t Call(const Body& body, const char* entry_point = __builtin_FUNCTION()) {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  if (runtime.trace != nullptr) runtime.trace->emplace_back(entry_point);
  cudaError_t error = runtime.sticky;
  if (error == cudaSuccess) {
    try {
      error = body(runtime);
    } catch (const std::runtime_error& fault) {  // KernelFault, AccessError, UnsupportedPtx
      std::fprintf(stderr, "fake CUDA: %s\n", fault.what());
      runtime.fault = fault.what();
      error = runtime.sticky = cudaErrorLaunchFailure;
    }
  }
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

// While a stream captures, what synchronises or allocates is refused, and the capture is lost.
inline bool SpoilsCapture(Runtime& runtime) { return runtime.queue.CallSpoilsCapture(); }

inline QueueStream& StreamOf(Runtime& runtime, cudaStream_t stream) {
  return stream == nullptr || stream == cudaStreamLegacy ? runtime.queue.legacy(current_device) : *stream;
}

}  // namespace tokenferry::fakegpu
