#include "core/device/trap_arena.h"

#include <sanitizer/asan_interface.h>  // its macros do nothing without AddressSanitizer
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "core/check.h"
#include "core/round_up.h"

namespace tokenferry {
namespace {

#ifndef TF_TRAP_ARENA_GIB
#define TF_TRAP_ARENA_GIB 64
#endif
constexpr size_t kArenaBytes = size_t{TF_TRAP_ARENA_GIB} << 30;  // address space only

// Every operation protects all that is used, twice, and that takes as long as there are pages: so they are huge ones,
// which the kernel makes of, and keeps while, all of such a piece of memory is used and protected alike.
constexpr size_t kHugePageBytes = size_t{2} << 20;

size_t PageBytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// Whole pages and one more, which lies between two neighbours. num_bytes <= kArenaBytes.
size_t RangeBytes(size_t num_bytes) { return RoundUp(num_bytes, PageBytes()) + PageBytes(); }

}  // namespace

TrapArena::~TrapArena() {
  if (base_ == nullptr) return;
  ASAN_UNPOISON_MEMORY_REGION(base_, used_end_);
  munmap(base_, kArenaBytes);
}

absl::Status TrapArena::Reserve() {
  if (base_ != nullptr) return absl::OkStatus();
  void* base = mmap(nullptr, kArenaBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot reserve ", kArenaBytes, " bytes of address space for trap mode: ", std::strerror(errno)));
  }
  base_ = static_cast<char*>(base);
  madvise(base_, kArenaBytes, MADV_HUGEPAGE);  // where it is refused, Protect takes longer
  return absl::OkStatus();
}

absl::StatusOr<size_t> TrapArena::TakeRange(size_t num_bytes) {
  for (auto gap = free_.begin(); gap != free_.end(); ++gap) {
    const auto [offset, size] = *gap;
    if (size < num_bytes) continue;
    free_.erase(gap);
    if (size > num_bytes) free_.emplace(offset + num_bytes, size - num_bytes);
    return offset;
  }
  if (num_bytes > kArenaBytes - used_end_) {
    return absl::ResourceExhaustedError(absl::StrCat("trap mode's arena of ", kArenaBytes, " bytes is full"));
  }
  const size_t offset = used_end_;
  used_end_ += num_bytes;
  return offset;
}

absl::StatusOr<void*> TrapArena::Allocate(size_t num_bytes) {
  TF_RETURN_IF_ERROR(Reserve());
  if (num_bytes > kArenaBytes / 2) {
    return absl::ResourceExhaustedError(absl::StrCat("trap mode hands out ", kArenaBytes / 2, " bytes at most"));
  }
  const size_t range_bytes = RangeBytes(num_bytes);
  TF_ASSIGN_OR_RETURN(const size_t offset, TakeRange(range_bytes));
  char* data = base_ + offset;
  ASAN_UNPOISON_MEMORY_REGION(data, num_bytes);
  {
    const Access access(this);
    std::memset(data, 0xA5, num_bytes);
  }
  ASAN_POISON_MEMORY_REGION(data + num_bytes, range_bytes - num_bytes);
  return data;
}

void TrapArena::Free(void* data, size_t num_bytes) {
  size_t offset = static_cast<size_t>(static_cast<char*>(data) - base_), size = RangeBytes(num_bytes);
  TF_CHECK_LE(offset + size, used_end_);
  const size_t first_whole = RoundUp(offset, kHugePageBytes),
               end_whole = (offset + size) / kHugePageBytes * kHugePageBytes;
  if (first_whole < end_whole) TF_CHECK_EQ(madvise(base_ + first_whole, end_whole - first_whole, MADV_DONTNEED), 0);
  ASAN_POISON_MEMORY_REGION(data, size);
  auto next = free_.lower_bound(offset);
  if (next != free_.end() && next->first == offset + size) {
    size += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      offset = previous->first;
      size += previous->second;
      free_.erase(previous);
    }
  }
  if (offset + size == used_end_) {
    ASAN_UNPOISON_MEMORY_REGION(base_ + offset, size);
    used_end_ = offset;
  } else {
    free_.emplace(offset, size);
  }
}

void TrapArena::Protect(int protection) {
  if (used_end_ == 0) return;
  if (mprotect(base_, RoundUp(used_end_, kHugePageBytes), protection) == 0) return;
  const std::string error = std::strerror(errno);
  TF_CHECK_EQ(error, "mprotect to succeed");
}

TrapArena::Access::Access(TrapArena* arena) : arena_(arena) {
  if (arena_ != nullptr) arena_->Protect(PROT_READ | PROT_WRITE);
}

TrapArena::Access::~Access() {
  if (arena_ != nullptr) arena_->Protect(PROT_NONE);
}

}  // namespace tokenferry
