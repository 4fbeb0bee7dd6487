#include "core/device/device.h"

#include <algorithm>
#include <utility>

namespace tokenferry {

Buffer::Buffer(Buffer&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      num_bytes_(std::exchange(other.num_bytes_, 0)),
      kind_(other.kind_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(num_bytes_, other.num_bytes_);
  std::swap(kind_, other.kind_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  device_->FreeMemory(data_, num_bytes_, kind_);
  device_->allocated_bytes_ -= num_bytes_;
}

absl::StatusOr<Buffer> Device::Allocate(size_t num_bytes, MemoryKind kind, absl::string_view label) {
  Buffer buffer;
  buffer.kind_ = kind;
  if (num_bytes == 0) return buffer;
  auto data = AllocateMemory(num_bytes, kind);
  if (!data.ok()) {
    return Annotate(data.status(), absl::StrCat("buffer '", label, "' of ", num_bytes, " bytes on ", ToString(), " with ",
                                                allocated_bytes_, " bytes in use"));
  }
  buffer.device_ = this;
  buffer.data_ = *data;
  buffer.num_bytes_ = num_bytes;
  allocated_bytes_ += num_bytes;
  peak_allocated_bytes_ = std::max(peak_allocated_bytes_, allocated_bytes_);
  return buffer;
}

}  // namespace tokenferry
