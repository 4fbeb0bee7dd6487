// Memory that a kernel reaches: global memory by ranges of addresses, and the shared memory of a block with what its
// bytes have seen, so that a race, a read of nothing or an early read of an asynchronous copy is found by its rule and
// not by its result.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace tokenferry::fakegpu {

// What one thread must not do. The warp that executes adds kernel, thread and line.
class AccessError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct MemoryRange {
  uint64_t begin = 0, end = 0;  // as the kernel sees it; empty: no such memory
  char* host = nullptr;         // where `begin` lies
};

class GlobalMemory {
 public:
  virtual ~GlobalMemory() = default;
  // The range that holds `address`; empty if there is none.
  virtual MemoryRange Find(uint64_t address) = 0;
  // What lies near `address`, for a message.
  virtual std::string Describe(uint64_t address) = 0;
};

// Who accesses, and between which barriers. A thread's accesses are ordered with those of its warp by bar.warp.sync
// (`warp_epoch`), with those of its block by bar.sync (`block_epoch`).
struct Accessor {
  int thread = 0;  // in the block
  uint32_t block_epoch = 0, warp_epoch = 0;
};

// The shared memory of one block. Offsets are from its beginning. Throws AccessError.
class SharedMemory {
 public:
  explicit SharedMemory(size_t num_bytes) : data_(num_bytes, static_cast<char>(0xCB)), bytes_(num_bytes) {}

  // Each checks bounds and alignment to `size`, a power of two, then the rules; returns where the bytes are.
  const char* Load(const Accessor& who, int64_t offset, int size);
  char* Store(const Accessor& who, int64_t offset, int size);
  char* Atomic(const Accessor& who, int64_t offset, int size);
  // From here to StoreArrived nobody may read or write the bytes.
  void BeginAsyncStore(const Accessor& who, int64_t offset, int size);
  void StoreArrived(const Accessor& who, int64_t offset, int size, const char* data);

 private:
  struct Access {
    int16_t thread = -1;  // -1: none, kSeveral: more than one of the warp
    int16_t warp = -1;    // kSeveral: more than one
    uint32_t block_epoch = 0, warp_epoch = 0;
  };
  struct Byte {
    Access write, read;
    bool defined = false, write_is_atomic = false, arriving = false;
  };
  static constexpr int16_t kSeveral = -2;

  static bool Ordered(const Access& before, const Accessor& who);
  void CheckBounds(int64_t offset, int size) const;
  void CheckWrite(const Byte& byte, const Accessor& who, int64_t offset, bool is_atomic) const;
  [[noreturn]] static void FailRace(const char* what, const Access& before, const Accessor& who, int64_t offset);

  std::vector<char> data_;
  std::vector<Byte> bytes_;
};

}  // namespace tokenferry::fakegpu
