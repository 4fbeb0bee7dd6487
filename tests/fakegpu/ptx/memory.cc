#include "tests/fakegpu/ptx/memory.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace tokenferry::fakegpu {

void SharedMemory::CheckBounds(int64_t offset, int size) const {
  if (offset < 0 || offset + size > static_cast<int64_t>(data_.size())) {
    throw AccessError(absl::StrCat("shared memory out of bounds: ", size, " bytes at ", offset, " of ", data_.size()));
  }
  if ((offset & (size - 1)) != 0)
    throw AccessError(absl::StrCat("misaligned: ", size, " bytes at shared memory ", offset));
}

bool SharedMemory::Ordered(const Access& before, const Accessor& who) {
  if (before.thread == -1 || before.block_epoch != who.block_epoch) return true;
  if (before.warp != who.thread / 32) return false;
  return before.thread == who.thread || before.warp_epoch != who.warp_epoch;
}

void SharedMemory::FailRace(const char* what, const Access& before, const Accessor& who, int64_t offset) {
  const std::string other = before.thread == kSeveral ? "other threads" : absl::StrCat("thread ", before.thread);
  throw AccessError(absl::StrCat("race in shared memory at ", offset, ": thread ", who.thread, " ", what, " ", other,
                                 " with no barrier between"));
}

const char* SharedMemory::Load(const Accessor& who, int64_t offset, int size) {
  CheckBounds(offset, size);
  const auto warp = static_cast<int16_t>(who.thread / 32);
  for (int64_t i = offset; i < offset + size; ++i) {
    Byte& byte = bytes_[i];
    if (byte.arriving) {
      throw AccessError(
          absl::StrCat("read of shared memory at ", i, " before the wait for cp.async of thread ", byte.write.thread));
    }
    if (!byte.defined) throw AccessError(absl::StrCat("read of uninitialised shared memory at ", i));
    if (!Ordered(byte.write, who)) FailRace("reads what was written by", byte.write, who, i);
    Access& read = byte.read;
    const bool first = read.thread == -1 || read.block_epoch != who.block_epoch;
    if (first || (read.warp == warp && read.warp_epoch != who.warp_epoch)) {
      read = {static_cast<int16_t>(who.thread), warp, who.block_epoch, who.warp_epoch};
    } else {
      if (read.thread != who.thread) read.thread = kSeveral;
      if (read.warp != warp) read.warp = kSeveral;
    }
  }
  return &data_[offset];
}

void SharedMemory::CheckWrite(const Byte& byte, const Accessor& who, int64_t offset, bool is_atomic) const {
  if (byte.arriving) {
    throw AccessError(absl::StrCat("write to shared memory at ", offset, " that cp.async of thread ", byte.write.thread,
                                   " still fills"));
  }
  if (!(is_atomic && byte.write_is_atomic) && !Ordered(byte.write, who))
    FailRace("writes over", byte.write, who, offset);
  if (!Ordered(byte.read, who)) FailRace("writes what was read by", byte.read, who, offset);
}

char* SharedMemory::Store(const Accessor& who, int64_t offset, int size) {
  CheckBounds(offset, size);
  for (int64_t i = offset; i < offset + size; ++i) {
    CheckWrite(bytes_[i], who, i, false);
    bytes_[i].write = {static_cast<int16_t>(who.thread), static_cast<int16_t>(who.thread / 32), who.block_epoch,
                       who.warp_epoch};
    bytes_[i].defined = true;
    bytes_[i].write_is_atomic = false;
  }
  return &data_[offset];
}

char* SharedMemory::Atomic(const Accessor& who, int64_t offset, int size) {
  CheckBounds(offset, size);
  for (int64_t i = offset; i < offset + size; ++i) {
    if (!bytes_[i].defined) throw AccessError(absl::StrCat("atomic on uninitialised shared memory at ", i));
    CheckWrite(bytes_[i], who, i, true);
    bytes_[i].write = {static_cast<int16_t>(who.thread), static_cast<int16_t>(who.thread / 32), who.block_epoch,
                       who.warp_epoch};
    bytes_[i].write_is_atomic = true;
  }
  return &data_[offset];
}

void SharedMemory::BeginAsyncStore(const Accessor& who, int64_t offset, int size) {
  Store(who, offset, size);
  std::memset(&data_[offset], 0xCB, size);
  for (int64_t i = offset; i < offset + size; ++i) bytes_[i].arriving = true;
}

void SharedMemory::StoreArrived(const Accessor& who, int64_t offset, int size, const char* data) {
  for (int64_t i = offset; i < offset + size; ++i) bytes_[i].arriving = false;
  std::memcpy(Store(who, offset, size), data, size);
}

}  // namespace tokenferry::fakegpu
