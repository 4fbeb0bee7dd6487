#include "tests/fakegpu/cudart/device_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tokenferry::fakegpu {
namespace {

constexpr size_t kArenaBytes = size_t{1} << 38;  // of addresses; pages exist when they are touched
constexpr size_t kGuardBytes = 4096, kAlign = 512;
constexpr size_t kPoisonedPinnedBytes = 64
                                        << 10;  // of pinned memory; touching megabytes of it takes longer than a kernel

uint64_t trap_begin = 0, trap_end = 0;
struct sigaction previous_action;

// Names the fault, then lets it take its course.
void OnSegmentationFault(int signal_number, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uint64_t>(info->si_addr);
  if (address >= trap_begin && address < trap_end) {
    char text[128];
    const int length = std::snprintf(text, sizeof text, "fake CUDA: the host dereferenced device memory at 0x%llx\n",
                                     static_cast<unsigned long long>(address));
    if (write(STDERR_FILENO, text, length) < 0) _exit(1);
  }
  sigaction(signal_number, &previous_action, nullptr);
}

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::abort();
}

}  // namespace

DeviceMemory::DeviceMemory() {
  file_ = memfd_create("fake-gpu", MFD_CLOEXEC);
  if (file_ < 0 || ftruncate(file_, kArenaBytes) != 0) Die("fake CUDA: memfd_create");
  void* view = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file_, 0);
  void* trap = mmap(nullptr, kArenaBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (view == MAP_FAILED || trap == MAP_FAILED) Die("fake CUDA: mmap");
  view_ = static_cast<char*>(view);
  begin_ = trap_begin = reinterpret_cast<uint64_t>(trap);
  trap_end = begin_ + kArenaBytes;
  next_ = kGuardBytes;
  struct sigaction action = {};
  action.sa_sigaction = OnSegmentationFault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, &previous_action);
}

void* DeviceMemory::Allocate(size_t num_bytes) {
  const size_t size = (num_bytes + kAlign - 1) / kAlign * kAlign;
  if (size > free_bytes() || next_ + size + kGuardBytes > kArenaBytes) return nullptr;
  const uint64_t offset = next_;
  next_ += size + kGuardBytes;
  used_bytes_ += size;
  std::memset(view_ + offset, 0xFF, size);
  allocations_[begin_ + offset] = {begin_ + offset + num_bytes, view_ + offset, MemoryPlace::kDevice, false};
  return reinterpret_cast<void*>(begin_ + offset);
}

bool DeviceMemory::Free(void* data) {
  const auto found = allocations_.find(reinterpret_cast<uint64_t>(data));
  if (found == allocations_.end() || found->second.place != MemoryPlace::kDevice || found->second.imported)
    return false;
  const size_t size = (found->second.end - found->first + kAlign - 1) / kAlign * kAlign;
  used_bytes_ -= size;
  // Whole pages go back to the system; the address is not used again.
  const uint64_t offset = found->first - begin_, first_page = (offset + 4095) / 4096 * 4096,
                 last_page = (offset + size) / 4096 * 4096;
  if (last_page > first_page)
    fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first_page, last_page - first_page);
  freed_[found->first] = found->second;
  allocations_.erase(found);
  return true;
}

void* DeviceMemory::AllocatePinned(size_t num_bytes) {
  void* data = std::aligned_alloc(4096, (num_bytes + 4095) / 4096 * 4096 + 4096);
  if (data == nullptr) return nullptr;
  std::memset(data, 0xFF, std::min(num_bytes, kPoisonedPinnedBytes));
  const auto address = reinterpret_cast<uint64_t>(data);
  allocations_[address] = {address + num_bytes, static_cast<char*>(data), MemoryPlace::kPinned, false};
  return data;
}

bool DeviceMemory::FreePinned(void* data) {
  const auto found = allocations_.find(reinterpret_cast<uint64_t>(data));
  if (found == allocations_.end() || found->second.place != MemoryPlace::kPinned) return false;
  allocations_.erase(found);
  std::free(data);
  return true;
}

const std::pair<const uint64_t, DeviceMemory::Allocation>* DeviceMemory::Holding(uint64_t address) const {
  auto next = allocations_.upper_bound(address);
  if (next == allocations_.begin()) return nullptr;
  --next;
  return address < next->second.end ? &*next : nullptr;
}

MemoryPlace DeviceMemory::PlaceOf(const void* data) const {
  const auto address = reinterpret_cast<uint64_t>(data);
  if (address >= trap_begin && address < trap_end) return MemoryPlace::kDevice;  // freed memory too
  const auto* found = Holding(address);
  return found == nullptr ? MemoryPlace::kPageable : found->second.place;
}

char* DeviceMemory::HostView(const void* data, size_t num_bytes) {
  const auto address = reinterpret_cast<uint64_t>(data);
  const auto* found = Holding(address);
  if (found == nullptr && PlaceOf(data) == MemoryPlace::kPageable) return static_cast<char*>(const_cast<void*>(data));
  if (found == nullptr || address + num_bytes > found->second.end) {
    throw AccessError(absl::StrCat("copy or fill of ", num_bytes, " bytes out of bounds: ", Describe(address)));
  }
  return found->second.host + (address - found->first);
}

bool DeviceMemory::HandleOf(void* data, Handle* handle) const {
  const auto* found = Holding(reinterpret_cast<uint64_t>(data));
  if (found == nullptr || found->second.place != MemoryPlace::kDevice || found->second.imported) return false;
  *handle = {getpid(), file_, found->first - begin_, found->second.end - found->first};
  return true;
}

bool DeviceMemory::Locate(const void* data, size_t num_bytes, Handle* handle) const {
  const auto address = reinterpret_cast<uint64_t>(data);
  const auto* found = Holding(address);
  if (found == nullptr || found->second.place != MemoryPlace::kDevice || found->second.imported) return false;
  if (address + num_bytes > found->second.end) return false;
  *handle = {getpid(), file_, address - begin_, num_bytes};
  return true;
}

void* DeviceMemory::Map(const Handle& handle) {
  const int file = open(absl::StrCat("/proc/", handle.process, "/fd/", handle.file).c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return nullptr;
  const uint64_t first = handle.offset / 4096 * 4096, size = handle.offset + handle.num_bytes - first;
  void* view = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, first);
  close(file);
  if (view == MAP_FAILED) return nullptr;
  const uint64_t offset = (next_ + 4095) / 4096 * 4096 + handle.offset - first;
  next_ = offset + handle.num_bytes + kGuardBytes;
  const uint64_t address = begin_ + offset;
  allocations_[address] = {address + handle.num_bytes, static_cast<char*>(view) + (handle.offset - first),
                           MemoryPlace::kDevice, true};
  return reinterpret_cast<void*>(address);
}

bool DeviceMemory::Unmap(void* data) {
  const auto found = allocations_.find(reinterpret_cast<uint64_t>(data));
  if (found == allocations_.end() || !found->second.imported) return false;
  const auto host = reinterpret_cast<uint64_t>(found->second.host), page = host / 4096 * 4096;
  munmap(reinterpret_cast<void*>(page), found->second.end - found->first + (host - page));
  allocations_.erase(found);
  return true;
}

MemoryRange DeviceMemory::Find(uint64_t address) {
  const auto* found = Holding(address);
  return found == nullptr ? MemoryRange{} : MemoryRange{found->first, found->second.end, found->second.host};
}

std::string DeviceMemory::Describe(uint64_t address) {
  const auto near = [&](const std::map<uint64_t, Allocation>& in) -> std::string {
    auto next = in.upper_bound(address);
    if (next == in.begin()) return "";
    --next;
    if (address >= next->second.end + kGuardBytes) return "";
    return absl::StrFormat("byte %d of an allocation of %d", address - next->first, next->second.end - next->first);
  };
  if (const std::string text = near(allocations_); !text.empty()) return text;
  if (const std::string text = near(freed_); !text.empty()) return absl::StrCat(text, " that was freed");
  return PlaceOf(reinterpret_cast<void*>(address)) == MemoryPlace::kDevice ? "no allocation"
                                                                           : "memory of the host that is not pinned";
}

}  // namespace tokenferry::fakegpu
