// A warp that executes one instruction for 32 lanes under an active mask. Lanes that have taken different ways are
// parts, each with an instruction of its own; parts that meet become one. Which part goes on is drawn by seed.
#pragma once

#include <bit>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/fakegpu/ptx/memory.h"
#include "tests/fakegpu/ptx/program.h"

namespace tokenferry::fakegpu {

inline constexpr int kLanes = 32;

// A value is in the low bytes of its lane; the others are zero.
struct alignas(64) Register {
  uint64_t lane[kLanes];
  uint32_t defined = 0;  // lanes that hold a value
};

// What all warps of a launch share.
struct LaunchContext {
  const Kernel* kernel = nullptr;
  uint32_t grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
  uint32_t dynamic_shared_bytes = 0;
  std::vector<char> params;
  GlobalMemory* memory = nullptr;
  std::mt19937 rng;
  std::vector<Register> constants;
  MemoryRange last_range;
  bool sleeps = false;  // a thread has executed nanosleep
};

class Warp;

struct Block {
  Block(LaunchContext& launch, uint32_t index);

  LaunchContext& launch;
  uint32_t index[3];
  SharedMemory shared;
  uint32_t epoch = 1;  // barriers passed
  std::deque<Warp> warps;
  int num_exited = 0;  // threads
};

class Warp {
 public:
  Warp(Block& block, int first_thread, int num_threads);

  // Executes up to `budget` instructions and returns how many it did; 0: it waits, or has ended.
  int Run(int budget);
  bool done() const { return parts_.empty(); }
  bool at_barrier() const { return parts_.size() == 1 && parts_[0].state == State::kBlockBarrier; }
  void LeaveBarrier();
  std::string Waiting() const;  // what it waits for, for a message
  [[noreturn]] void Fail(const std::string& what, int line) const;

  // For handlers. A source that a lane in `mask` never got a value in is an error.
  const Register& Use(int index, uint32_t mask);
  // Without that check: moves and selections pass on that there is no value.
  const Register& Peek(int index) const { return index >= 0 ? registers_[index] : block_.launch.constants[-1 - index]; }
  Register& Define(int index, uint32_t mask) {
    Register& r = registers_[index];
    r.defined |= mask;
    return r;
  }
  // Where `size` bytes, a power of two, at `address` of `space` lie for `lane`. In shared memory the access is also
  // checked for races.
  enum class Access { kLoad, kStore, kAtomic };
  char* Memory(Space space, uint64_t address, int size, int lane, Access access);
  Accessor accessor(int lane) const { return {first_thread_ + lane, block_.epoch, warp_epoch_}; }
  Block& block() { return block_; }
  void PassWarpBarrier() { ++warp_epoch_; }

  // cp.async: copies of one lane in groups, oldest first.
  struct AsyncCopy {
    uint64_t shared_offset, global_address;
    int size, bytes_from_global;  // the rest is zeros
  };
  struct LaneCopies {
    std::vector<AsyncCopy> open;  // not committed
    std::deque<std::vector<AsyncCopy>> groups;
  };
  std::vector<LaneCopies>& async_copies() { return async_copies_; }

  int lane = 0;  // that a handler works on: who is at fault

 private:
  enum class State : uint8_t { kRunning, kWarpSync, kBlockBarrier };
  struct Part {
    int pc = 0;
    uint32_t mask = 0;
    State state = State::kRunning;
  };

  int Choose();
  int MergeAt(int part);
  uint32_t Guarded(const Instruction& in, uint32_t mask);
  // Each executes an instruction of parts_[part] and returns the part to go on with, -1: choose again.
  int Branch(const Instruction& in, int part, uint32_t taken);
  int Exit(int part, uint32_t mask);
  int BlockBarrier(const Instruction& in, int part, uint32_t mask);
  int WarpSync(const Instruction& in, int part, uint32_t mask);
  int SplitOff(int part, uint32_t mask);
  char* GlobalOf(uint64_t address, int size);

  Block& block_;
  const int first_thread_;
  uint32_t alive_;
  uint32_t warp_epoch_ = 1;
  bool any_order_ = false;  // this time, parts go on in any order
  std::vector<Part> parts_;
  std::unique_ptr<Register[]> registers_;
  std::vector<char> local_;  // [32, local_bytes]
  std::vector<LaneCopies> async_copies_;
};

// Generic addresses of shared and local memory.
inline constexpr uint64_t kSharedWindow = uint64_t{1} << 62, kLocalWindow = uint64_t{1} << 61,
                          kWindowBytes = uint64_t{1} << 32;

}  // namespace tokenferry::fakegpu
