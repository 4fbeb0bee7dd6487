// Memory of the fake GPU. A device address is mapped with no rights, so that the host's own load or store traps and is
// named; kernels and copies reach the same bytes through a second mapping. Not thread-safe: callers hold the runtime's
// lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "tests/fakegpu/ptx/memory.h"

namespace tokenferry::fakegpu {

enum class MemoryPlace : uint8_t { kPageable, kPinned, kDevice };

class DeviceMemory : public GlobalMemory {
 public:
  static constexpr size_t kTotalBytes = size_t{8} << 30;  // what the device seems to have

  DeviceMemory();

  // Device memory filled with 0xFF (a NaN, and index -1), between guards; nullptr when it does not fit.
  void* Allocate(size_t num_bytes);
  bool Free(void* data);  // false: not the beginning of an allocation that lives
  void* AllocatePinned(size_t num_bytes);
  bool FreePinned(void* data);
  size_t free_bytes() const { return kTotalBytes - used_bytes_; }

  MemoryPlace PlaceOf(const void* data) const;
  // Where the host reaches [data, data + num_bytes): the second mapping for device memory, `data` for the host's.
  // Throws AccessError if device memory or pinned memory ends before.
  char* HostView(const void* data, size_t num_bytes);

  // What another process needs to map an allocation (cudaIpc).
  struct Handle {
    int32_t process = 0, file = 0;
    uint64_t offset = 0, num_bytes = 0;
  };
  bool HandleOf(void* data, Handle* handle) const;
  // The same for bytes inside an allocation of this process: where they lie in its file. False for other memory.
  bool Locate(const void* data, size_t num_bytes, Handle* handle) const;
  void* Map(const Handle& handle);  // nullptr: no such process or memory
  bool Unmap(void* data);

  MemoryRange Find(uint64_t address) override;
  std::string Describe(uint64_t address) override;

 private:
  struct Allocation {
    uint64_t end = 0;
    char* host = nullptr;
    MemoryPlace place = MemoryPlace::kDevice;
    bool imported = false;
  };
  const std::pair<const uint64_t, Allocation>* Holding(uint64_t address) const;

  int file_ = -1;
  char* view_ = nullptr;  // the second mapping of the arena
  uint64_t begin_ = 0;    // device address of the arena
  uint64_t next_ = 0;     // offset that was never used: addresses are not used twice, so that a freed one stays freed
  size_t used_bytes_ = 0;
  std::map<uint64_t, Allocation> allocations_, freed_;
};

}  // namespace tokenferry::fakegpu
