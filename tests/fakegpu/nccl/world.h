// What the ranks of one fake communicator share, in memory that all of them map: threads of one process, or processes
// of one host. It matches messages with rendezvous semantics: a send does not end before its receive, and the bytes are
// copied when both are there.
#pragma once

#include <nccl.h>
#include <pthread.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/fakegpu/cudart/device_memory.h"

namespace tokenferry::fakegpu {

inline constexpr int kMostRanks = 16, kMostMessages = 64;  // of a communicator, and of a group

enum class Direction : int32_t { kSend, kReceive };

// One send or receive of a group. A collective is a group of them that others match only with the same collective.
struct Message {
  Direction direction = Direction::kSend;
  int32_t peer = 0;
  int32_t collective = 0;         // NameOfCollective; 0: ncclSend and ncclRecv
  int64_t collective_number = 0;  // of this communicator
  void* data = nullptr;           // device memory of the process that this rank is in
  DeviceMemory::Handle bytes;     // the same, for other processes
  bool done = false;
};
const char* NameOfCollective(int32_t collective);

enum class Membership : int32_t { kAbsent, kIn, kFinalized, kAborted, kDead };

struct RankState {
  Membership membership = Membership::kAbsent;
  int32_t process = 0;
  int32_t device = 0;
  ncclResult_t error = ncclSuccess;
  bool group_under_way = false;  // the stream has come to it
  int64_t group_number = 0;
  int32_t num_messages = 0;
  Message messages[kMostMessages];
  char behind[512] = {};  // groups that the stream has not come to, for reports
  int64_t polled_at_change = -1;
  int32_t num_polls = 0;
};

class World {
 public:
  // The memory of a new communicator, as bytes of an ncclUniqueId. It lives until this process ends.
  static bool Create(ncclUniqueId* id);
  explicit World(const ncclUniqueId& id);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  bool is_open() const { return shared_ != nullptr; }

  // Empty, or why not.
  std::string Join(int rank, int num_ranks, int device);
  bool AllAre(Membership least);  // at least that far, leaving out the dead and the aborted
  void Leave(int rank, Membership how);

  // The stream of `rank` has come to a group.
  void Arrive(int rank, int64_t number, const std::vector<Message>& messages);
  // Receives what can be received; true when every message of the group is done.
  bool Progress(int rank, DeviceMemory& memory);
  void SetBehind(int rank, const std::string& text);

  // Whether another rank's group has a message for this one.
  bool IsWaitedFor(int rank);
  // The host of `rank` has found nothing that can go on. When all have, again and again, and nothing has changed, the
  // communicator is deadlocked: that is reported, and an error of every rank.
  void CountPoll(int rank);
  // The host of `rank` does something else.
  void Touch();

  ncclResult_t ErrorOf(int rank);
  void Fail(int rank, ncclResult_t error);

 private:
  struct Shared;
  class Lock;
  void Change();  // under the lock, like those below
  void FailAll(ncclResult_t error);
  void CheckPair(int src, const Message& send, int dst, const Message& receive);
  std::string Describe() const;
  static Message* First(RankState& rank, Direction direction, int peer);
  static std::string Describe(const Message& message);

  Shared* shared_ = nullptr;
};

// Prints a broken rule and keeps it for TakeReports (tests/fakegpu/nccl/faults.h).
void Report(const std::string& text);

}  // namespace tokenferry::fakegpu
