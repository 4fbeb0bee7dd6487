// Entry points of the fake NCCL.
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "comm/transport/nccl/nccl_library.h"
#include "tests/fakegpu/nccl/communicator.h"

using namespace tokenferry::fakegpu;  // NOLINT: entry points of C

namespace tokenferry {
// In place of the one that loads the real library.
absl::Status LoadNccl() { return absl::OkStatus(); }
}  // namespace tokenferry

namespace {

// The calls of a group that this thread has begun.
struct Request {
  ncclComm_t comm;
  cudaStream_t stream;
  std::vector<Message> messages;
};
thread_local int group_depth = 0;
thread_local std::vector<Request> group_calls;
thread_local std::vector<ncclComm_t> comms_of_thread;

std::vector<std::shared_ptr<ncclComm>>& AllComms() {
  static auto* comms = new std::vector<std::shared_ptr<ncclComm>>();  // kept: use after the end is to be found
  return *comms;
}

constexpr size_t kTypeBytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};

// A stream goes on while its host does something else. That matters when others wait for it.
void GoOnWithWhatOthersWaitFor() {
  Runtime& runtime = Runtime::Get();
  for (;;) {
    std::this_thread::sleep_for(std::chrono::microseconds(500));
    const std::lock_guard lock(runtime.mutex);
    bool is_waited_for = false;
    for (const auto& comm : AllComms()) {
      is_waited_for |= comm->state != ncclComm::State::kGone && comm->world->IsWaitedFor(comm->rank);
    }
    try {
      if (is_waited_for && runtime.sticky == cudaSuccess) runtime.queue.RunShared();
    } catch (const std::runtime_error& fault) {  // as in a call of the runtime
      std::fprintf(stderr, "fake CUDA: %s\n", fault.what());
      runtime.fault = fault.what();
      runtime.sticky = cudaErrorLaunchFailure;
    }
  }
}

void OnStuck(Stuck stuck) {
  Runtime& runtime = Runtime::Get();
  for (ncclComm_t comm : comms_of_thread) {
    if (comm->state == ncclComm::State::kGone) continue;
    comm->world->CountPoll(comm->rank);
    if (stuck == Stuck::kWaits && comm->world->ErrorOf(comm->rank) != ncclSuccess)
      throw std::runtime_error("a stream waits for NCCL, which has failed");
  }
  if (stuck == Stuck::kWaits) runtime.LetOthersGoOn();
}

ncclResult_t AddToGroup(Request call) {
  const bool alone = group_depth == 0;
  if (alone) ncclGroupStart();
  group_calls.push_back(std::move(call));
  return alone ? ncclGroupEnd() : ncclSuccess;
}

ncclResult_t Refuse(ncclComm_t comm, ncclResult_t result, const std::string& why) {
  comm->last_error = why;
  Report(absl::StrCat("rank ", comm->rank, ": ", why));
  return result;
}

ncclResult_t MakeMessage(const char* name, ncclComm_t comm, Direction direction, void* data, size_t num_bytes, int peer,
                         Message* message) {
  if (peer < 0 || peer >= comm->num_ranks)
    return Refuse(comm, ncclInvalidArgument, absl::StrCat(name, ": peer ", peer, " of ", comm->num_ranks, " ranks"));
  *message = {.direction = direction, .peer = peer, .data = data};
  if (num_bytes == 0 || Runtime::Get().memory.Locate(data, num_bytes, &message->bytes)) return ncclSuccess;
  return Refuse(comm, ncclInvalidArgument,
                absl::StrCat(name, ": ", num_bytes, " bytes that are not device memory of this rank: ",
                             Runtime::Get().memory.Describe(reinterpret_cast<uint64_t>(data))));
}

ncclResult_t SendOrReceive(const char* name, Direction direction, void* data, size_t count, ncclDataType_t type,
                           int peer, ncclComm_t comm, cudaStream_t stream) {
  Message message;
  {
    const std::lock_guard lock(Runtime::Get().mutex);
    comm->CountCall();
    if (const ncclResult_t result = comm->CheckUsable(name); result != ncclSuccess) return result;
    const ncclResult_t result = MakeMessage(name, comm, direction, data, count * kTypeBytes[type], peer, &message);
    if (result != ncclSuccess) return result;
  }
  return AddToGroup({comm, stream, {message}});
}

// Part p of `send`, or all of it, to rank p; from rank p to part p of `receive`.
enum class SendPart { kOfPeer, kAll };
ncclResult_t AddMessages(int32_t collective, SendPart part, const void* send, void* receive, size_t num_bytes,
                         ncclComm_t comm, std::vector<Message>& messages) {
  const char* name = NameOfCollective(collective);
  const std::lock_guard lock(Runtime::Get().mutex);
  comm->CountCall();
  if (const ncclResult_t result = comm->CheckUsable(name); result != ncclSuccess) return result;
  for (int p = 0; p < comm->num_ranks; ++p) {
    char* const from = static_cast<char*>(const_cast<void*>(send)) + (part == SendPart::kOfPeer ? p * num_bytes : 0);
    char* const to = static_cast<char*>(receive) + p * num_bytes;
    for (const Direction direction : {Direction::kSend, Direction::kReceive}) {
      Message message;
      const ncclResult_t result =
          MakeMessage(name, comm, direction, direction == Direction::kSend ? from : to, num_bytes, p, &message);
      if (result != ncclSuccess) return result;
      message.collective = collective;
      message.collective_number = comm->num_collectives;
      messages.push_back(message);
    }
  }
  ++comm->num_collectives;
  return ncclSuccess;
}

ncclResult_t Collective(int32_t collective, SendPart part, const void* send, void* receive, size_t num_bytes,
                        ncclComm_t comm, cudaStream_t stream) {
  Request call{comm, stream, {}};
  const ncclResult_t result = AddMessages(collective, part, send, receive, num_bytes, comm, call.messages);
  return result == ncclSuccess ? AddToGroup(std::move(call)) : result;
}

// The calls of one communicator in a group.
ncclResult_t LaunchCallsOf(ncclComm_t comm, const std::vector<Request>& calls) {
  auto group = std::make_shared<ncclComm::Group>();
  bool is_first = true;
  for (const Request& call : calls) {
    if (call.comm != comm) continue;
    if (!is_first && call.stream != group->stream)
      return Refuse(comm, ncclInvalidUsage, "this fake takes a group on one stream only");
    is_first = false;
    group->stream = call.stream;
    group->messages.insert(group->messages.end(), call.messages.begin(), call.messages.end());
  }
  comm->CountCall();
  if (group->messages.size() > kMostMessages)
    return Refuse(comm, ncclInvalidUsage, absl::StrCat("this fake takes ", kMostMessages, " messages in a group"));
  Runtime& runtime = Runtime::Get();
  const QueueStream& stream = StreamOf(runtime, group->stream);
  if (stream.capture != nullptr) return Refuse(comm, ncclInvalidUsage, "this fake does not capture NCCL");
  if (stream.device != comm->device)
    return Refuse(comm, ncclInvalidUsage,
                  absl::StrCat("a stream of device ", stream.device, ", a communicator of ", comm->device));
  return comm->Launch(std::move(group));
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  const char* text = std::getenv("TF_FAKENCCL_VERSION");
  *version = text != nullptr ? std::atoi(text) : NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  static constexpr const char* kTexts[] = {"no error",
                                           "unhandled cuda error",
                                           "unhandled system error",
                                           "internal error",
                                           "invalid argument",
                                           "invalid usage",
                                           "remote process exited or there was a network error",
                                           "NCCL operation in progress"};
  return result >= 0 && result < ncclNumResults ? kTexts[result] : "unknown result code";
}
const char* ncclGetLastError(ncclComm_t comm) { return comm == nullptr ? "" : comm->last_error.c_str(); }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) { return World::Create(id) ? ncclSuccess : ncclSystemError; }

ncclResult_t ncclCommInitRankConfig(ncclComm_t* result, int num_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  *result = nullptr;
  const ncclConfig_t initial = NCCL_CONFIG_INITIALIZER;
  if (config != nullptr && config->magic != initial.magic) {
    Report(absl::StrCat("rank ", rank, ": a config that does not begin as NCCL_CONFIG_INITIALIZER"));
    return ncclInvalidArgument;
  }
  Runtime& runtime = Runtime::Get();
  std::unique_lock lock(runtime.mutex);
  auto comm = std::make_shared<ncclComm>();
  comm->world = std::make_shared<World>(id);
  comm->rank = rank;
  comm->num_ranks = num_ranks;
  comm->device = current_device;
  comm->is_blocking = config == nullptr || config->blocking != 0;
  comm->fault = CurrentFault();
  if (!comm->world->is_open()) return ncclSystemError;
  comm->CountCall();
  if (const std::string why = comm->world->Join(rank, num_ranks, comm->device); !why.empty()) {
    Report(why);
    return ncclInvalidUsage;
  }
  static const bool started = [&runtime] {
    runtime.queue.OnStuck(OnStuck);
    std::thread(GoOnWithWhatOthersWaitFor).detach();
    return true;
  }();
  (void)started;
  comm->polls_until_ready = 1 + static_cast<int>(runtime.queue.Draw() % 3);
  AllComms().push_back(comm);
  comms_of_thread.push_back(comm.get());
  *result = comm.get();
  if (!comm->is_blocking) return ncclInProgress;
  ncclResult_t state = ncclInProgress;
  while ((state = comm->Poll()) == ncclInProgress) runtime.LetOthersGoOn();
  return state;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  const std::lock_guard lock(Runtime::Get().mutex);
  if (comm->state == ncclComm::State::kGone) return comm->CheckUsable("ncclCommGetAsyncError");
  *result = comm->Poll();
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const std::lock_guard lock(Runtime::Get().mutex);
  comm->CountCall();
  if (const ncclResult_t result = comm->CheckUsable("ncclCommFinalize"); result != ncclSuccess) return result;
  comm->state = ncclComm::State::kFinalizing;
  comm->polls_until_ready = 1;
  ncclResult_t state = comm->Poll();
  if (!comm->is_blocking) return state;
  for (; state == ncclInProgress; state = comm->Poll()) Runtime::Get().LetOthersGoOn();
  return state;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  const std::lock_guard lock(Runtime::Get().mutex);
  if (comm->state == ncclComm::State::kGone) return comm->CheckUsable("ncclCommDestroy");
  if (comm->state != ncclComm::State::kFinalized)
    return Refuse(comm, ncclInvalidUsage, "ncclCommDestroy before ncclCommFinalize has ended");
  comm->state = ncclComm::State::kGone;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const std::lock_guard lock(Runtime::Get().mutex);
  if (comm->state == ncclComm::State::kGone) return comm->CheckUsable("ncclCommAbort");
  comm->state = ncclComm::State::kGone;  // its groups end where they are
  comm->launching = nullptr;
  comm->world->Leave(comm->rank, Membership::kAborted);
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (group_depth == 0) {
    Report("ncclGroupEnd without ncclGroupStart");
    return ncclInvalidUsage;
  }
  if (--group_depth > 0) return ncclSuccess;
  const std::vector<Request> calls = std::exchange(group_calls, {});
  const std::lock_guard lock(Runtime::Get().mutex);
  std::vector<ncclComm_t> comms;
  ncclResult_t worst = ncclSuccess;
  for (const Request& call : calls) {
    if (std::find(comms.begin(), comms.end(), call.comm) != comms.end()) continue;
    comms.push_back(call.comm);
    const ncclResult_t result = LaunchCallsOf(call.comm, calls);
    if (worst == ncclSuccess || result != ncclInProgress) worst = result == ncclSuccess ? worst : result;
  }
  return worst;
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return SendOrReceive("ncclSend", Direction::kSend, const_cast<void*>(data), count, type, peer, comm, stream);
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return SendOrReceive("ncclRecv", Direction::kReceive, data, count, type, peer, comm, stream);
}

ncclResult_t ncclAlltoAll(const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                          cudaStream_t stream) {
  return Collective(1, SendPart::kOfPeer, send, receive, count * kTypeBytes[type], comm, stream);
}
ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return Collective(2, SendPart::kAll, send, receive, count * kTypeBytes[type], comm, stream);
}

}  // extern "C"
