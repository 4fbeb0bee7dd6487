#include "comm/transport/nccl/nccl_library.h"

#include <dlfcn.h>

// What is defined here is this program's own: the loaded library must keep to its own definitions.
#pragma GCC visibility push(hidden)
#include <nccl.h>
#pragma GCC visibility pop

namespace tokenferry {
namespace {

// Every function that is taken from the library. Each is defined below, with NCCL's own declaration.
#define TF_NCCL_FUNCTIONS(X) \
  X(ncclGetVersion)          \
  X(ncclGetUniqueId)         \
  X(ncclCommInitRankConfig)  \
  X(ncclCommFinalize)        \
  X(ncclCommDestroy)         \
  X(ncclCommAbort)           \
  X(ncclCommGetAsyncError)   \
  X(ncclGetErrorString)      \
  X(ncclGetLastError)        \
  X(ncclGroupStart)          \
  X(ncclGroupEnd)            \
  X(ncclSend)                \
  X(ncclRecv)

struct Library {
#define TF_NCCL_POINTER(name) decltype(&::name) name = nullptr;
  TF_NCCL_FUNCTIONS(TF_NCCL_POINTER)
  absl::Status status;

  Library() {
    void* const handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      const char* why = dlerror();
      status = absl::FailedPreconditionError(
          absl::StrCat("cannot load NCCL (", why != nullptr ? why : "libnccl.so.2",
                       "): install it, or put its folder into LD_LIBRARY_PATH, or use the mpi transport"));
      return;
    }
#define TF_NCCL_FIND(name) Find(handle, #name, name);
    TF_NCCL_FUNCTIONS(TF_NCCL_FIND)
  }

  template <class F>
  void Find(void* handle, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(handle, name));
    if (function != nullptr || !status.ok()) return;
    status = absl::FailedPreconditionError(
        absl::StrCat("NCCL on this machine has no ", name, ": it is too old; install 2.14 or newer"));
  }
};

const Library& TheLibrary() {
  static const Library* library = new Library();
  return *library;
}

}  // namespace

absl::Status LoadNccl() { return TheLibrary().status; }

}  // namespace tokenferry

using tokenferry::TheLibrary;

extern "C" {

ncclResult_t ncclGetVersion(int* version) { return TheLibrary().ncclGetVersion(version); }
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) { return TheLibrary().ncclGetUniqueId(id); }
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  return TheLibrary().ncclCommInitRankConfig(comm, num_ranks, id, rank, config);
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) { return TheLibrary().ncclCommFinalize(comm); }
ncclResult_t ncclCommDestroy(ncclComm_t comm) { return TheLibrary().ncclCommDestroy(comm); }
ncclResult_t ncclCommAbort(ncclComm_t comm) { return TheLibrary().ncclCommAbort(comm); }
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  return TheLibrary().ncclCommGetAsyncError(comm, result);
}
const char* ncclGetErrorString(ncclResult_t result) { return TheLibrary().ncclGetErrorString(result); }
const char* ncclGetLastError(ncclComm_t comm) { return TheLibrary().ncclGetLastError(comm); }
ncclResult_t ncclGroupStart() { return TheLibrary().ncclGroupStart(); }
ncclResult_t ncclGroupEnd() { return TheLibrary().ncclGroupEnd(); }
ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return TheLibrary().ncclSend(data, count, type, peer, comm, stream);
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return TheLibrary().ncclRecv(data, count, type, peer, comm, stream);
}

}  // extern "C"
