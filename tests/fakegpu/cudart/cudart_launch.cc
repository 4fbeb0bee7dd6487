// Registration of nvcc's objects, and launches. The entry points with two underscores are what nvcc 13.0 emits.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "tests/fakegpu/cudart/missing_barrier.h"
#include "tests/fakegpu/cudart/runtime.h"

using namespace tokenferry::fakegpu;  // NOLINT: entry points of C

namespace {

// Layout of a fat binary, as nvcc 13.0 writes it: a header, then entries of PTX (kind 1) and machine code.
struct Wrapper {
  int magic, version;
  const char* data;
  void* unused;
};
struct Header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t num_bytes;
};
struct Entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t num_bytes;
};
constexpr uint32_t kMagic = 0xBA55ED50;
constexpr size_t kDefaultShared = 48 << 10;

// "sm_90a" runs on 90 alone, "sm_80" on 80 and everything after it.
bool RunsOn(const std::string& target, int arch) {
  const int number = std::atoi(target.c_str() + 3);
  return target.back() == 'a' ? number == arch : number <= arch;
}

Module* ModuleOf(Runtime& runtime, FatBinary& binary) {
  if (binary.module != nullptr) return binary.module.get();
  for (const std::string& text : binary.texts) {
    Module module = ParsePtx(text);
    if (!RunsOn(module.target, runtime.arch)) continue;
    if (binary.module != nullptr &&
        std::atoi(binary.module->target.c_str() + 3) >= std::atoi(module.target.c_str() + 3))
      continue;
    binary.module = std::make_unique<Module>(std::move(module));
  }
  return binary.module.get();
}

cudaError_t FindKernel(Runtime& runtime, const void* stub, Function*& function, Kernel*& kernel) {
  const auto found = runtime.functions.find(stub);
  if (found == runtime.functions.end()) return cudaErrorInvalidDeviceFunction;
  function = &found->second;
  Module* module = ModuleOf(runtime, *function->binary);
  if (module == nullptr) return cudaErrorNoKernelImageForDevice;
  const auto entry = module->kernels.find(function->name);
  if (entry == module->kernels.end()) return cudaErrorInvalidDeviceFunction;
  kernel = &entry->second;
  return cudaSuccess;
}

cudaError_t CheckShape(const Runtime& runtime, const Function& function, const Kernel& kernel, dim3 grid, dim3 block,
                       size_t shared_bytes) {
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64) return cudaErrorInvalidConfiguration;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  // 48 KiB, static and dynamic together; more has to have been asked for.
  const size_t total = shared_bytes + kernel.shared_bytes, asked = function.max_dynamic_shared;
  if ((total > kDefaultShared && shared_bytes > asked) || total > runtime.max_shared_bytes)
    return cudaErrorInvalidValue;
  return cudaSuccess;
}

cudaError_t Launch(Runtime& runtime, const void* stub, dim3 grid, dim3 block, void** args, size_t shared_bytes,
                   cudaStream_t stream) {
  Function* function = nullptr;
  Kernel* found = nullptr;
  if (const cudaError_t error = FindKernel(runtime, stub, function, found); error != cudaSuccess) return error;
  Kernel& kernel = *found;
  if (const cudaError_t error = CheckShape(runtime, *function, kernel, grid, block, shared_bytes); error != cudaSuccess)
    return error;
  if (StreamOf(runtime, stream).device != current_device) return cudaErrorInvalidResourceHandle;
  KernelLaunch launch{.grid = {grid.x, grid.y, grid.z},
                      .block = {block.x, block.y, block.z},
                      .dynamic_shared_bytes = static_cast<uint32_t>(shared_bytes),
                      .params = std::vector<char>(kernel.param_bytes)};
  for (size_t i = 0; i < kernel.param_sizes.size(); ++i) {
    std::memcpy(&launch.params[kernel.param_offsets[i]], args[i], kernel.param_sizes[i]);
  }
  if (runtime.launched.insert(&kernel).second) {
    if (runtime.launched_file != nullptr) std::fprintf(runtime.launched_file, "%s\n", kernel.name.c_str());
    TakeOutBarrier(kernel);
  }
  std::shared_ptr<KernelRun> run;  // from when the kernel begins; each launch of a graph has its own
  runtime.queue.Enqueue(StreamOf(runtime, stream), kernel.name, [&runtime, &kernel, launch, run]() mutable {
    if (run == nullptr) {
      launch.seed = runtime.queue.Draw();
      ++runtime.num_launches;
      run = std::make_shared<KernelRun>(kernel, launch, runtime.memory);
    }
    const Progress progress = run->Advance();
    if (progress == Progress::kEnded) runtime.num_warp_instructions += run->counts().warp_instructions;
    return progress;
  });
  return cudaSuccess;
}

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;  // of <<<>>> that are being evaluated

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void* data) {
  Runtime& runtime = Runtime::Get();
  auto binary = std::make_unique<FatBinary>();
  const char* at = static_cast<const Wrapper*>(data)->data;
  Header header;
  std::memcpy(&header, at, sizeof header);
  if (header.magic != kMagic) std::abort();
  const char* end = at + header.header_bytes + header.num_bytes;
  for (at += header.header_bytes; at < end;) {
    Entry entry;
    std::memcpy(&entry, at, sizeof entry);
    if (entry.kind == 1)
      binary->texts.emplace_back(at + entry.header_bytes, strnlen(at + entry.header_bytes, entry.num_bytes));
    at += entry.header_bytes + entry.num_bytes;
  }
  runtime.binaries.push_back(std::move(binary));
  return reinterpret_cast<void**>(runtime.binaries.back().get());
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

void __cudaRegisterFunction(void** binary, const char* stub, char*, const char* name, int, void*, void*, void*, void*,
                            int*) {
  Runtime::Get().functions[stub] = {reinterpret_cast<FatBinary*>(binary), name};
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream) {
  configurations.push_back({grid, block, shared_bytes, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream) {
  const Configuration c = configurations.back();
  configurations.pop_back();
  *grid = c.grid;
  *block = c.block;
  *shared_bytes = c.shared_bytes;
  *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* stub, dim3 grid, dim3 block, void** args, size_t shared_bytes,
                             cudaStream_t stream) {
  return Call([&](Runtime& runtime) { return Launch(runtime, stub, grid, block, args, shared_bytes, stream); });
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args, size_t shared_bytes,
                               cudaStream_t stream) {
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, args, shared_bytes, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* stub, void** args) {
  if (config->numAttrs != 0) return last_error = cudaErrorNotSupported;
  return cudaLaunchKernel(stub, config->gridDim, config->blockDim, args, config->dynamicSmemBytes, config->stream);
}

// By threads and shared memory; registers are not known here.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int threads,
                                                                   size_t shared_bytes, unsigned) {
  constexpr size_t kReservedShared = 1 << 10;  // per block
  *blocks = static_cast<int>(std::min<size_t>(
      2048 / threads, (Runtime::Get().max_shared_bytes + kReservedShared) / (shared_bytes + kReservedShared)));
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* stub) {
  return Call([&](Runtime& runtime) {
    Function* function = nullptr;
    Kernel* kernel = nullptr;
    if (const cudaError_t error = FindKernel(runtime, stub, function, kernel); error != cudaSuccess) return error;
    *attributes = {};
    attributes->sharedSizeBytes = kernel->shared_bytes;
    attributes->maxDynamicSharedSizeBytes =
        std::max(function->max_dynamic_shared, static_cast<int>(kDefaultShared) - kernel->shared_bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaFuncSetAttribute(const void* stub, cudaFuncAttribute attribute, int value) {
  return Call([&](Runtime& runtime) {
    Function* function = nullptr;
    Kernel* kernel = nullptr;
    if (const cudaError_t error = FindKernel(runtime, stub, function, kernel); error != cudaSuccess) return error;
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        static_cast<size_t>(value) + kernel->shared_bytes > runtime.max_shared_bytes)
      return cudaErrorInvalidValue;
    function->max_dynamic_shared = value;
    return cudaSuccess;
  });
}

}  // extern "C"
