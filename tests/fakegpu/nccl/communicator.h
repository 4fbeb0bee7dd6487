// A communicator of the fake NCCL. All members are used with the runtime's lock held.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "tests/fakegpu/cudart/runtime.h"
#include "tests/fakegpu/nccl/faults.h"
#include "tests/fakegpu/nccl/world.h"

namespace tokenferry::fakegpu {
Fault CurrentFault();  // of SetFault, or of the environment
}

struct ncclComm {
  enum class State { kJoining, kReady, kFinalizing, kFinalized, kGone };

  std::shared_ptr<tokenferry::fakegpu::World> world;
  int rank = 0, num_ranks = 1, device = 0;
  bool is_blocking = true;
  State state = State::kJoining;
  int polls_until_ready = 0;  // of a call that a non-blocking communicator has under way
  std::string last_error;
  bool is_dead = false;  // a fault: its calls do nothing

  int64_t num_calls = 0, num_collectives = 0;
  tokenferry::fakegpu::Fault fault;

  // Groups in the order of their calls; each begins when the one before has ended.
  struct Group {
    int64_t number = 0;
    cudaStream_t stream = nullptr;
    std::vector<tokenferry::fakegpu::Message> messages;
    bool has_arrived = false;
  };
  int64_t num_groups = 0, num_ended = 0;
  std::deque<std::string> behind;
  std::shared_ptr<Group> launching;  // not in its stream yet

  bool IsAsync() const { return launching != nullptr || state == State::kJoining || state == State::kFinalizing; }
  // Where a fault happens; RankDied may be thrown.
  void CountCall();
  // ncclInvalidUsage, reported, when it may not be used now.
  ncclResult_t CheckUsable(const char* call);
  ncclResult_t Launch(std::shared_ptr<Group> group);
  void Enqueue(const std::shared_ptr<Group>& group);
  bool Step(Group& group);
  // What a non-blocking call has come to.
  ncclResult_t Poll();
  void TellBehind();
};
