// A regular file read by byte ranges.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/types/span.h"
#include "core/status.h"

namespace tokenferry {

// Read-only. Reads may come from any thread. Closes the file on destruction.
class RangeFile {
 public:
  // As pread(2); tests pass one that is interrupted or returns less than asked for.
  using PreadFunction = ssize_t (*)(int fd, void* data, size_t num_bytes, off_t offset);

  // NotFound, PermissionDenied, .. with the path; InvalidArgument when it is no regular file.
  static absl::StatusOr<std::unique_ptr<RangeFile>> Open(const std::string& path, PreadFunction read = nullptr);
  ~RangeFile();
  RangeFile(const RangeFile&) = delete;
  RangeFile& operator=(const RangeFile&) = delete;

  // Fills `dst` with the bytes from `offset` on. DataLoss, naming the file and the range, when the file ends before.
  absl::Status Read(int64_t offset, absl::Span<uint8_t> dst) const;

  const std::string& path() const { return path_; }
  int64_t num_bytes() const { return num_bytes_; }           // when it was opened
  int64_t bytes_read() const { return bytes_read_.load(); }  // by all calls of Read

 private:
  RangeFile(std::string path, int fd, int64_t num_bytes, PreadFunction read)
      : path_(std::move(path)), fd_(fd), num_bytes_(num_bytes), read_(read) {}

  const std::string path_;
  const int fd_;
  const int64_t num_bytes_;
  const PreadFunction read_;
  mutable std::atomic<int64_t> bytes_read_{0};
};

// The whole of a text file. ResourceExhausted, naming both sizes, when it is longer than `max_bytes`.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes);

}  // namespace tokenferry
