#include "tests/fakegpu/nccl/communicator.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

using namespace tokenferry::fakegpu;  // NOLINT: NCCL's names are not in a namespace

namespace tokenferry::fakegpu {
namespace {

struct Findings {
  std::mutex mutex;
  std::vector<std::string> reports;
  std::map<int, int64_t> num_calls;
  Fault fault;
  bool released = false;
};
Findings& TheFindings() {
  static Findings* findings = new Findings();
  return *findings;
}

Fault FaultOfEnvironment() {
  Fault fault;
  const char* text = std::getenv("TF_FAKENCCL_FAULT");
  if (text == nullptr) return fault;
  char kind[8] = "";
  int call = 0;
  if (std::sscanf(text, "%d:%d:%7s", &fault.rank, &call, kind) != 3) {
    std::fprintf(stderr, "fake NCCL: TF_FAKENCCL_FAULT=%s is not RANK:CALL:kill|stop\n", text);
    std::abort();
  }
  fault.call = call;
  fault.kind = std::strcmp(kind, "stop") == 0 ? FaultKind::kStop : FaultKind::kKill;
  return fault;
}

}  // namespace

void Report(const std::string& text) {
  std::fprintf(stderr, "fake NCCL: %s\n", text.c_str());
  const std::lock_guard lock(TheFindings().mutex);
  TheFindings().reports.push_back(text);
}

std::vector<std::string> TakeReports() {
  const std::lock_guard lock(TheFindings().mutex);
  return std::exchange(TheFindings().reports, {});
}

void SetFault(const Fault& fault) {
  const std::lock_guard lock(TheFindings().mutex);
  TheFindings().fault = fault;
  TheFindings().released = false;
}

void ReleaseHung() {
  const std::lock_guard lock(TheFindings().mutex);
  TheFindings().released = true;
}

int64_t NumCalls(int rank) {
  const std::lock_guard lock(TheFindings().mutex);
  return TheFindings().num_calls[rank];
}

Fault CurrentFault() {
  const std::lock_guard lock(TheFindings().mutex);
  return TheFindings().fault.rank >= 0 ? TheFindings().fault : FaultOfEnvironment();
}

namespace {

void Hang() {
  for (;;) {
    {
      const std::lock_guard lock(TheFindings().mutex);
      if (TheFindings().released) return;
    }
    Runtime::Get().LetOthersGoOn();
  }
}

}  // namespace
}  // namespace tokenferry::fakegpu

void ncclComm::CountCall() {
  const int64_t call = num_calls++;
  {
    const std::lock_guard lock(TheFindings().mutex);
    TheFindings().num_calls[rank] = num_calls;
  }
  if (fault.rank != rank || fault.call != call) return;
  switch (fault.kind) {
    case FaultKind::kKill:
      kill(getpid(), SIGKILL);
      break;
    case FaultKind::kStop:
      kill(getpid(), SIGSTOP);
      break;
    case FaultKind::kThrow:
      state = State::kGone;
      is_dead = true;
      world->Leave(rank, Membership::kDead);
      throw RankDied{rank};
    case FaultKind::kHang:
      Hang();
      break;
    case FaultKind::kRemoteError:
      last_error = "connection closed by remote peer";
      world->Fail(rank, ncclRemoteError);
      break;
  }
}

ncclResult_t ncclComm::CheckUsable(const char* call) {
  const char* why = nullptr;
  if (is_dead) return ncclSystemError;
  if (state == State::kGone) {
    why = "of a communicator that was aborted or destroyed";
  } else if (state != State::kReady) {
    why = state == State::kJoining ? "before the communicator is ready: its ncclCommInitRankConfig is in progress"
                                   : "after ncclCommFinalize";
  } else if (launching != nullptr) {
    why = "while a group is in progress: ask ncclCommGetAsyncError until it is not";
  }
  if (why == nullptr) return world->ErrorOf(rank) == ncclSuccess ? ncclSuccess : ncclInvalidUsage;
  last_error = absl::StrCat(call, " ", why);
  Report(absl::StrCat("rank ", rank, ": ", last_error));
  return ncclInvalidUsage;
}

ncclResult_t ncclComm::Launch(std::shared_ptr<Group> group) {
  Runtime& runtime = Runtime::Get();
  group->number = num_groups++;
  world->Touch();
  // NCCL may prepare a group on a thread of its own: until then the stream does not have it.
  if (!is_blocking && runtime.queue.Draw() % 2 == 0) {
    launching = std::move(group);
    polls_until_ready = 1 + static_cast<int>(runtime.queue.Draw() % 3);
    return ncclInProgress;
  }
  Enqueue(group);
  return ncclSuccess;
}

void ncclComm::Enqueue(const std::shared_ptr<Group>& group) {
  std::vector<std::string> words;
  for (const Message& m : group->messages) {
    words.push_back(absl::StrCat(m.direction == Direction::kSend ? "send to rank " : "receive from rank ", m.peer, " (",
                                 m.bytes.num_bytes, " bytes)"));
  }
  behind.push_back(absl::StrCat("group ", group->number, ": ", absl::StrJoin(words, ", ")));
  TellBehind();
  Runtime& runtime = Runtime::Get();
  runtime.queue.EnqueueShared(StreamOf(runtime, group->stream), absl::StrCat("NCCL group ", group->number),
                              [this, group] { return Step(*group); });
}

void ncclComm::TellBehind() { world->SetBehind(rank, absl::StrJoin(behind, "; ")); }

bool ncclComm::Step(Group& group) {
  if (state == State::kGone) return true;
  if (num_ended != group.number) return false;
  DeviceMemory& memory = Runtime::Get().memory;
  if (!group.has_arrived) {
    group.has_arrived = true;
    behind.pop_front();
    TellBehind();
    for (const Message& m : group.messages) {
      char* const bytes = memory.HostView(m.data, m.bytes.num_bytes);
      if (m.direction == Direction::kReceive) std::memset(bytes, 0xFB, m.bytes.num_bytes);
    }
    world->Arrive(rank, group.number, group.messages);
  }
  if (!world->Progress(rank, memory)) return false;
  ++num_ended;
  return true;
}

ncclResult_t ncclComm::Poll() {
  // Who is ready early may have failed already: a late one joins first.
  const ncclResult_t error = world->ErrorOf(rank);
  if (error != ncclSuccess && state != State::kJoining) return error;
  if (!IsAsync()) return ncclSuccess;
  if (state == State::kJoining && !world->AllAre(Membership::kIn)) return ncclInProgress;
  if (state == State::kFinalizing && (num_ended < num_groups || !world->AllAre(Membership::kFinalized))) {
    if (num_ended == num_groups) world->Leave(rank, Membership::kFinalized);
    return ncclInProgress;
  }
  if (--polls_until_ready > 0) return ncclInProgress;
  if (state == State::kJoining) state = State::kReady;
  if (state == State::kFinalizing) state = State::kFinalized;
  if (launching != nullptr) Enqueue(std::exchange(launching, nullptr));
  return ncclSuccess;
}
