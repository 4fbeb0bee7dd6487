// Device memory that grows to the largest size asked for and is kept.
#pragma once

#include <algorithm>
#include <vector>

#include "core/device/device.h"
#include "core/status.h"

namespace tokenferry {

class GrowingBuffer {
 public:
  // `label` points to a string literal.
  GrowingBuffer(MemoryKind kind, const char* label) : kind_(kind), label_(label) {}

  // At least `num_bytes`; contents are lost when it grows. It grows by a quarter or more, so that sizes that creep up
  // do not reallocate each time.
  absl::Status Reserve(Device& device, int64_t num_bytes) {
    const size_t size = buffer_.num_bytes(), wanted = static_cast<size_t>(num_bytes);
    if (wanted <= size) return absl::OkStatus();
    buffer_ = Buffer();  // first: both at once might not fit
    TF_ASSIGN_OR_RETURN(buffer_, device.Allocate(std::max(wanted, size + size / 4), kind_, label_));
    return absl::OkStatus();
  }

  template <class T>
  absl::Status Upload(Stream& stream, const std::vector<T>& values) {
    const int64_t num_bytes = static_cast<int64_t>(values.size() * sizeof(T));
    TF_RETURN_IF_ERROR(Reserve(stream.device(), num_bytes));
    if (num_bytes > 0) stream.CopyToDevice(buffer_.data(), values.data(), num_bytes);
    return absl::OkStatus();
  }

  void* data() const { return buffer_.data(); }
  size_t num_bytes() const { return buffer_.num_bytes(); }
  template <class T>
  T* as() const {
    return buffer_.as<T>();
  }

 private:
  MemoryKind kind_;
  const char* label_;
  Buffer buffer_;
};

}  // namespace tokenferry
