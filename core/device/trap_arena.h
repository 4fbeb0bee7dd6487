// One range of address space for all kDevice memory of a CPU device in trap mode: inaccessible but while an Access
// lives, so that code which reads device memory outside an operation stops with SIGSEGV at the culprit.
#pragma once

#include <cstddef>
#include <map>

#include "core/status.h"

namespace tokenferry {

// Not thread-safe, as its device. Address space is reserved at the first allocation and memory is committed by use.
class TrapArena {
 public:
  TrapArena() = default;
  ~TrapArena();
  TrapArena(const TrapArena&) = delete;
  TrapArena& operator=(const TrapArena&) = delete;

  // Page-aligned; num_bytes > 0. The contents are poison (0xA5 in every byte), never the zeros of a fresh page.
  absl::StatusOr<void*> Allocate(size_t num_bytes);
  void Free(void* data, size_t num_bytes);

  // Makes the arena readable and writable for its lifetime. Null: nothing happens. They do not nest.
  class Access {
   public:
    explicit Access(TrapArena* arena);
    ~Access();
    Access(const Access&) = delete;
    Access& operator=(const Access&) = delete;

   private:
    TrapArena* arena_;
  };

 private:
  absl::Status Reserve();
  absl::StatusOr<size_t> TakeRange(size_t num_bytes);
  void Protect(int protection);

  char* base_ = nullptr;
  size_t used_end_ = 0;            // bytes from base_ that have ever been handed out and not been trimmed since
  std::map<size_t, size_t> free_;  // offset -> bytes of the gaps below used_end_, coalesced
};

}  // namespace tokenferry
