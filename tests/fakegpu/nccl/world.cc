#include "tests/fakegpu/nccl/world.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <new>

#include "absl/strings/str_cat.h"
#include "core/host/clock.h"

namespace tokenferry::fakegpu {
namespace {

constexpr int kPollsOfADeadlock = 100;
constexpr int64_t kQuietNanos = 50'000'000;
constexpr uint8_t kPoison = 0xFB;  // where a message will arrive

// Bytes of a process's device memory, which is a file.
bool CopyFrom(const DeviceMemory::Handle& from, char* to) {
  static std::map<std::pair<int32_t, int32_t>, int>* files = new std::map<std::pair<int32_t, int32_t>, int>();
  int& file = files->try_emplace({from.process, from.file}, -1).first->second;
  if (file < 0) file = open(absl::StrCat("/proc/", from.process, "/fd/", from.file).c_str(), O_RDONLY | O_CLOEXEC);
  for (uint64_t at = 0; at < from.num_bytes;) {
    const ssize_t n = pread(file, to + at, from.num_bytes - at, static_cast<off_t>(from.offset + at));
    if (n <= 0) return false;
    at += n;
  }
  return true;
}

}  // namespace

struct World::Shared {
  pthread_mutex_t mutex;
  int32_t num_ranks = 0;
  int64_t num_changes = 0;
  int64_t changed_at_ns = 0;
  int64_t all_polled_at_change = -1;  // after which every rank had polled often enough, for the first time
  RankState ranks[kMostRanks];
};

// A rank may be killed while it holds the mutex.
class World::Lock {
 public:
  explicit Lock(Shared& shared) : shared_(shared) {
    if (pthread_mutex_lock(&shared_.mutex) == EOWNERDEAD) pthread_mutex_consistent(&shared_.mutex);
  }
  ~Lock() { pthread_mutex_unlock(&shared_.mutex); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Shared& shared_;
};

const char* NameOfCollective(int32_t collective) {
  switch (collective) {
    case 1:
      return "ncclAlltoAll";
    case 2:
      return "ncclAllGather";
    default:
      return "ncclSend and ncclRecv";
  }
}

bool World::Create(ncclUniqueId* id) {
  const int file = memfd_create("fake-nccl", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return false;
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return false;
  auto* shared = new (memory) Shared();
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&shared->mutex, &attributes);
  munmap(memory, sizeof(Shared));
  *id = {};
  std::snprintf(id->internal, sizeof id->internal, "/proc/%d/fd/%d", getpid(), file);
  return true;
}

World::World(const ncclUniqueId& id) {
  const std::string path(id.internal, strnlen(id.internal, sizeof id.internal));
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return;
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory != MAP_FAILED) shared_ = static_cast<Shared*>(memory);
}

World::~World() {
  if (shared_ != nullptr) munmap(shared_, sizeof(Shared));
}

void World::Change() {
  ++shared_->num_changes;
  shared_->changed_at_ns = SteadyNanos();
}

std::string World::Join(int rank, int num_ranks, int device) {
  const Lock lock(*shared_);
  if (num_ranks < 1 || num_ranks > kMostRanks || rank < 0 || rank >= num_ranks)
    return absl::StrCat("rank ", rank, " of ", num_ranks);
  if (shared_->num_ranks != 0 && shared_->num_ranks != num_ranks)
    return absl::StrCat("rank ", rank, " says there are ", num_ranks, " ranks, another one ", shared_->num_ranks);
  shared_->num_ranks = num_ranks;
  RankState& me = shared_->ranks[rank];
  if (me.membership != Membership::kAbsent) return absl::StrCat("rank ", rank, " joins twice");
  for (int r = 0; r < num_ranks; ++r) {
    const RankState& other = shared_->ranks[r];
    if (other.membership != Membership::kIn || other.device != device ||
        std::getenv("NCCL_MULTI_RANK_GPU_ENABLE") != nullptr)
      continue;
    return absl::StrCat("duplicate GPU detected: rank ", rank, " and rank ", r, " both on device ", device);
  }
  me.membership = Membership::kIn;
  me.process = getpid();
  me.device = device;
  Change();
  return "";
}

bool World::AllAre(Membership least) {
  const Lock lock(*shared_);
  for (int r = 0; r < shared_->num_ranks; ++r) {
    if (shared_->ranks[r].membership < least) return false;
  }
  return shared_->num_ranks > 0;
}

void World::Leave(int rank, Membership how) {
  const Lock lock(*shared_);
  RankState& me = shared_->ranks[rank];
  if (me.membership > how) return;
  me.membership = how;
  if (how != Membership::kFinalized) me.group_under_way = false;
  Change();
}

void World::Arrive(int rank, int64_t number, const std::vector<Message>& messages) {
  const Lock lock(*shared_);
  RankState& me = shared_->ranks[rank];
  me.group_under_way = true;
  me.group_number = number;
  me.num_messages = static_cast<int32_t>(messages.size());
  std::copy(messages.begin(), messages.end(), me.messages);
  Change();
}

Message* World::First(RankState& rank, Direction direction, int peer) {
  if (!rank.group_under_way) return nullptr;
  for (int i = 0; i < rank.num_messages; ++i) {
    Message& m = rank.messages[i];
    if (!m.done && m.direction == direction && m.peer == peer) return &m;
  }
  return nullptr;
}

void World::CheckPair(int src, const Message& send, int dst, const Message& receive) {
  std::string what;
  if (send.collective != receive.collective || send.collective_number != receive.collective_number) {
    what = absl::StrCat("order mismatch: rank ", src, " is in ", NameOfCollective(send.collective), " (",
                        send.collective_number, " of its collectives), rank ", dst, " in ",
                        NameOfCollective(receive.collective), " (", receive.collective_number, " of its collectives)");
  } else if (send.bytes.num_bytes != receive.bytes.num_bytes) {
    what = absl::StrCat("size mismatch ", src, " -> ", dst, ": rank ", src, " sends ", send.bytes.num_bytes,
                        " bytes in its group ", shared_->ranks[src].group_number, ", rank ", dst, " receives ",
                        receive.bytes.num_bytes, " in its group ", shared_->ranks[dst].group_number);
  }
  if (what.empty()) return;
  Report(what);
  FailAll(ncclInvalidUsage);
}

// Of a rule that was broken: the ranks that have kept it would wait for ever.
void World::FailAll(ncclResult_t error) {
  for (int r = 0; r < shared_->num_ranks; ++r) shared_->ranks[r].error = error;
}

bool World::Progress(int rank, DeviceMemory& memory) {
  const Lock lock(*shared_);
  RankState& me = shared_->ranks[rank];
  bool all_done = true;
  for (int i = 0; i < me.num_messages; ++i) {
    Message& receive = me.messages[i];
    if (receive.direction == Direction::kReceive && !receive.done && me.error == ncclSuccess) {
      Message* const send = First(shared_->ranks[receive.peer], Direction::kSend, rank);
      if (send != nullptr && First(me, Direction::kReceive, receive.peer) == &receive) {
        CheckPair(receive.peer, *send, rank, receive);
        if (me.error != ncclSuccess) return false;
        if (CopyFrom(send->bytes, memory.HostView(receive.data, receive.bytes.num_bytes))) {
          send->done = receive.done = true;
        } else {
          me.error = ncclRemoteError;  // its process has ended
        }
        Change();
      }
    }
    all_done = all_done && me.messages[i].done;
  }
  if (all_done) me.group_under_way = false;
  return all_done;
}

void World::SetBehind(int rank, const std::string& text) {
  const Lock lock(*shared_);
  std::snprintf(shared_->ranks[rank].behind, sizeof shared_->ranks[rank].behind, "%s", text.c_str());
}

bool World::IsWaitedFor(int rank) {
  const Lock lock(*shared_);
  for (int r = 0; r < shared_->num_ranks; ++r) {
    RankState& other = shared_->ranks[r];
    if (First(other, Direction::kSend, rank) != nullptr || First(other, Direction::kReceive, rank) != nullptr)
      return true;
  }
  return false;
}

void World::Touch() {
  const Lock lock(*shared_);
  Change();
}

void World::CountPoll(int rank) {
  const Lock lock(*shared_);
  RankState& me = shared_->ranks[rank];
  if (me.polled_at_change != shared_->num_changes) me.num_polls = 0;
  me.polled_at_change = shared_->num_changes;
  ++me.num_polls;
  if (SteadyNanos() - shared_->changed_at_ns < kQuietNanos) return;
  bool any_group = false;
  for (int r = 0; r < shared_->num_ranks; ++r) {
    const RankState& other = shared_->ranks[r];
    if (other.membership != Membership::kIn || other.error != ncclSuccess) return;
    if (other.polled_at_change != shared_->num_changes || other.num_polls < kPollsOfADeadlock) return;
    any_group |= other.group_under_way;
  }
  if (!any_group) return;  // what they wait for, flags of each other's kernels, is not NCCL's
  if (shared_->all_polled_at_change != shared_->num_changes) {
    // One may have polled while a kernel of its own waited, and compute by now: then it does not poll a second time.
    shared_->all_polled_at_change = shared_->num_changes;
    for (int r = 0; r < shared_->num_ranks; ++r) shared_->ranks[r].num_polls = 0;
    return;
  }
  Report(absl::StrCat("deadlock, every rank waits:", Describe()));
  FailAll(ncclInternalError);
}

std::string World::Describe(const Message& m) {
  const bool sends = m.direction == Direction::kSend;
  return absl::StrCat(" ", sends ? "send of " : "receive of ", m.bytes.num_bytes, " bytes ", sends ? "to" : "from",
                      " rank ", m.peer, m.collective == 0 ? "" : " in ",
                      m.collective == 0 ? "" : NameOfCollective(m.collective));
}

std::string World::Describe() const {
  std::string text;
  for (int r = 0; r < shared_->num_ranks; ++r) {
    const RankState& rank = shared_->ranks[r];
    absl::StrAppend(&text, "\n  rank ", r, ": ");
    if (rank.group_under_way) {
      absl::StrAppend(&text, "group ", rank.group_number, " under way:");
      const char* separator = "";
      for (int i = 0; i < rank.num_messages; ++i) {
        if (rank.messages[i].done) continue;
        absl::StrAppend(&text, separator, Describe(rank.messages[i]));
        separator = ",";
      }
    } else {
      absl::StrAppend(&text, "no group under way");
    }
    if (rank.behind[0] != 0) absl::StrAppend(&text, "; behind it ", rank.behind);
  }
  return text;
}

ncclResult_t World::ErrorOf(int rank) {
  const Lock lock(*shared_);
  return shared_->ranks[rank].error;
}

void World::Fail(int rank, ncclResult_t error) {
  const Lock lock(*shared_);
  shared_->ranks[rank].error = error;
}

}  // namespace tokenferry::fakegpu
