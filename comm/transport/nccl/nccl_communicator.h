// A non-blocking NCCL communicator over the ranks of a transport. Private to comm/transport/nccl, compiled with CUDA
// only.
#pragma once

#include <nccl.h>

#include <memory>

#include "absl/functional/function_ref.h"
#include "comm/transport/nccl/nccl_transport.h"
#include "comm/transport/transfer.h"

namespace tokenferry {

class NcclCommunicator {
 public:
  // Asked while a call is in progress: an error ends the wait.
  using KeepWaiting = absl::FunctionRef<absl::Status()>;

  // Collective; the same status on all ranks. The GPU must be current on this thread.
  static absl::StatusOr<std::unique_ptr<NcclCommunicator>> Create(Transport& control, GpuUse use,
                                                                  KeepWaiting keep_waiting);
  ~NcclCommunicator();  // aborts what has not been closed
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  // Enqueues the messages of `t` between this rank and others on `stream`, a cudaStream_t, as one group. When it
  // returns they are in the stream: what is enqueued later comes after them.
  absl::Status Exchange(const Transfer& t, int rank, void* stream, KeepWaiting keep_waiting);

  // What has gone wrong since, in work that was enqueued.
  absl::Status AsyncError();

  // Ends work that is under way, wherever it is. Returns when NCCL has done so, or after two seconds: a thread is then
  // left with it.
  void Abort();

  // Collective: all ranks are done with all transfers.
  absl::Status Close(KeepWaiting keep_waiting);

 private:
  NcclCommunicator() = default;
  // What a call has come to that returned `result`, once it is no longer in progress; or keep_waiting's error.
  absl::StatusOr<ncclResult_t> Settle(ncclResult_t result, KeepWaiting keep_waiting);

  ncclComm_t comm_ = nullptr;  // null: closed or aborted
};

}  // namespace tokenferry
