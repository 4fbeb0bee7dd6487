#include "comm/transport/nccl/nccl_communicator.h"

#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/synchronization/notification.h"
#include "comm/transport/collectives.h"
#include "comm/transport/nccl/nccl_library.h"
#include "comm/transport/nccl/nccl_status.h"
#include "core/host/wait.h"
#include "core/log.h"

namespace tokenferry {
namespace {

constexpr CallSite kStart{"start: nccl"};
constexpr int kOldest = NCCL_VERSION(2, 14, 0);  // ncclCommInitRankConfig, ncclCommFinalize
constexpr int kSharesGpus = NCCL_VERSION(2, 30, 3);
constexpr absl::Duration kAbortTime = absl::Seconds(2);

std::string VersionText(int version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

absl::Status CheckVersion(GpuUse use, int& version) {
  TF_RETURN_IF_ERROR(LoadNccl());
  TF_RETURN_IF_ERROR(NcclStatus(ncclGetVersion(&version), "ncclGetVersion", nullptr));
  if (version < kOldest) {
    return absl::FailedPreconditionError(
        absl::StrCat("NCCL on this machine is ", VersionText(version), "; install 2.14 or newer"));
  }
  if (use == GpuUse::kShared && version < kSharesGpus) {
    return absl::FailedPreconditionError(absl::StrCat("NCCL on this machine is ", VersionText(version),
                                                      ", which takes one rank per GPU; install 2.30.3 or newer, or use "
                                                      "the mpi transport"));
  }
  return absl::OkStatus();
}

// All ranks must speak the same version: others do not understand each other when they connect, or wait for ever.
absl::Status AgreeOnVersion(Transport& control, GpuUse use) {
  int version = 0;
  TF_RETURN_IF_ERROR(AgreeOnStatus(control, kStart, CheckVersion(use, version)));
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(control, kStart, VersionText(version)));
  for (size_t r = 1; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    return AgreeOnStatus(
        control, kStart,
        absl::FailedPreconditionError(absl::StrCat("NCCL is ", all[0], " on rank 0 and ", all[r], " on rank ", r,
                                                   "; install one version on all hosts")));
  }
  return absl::OkStatus();
}

absl::StatusOr<ncclUniqueId> ShareUniqueId(Transport& control) {
  ncclUniqueId id = {};
  absl::Status made;
  if (control.rank() == RankId(0)) made = NcclStatus(ncclGetUniqueId(&id), "ncclGetUniqueId", nullptr);
  TF_RETURN_IF_ERROR(AgreeOnStatus(control, kStart, made));
  TF_ASSIGN_OR_RETURN(const std::string bytes,
                      Broadcast(control, kStart, RankId(0), absl::string_view(id.internal, sizeof id.internal)));
  if (bytes.size() != sizeof id.internal) return absl::DataLossError("start: nccl: rank 0 sent no id");
  std::memcpy(id.internal, bytes.data(), sizeof id.internal);
  return id;
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Create(Transport& control, GpuUse use,
                                                                           KeepWaiting keep_waiting) {
  TF_RETURN_IF_ERROR(AgreeOnVersion(control, use));
  TF_ASSIGN_OR_RETURN(const ncclUniqueId id, ShareUniqueId(control));
  if (use == GpuUse::kShared) setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", /*overwrite=*/0);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  std::unique_ptr<NcclCommunicator> communicator(new NcclCommunicator());
  const ncclResult_t begun =
      ncclCommInitRankConfig(&communicator->comm_, control.num_ranks(), id, control.rank().value, &config);
  const auto joined = communicator->Settle(begun, keep_waiting);
  TF_RETURN_IF_ERROR(AgreeOnStatus(
      control, kStart,
      joined.ok() ? NcclStatus(*joined, "ncclCommInitRankConfig", communicator->comm_) : joined.status()));
  return communicator;
}

NcclCommunicator::~NcclCommunicator() { Abort(); }

absl::StatusOr<ncclResult_t> NcclCommunicator::Settle(ncclResult_t result, KeepWaiting keep_waiting) {
  SpinWait turn;
  while (result == ncclInProgress) {
    TF_RETURN_IF_ERROR(NcclStatus(ncclCommGetAsyncError(comm_, &result), "ncclCommGetAsyncError", comm_));
    if (result != ncclInProgress) break;
    TF_RETURN_IF_ERROR(keep_waiting());
    turn.Pause();
  }
  return result;
}

absl::Status NcclCommunicator::Exchange(const Transfer& t, int rank, void* stream, KeepWaiting keep_waiting) {
  const int num_ranks = static_cast<int>(t.sent.size());
  bool is_empty = true;
  for (int r = 0; r < num_ranks; ++r) is_empty &= r == rank || (t.send_bytes(r) == 0 && t.recv_bytes(r) == 0);
  if (is_empty) return absl::OkStatus();
  // A communicator that does not block may say so of each call in a group; the group's end is what is waited for.
  const auto goes_on = [](ncclResult_t r) { return r == ncclSuccess || r == ncclInProgress; };
  ncclResult_t result = ncclGroupStart();
  auto* const cuda_stream = static_cast<cudaStream_t>(stream);
  const char* what = "ncclGroupStart";
  // Peers in an order that spreads the load.
  for (int i = 1; i < num_ranks && goes_on(result); ++i) {
    const int from = (rank + num_ranks - i) % num_ranks, to = (rank + i) % num_ranks;
    if (t.recv_bytes(from) > 0) {
      what = "ncclRecv";
      result = ncclRecv(t.recv(from), t.recv_bytes(from), ncclInt8, from, comm_, cuda_stream);
    }
    if (t.send_bytes(to) > 0 && goes_on(result)) {
      what = "ncclSend";
      result = ncclSend(t.send(to), t.send_bytes(to), ncclInt8, to, comm_, cuda_stream);
    }
  }
  const ncclResult_t ended = ncclGroupEnd();  // a group that has begun must end, also after an error
  if (goes_on(result)) {
    what = "ncclGroupEnd";
    TF_ASSIGN_OR_RETURN(result, Settle(ended, keep_waiting));
  }
  return Annotate(NcclStatus(result, what, comm_), t.site);
}

absl::Status NcclCommunicator::AsyncError() {
  ncclResult_t result = ncclSuccess;
  TF_RETURN_IF_ERROR(NcclStatus(ncclCommGetAsyncError(comm_, &result), "ncclCommGetAsyncError", comm_));
  return NcclStatus(result, "a transfer", comm_);
}

void NcclCommunicator::Abort() {
  ncclComm_t const comm = std::exchange(comm_, nullptr);
  if (comm == nullptr) return;
  // Aborting frees memory of the GPU, which may wait for kernels that do not end.
  const auto done = std::make_shared<absl::Notification>();
  std::thread([comm, done] {
    ncclCommAbort(comm);  // nobody is left whom its result would help
    done->Notify();
  }).detach();
  const auto is_done = [&] { return done->HasBeenNotified(); };
  if (WaitUntil(is_done, Deadline::After(kAbortTime)) == WaitResult::kReady) return;
  LogWarning(absl::StrCat("ncclCommAbort has not returned within ", absl::FormatDuration(kAbortTime)));
}

absl::Status NcclCommunicator::Close(KeepWaiting keep_waiting) {
  TF_ASSIGN_OR_RETURN(const ncclResult_t finalized, Settle(ncclCommFinalize(comm_), keep_waiting));
  TF_RETURN_IF_ERROR(NcclStatus(finalized, "ncclCommFinalize", comm_));
  return NcclStatus(ncclCommDestroy(std::exchange(comm_, nullptr)), "ncclCommDestroy", nullptr);
}

}  // namespace tokenferry
