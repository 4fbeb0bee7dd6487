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
  ++device_->num_frees_;
  data_ = nullptr;
}

StreamWatch::~StreamWatch() {
  if (stream_ != nullptr) std::erase(stream_->watches_, this);
}

Stream::~Stream() {
  for (StreamWatch* watch : watches_) watch->stream_ = nullptr;
}

void Stream::Watch(StreamWatch& watch) {
  if (watch.stream_ == this) return;
  if (watch.stream_ != nullptr) std::erase(watch.stream_->watches_, &watch);
  watch.stream_ = this;
  watches_.push_back(&watch);
}

absl::Status Stream::BeginCapture() {
  return absl::UnimplementedError(absl::StrCat("streams of ", device().ToString(), " do not capture graphs"));
}
absl::StatusOr<std::unique_ptr<Graph>> Stream::EndCapture() { return BeginCapture(); }
void Stream::LaunchGraph(Graph&) { TF_CHECK(!"a graph of this kind of device exists"); }

bool Stream::IsWaitLimited() const {
  return wait_.timeout != absl::InfiniteDuration() || wait_.watch != nullptr || !watches_.empty();
}

absl::Status Stream::CheckWatches() {
  if (wait_.watch != nullptr) TF_RETURN_IF_ERROR(wait_.watch->Check());
  for (StreamWatch* watch : watches_) TF_RETURN_IF_ERROR(watch->Check());
  return absl::OkStatus();
}

absl::Status Stream::CheckWait(Deadline deadline) {
  TF_RETURN_IF_ERROR(CheckWatches());
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
