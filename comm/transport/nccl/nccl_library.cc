#include "comm/transport/nccl/nccl_library.h"

#include <dlfcn.h>

// What is defined here is this program's own: the loaded library must keep to its own definitions.
#pragma GCC visibility push(hidden)
#include <nccl.h>
#pragma GCC visibility pop

namespace tokenferry {
namespace {

struct Library {
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init = nullptr;
  decltype(&ncclCommFinalize) finalize = nullptr;
  decltype(&ncclCommDestroy) destroy = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclCommGetAsyncError) get_async_error = nullptr;
  decltype(&ncclGetErrorString) get_error_string = nullptr;
  decltype(&ncclGetLastError) get_last_error = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) recv = nullptr;
  absl::Status status;

  Library() {
    void* const handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      const char* why = dlerror();
      status = absl::FailedPreconditionError(
          absl::StrCat("cannot load NCCL (", why != nullptr ? why : "libnccl.so.2",
                       "): install it, or put its folder into LD_LIBRARY_PATH, or use --transport mpi"));
      return;
    }
    Find(handle, "ncclGetVersion", get_version);
    Find(handle, "ncclGetUniqueId", get_unique_id);
    Find(handle, "ncclCommInitRankConfig", init);
    Find(handle, "ncclCommFinalize", finalize);
    Find(handle, "ncclCommDestroy", destroy);
    Find(handle, "ncclCommAbort", abort);
    Find(handle, "ncclCommGetAsyncError", get_async_error);
    Find(handle, "ncclGetErrorString", get_error_string);
    Find(handle, "ncclGetLastError", get_last_error);
    Find(handle, "ncclGroupStart", group_start);
    Find(handle, "ncclGroupEnd", group_end);
    Find(handle, "ncclSend", send);
    Find(handle, "ncclRecv", recv);
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

ncclResult_t ncclGetVersion(int* version) { return TheLibrary().get_version(version); }
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) { return TheLibrary().get_unique_id(id); }
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  return TheLibrary().init(comm, num_ranks, id, rank, config);
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) { return TheLibrary().finalize(comm); }
ncclResult_t ncclCommDestroy(ncclComm_t comm) { return TheLibrary().destroy(comm); }
ncclResult_t ncclCommAbort(ncclComm_t comm) { return TheLibrary().abort(comm); }
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  return TheLibrary().get_async_error(comm, result);
}
const char* ncclGetErrorString(ncclResult_t result) { return TheLibrary().get_error_string(result); }
const char* ncclGetLastError(ncclComm_t comm) { return TheLibrary().get_last_error(comm); }
ncclResult_t ncclGroupStart() { return TheLibrary().group_start(); }
ncclResult_t ncclGroupEnd() { return TheLibrary().group_end(); }
ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return TheLibrary().send(data, count, type, peer, comm, stream);
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return TheLibrary().recv(data, count, type, peer, comm, stream);
}

}  // extern "C"
