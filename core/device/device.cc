#include "core/device/device.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace tokenferry {

Buffer::Buffer(Buffer&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      num_bytes_(std::exchange(other.num_bytes_, 0)),
      kind_(other.kind_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this == &other) return *this;
  Release();
  device_ = std::exchange(other.device_, nullptr);
  data_ = std::exchange(other.data_, nullptr);
  num_bytes_ = std::exchange(other.num_bytes_, 0);
  kind_ = other.kind_;
  return *this;
}

Buffer::~Buffer() { Release(); }

void Buffer::Release() {
  if (data_ == nullptr) return;
  device_->FreeMemory(data_, num_bytes_, kind_);
  device_->allocated_bytes_ -= num_bytes_;
  data_ = nullptr;
}

absl::Status Stream::CheckWait(Deadline deadline) {
  if (wait_.watch != nullptr) TF_RETURN_IF_ERROR(wait_.watch->Check());
  if (!deadline.Expired()) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat("the work of a stream on ", device().ToString(),
                                                  " has not completed within ", absl::FormatDuration(wait_.timeout)));
}

// A buffer that outlives its device would free into nothing: better to stop here, where the culprit is on the stack.
Device::~Device() { TF_CHECK_EQ(allocated_bytes_, size_t{0}); }

absl::StatusOr<Buffer> Device::Allocate(size_t num_bytes, MemoryKind kind, absl::string_view label) {
  Buffer buffer;
  buffer.kind_ = kind;
  if (num_bytes == 0) return buffer;
  auto data = AllocateMemory(num_bytes, kind);
  if (!data.ok()) {
    return Annotate(data.status(), absl::StrCat("buffer '", label, "' of ", num_bytes, " bytes on ", ToString(),
                                                " with ", allocated_bytes_, " bytes in use"));
  }
  buffer.device_ = this;
  buffer.data_ = *data;
  buffer.num_bytes_ = num_bytes;
  allocated_bytes_ += num_bytes;
  peak_allocated_bytes_ = std::max(peak_allocated_bytes_, allocated_bytes_);
  return buffer;
}

}  // namespace tokenferry
