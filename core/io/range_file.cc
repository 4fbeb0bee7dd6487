#include "core/io/range_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace tokenferry {
namespace {

// One read is at most this long: Linux transfers no more than 2 GiB - 4 KiB per call.
constexpr size_t kMaxReadBytes = size_t{1} << 30;

}  // namespace

absl::StatusOr<std::unique_ptr<RangeFile>> RangeFile::Open(const std::string& path, PreadFunction read) {
  // O_NONBLOCK: a named pipe must be refused, not waited for.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
    const int error = errno;
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    return absl::ResourceExhaustedError(absl::StrCat(path, ": cannot be opened: ", std::strerror(error),
                                                     "; this process may have ", limit.rlim_cur,
                                                     " files open (at most ", limit.rlim_max,
                                                     ", ulimit -Hn), and every rank opens every shard: raise "
                                                     "the limit, or start fewer ranks in one process"));
  }
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be opened"));
  struct stat info;
  if (fstat(fd, &info) != 0) {
    const absl::Status status = absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be examined"));
    close(fd);
    return status;
  }
  if (!S_ISREG(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
  }
  return std::unique_ptr<RangeFile>(new RangeFile(path, fd, info.st_size, read == nullptr ? ::pread : read));
}

RangeFile::~RangeFile() { close(fd_); }

absl::Status RangeFile::Read(int64_t offset, absl::Span<uint8_t> dst) const {
  size_t done = 0;
  while (done < dst.size()) {
    const size_t want = std::min(dst.size() - done, kMaxReadBytes);
    const ssize_t got = read_(fd_, dst.data() + done, want, static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::ErrnoToStatus(
          errno, absl::StrCat(path_, ": reading ", dst.size(), " bytes at offset ", offset, " failed after ", done));
    }
    if (got == 0) {
      return absl::DataLossError(absl::StrCat(path_, ": ended while reading ", dst.size(), " bytes at offset ", offset,
                                              ": only ", done, " bytes came (the file had ", num_bytes_,
                                              " bytes when it was opened); copy it again"));
    }
    done += static_cast<size_t>(got);
    bytes_read_.fetch_add(got, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes) {
  TF_ASSIGN_OR_RETURN(const auto file, RangeFile::Open(path));
  if (file->num_bytes() > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": has ", file->num_bytes(), " bytes, more than the ", max_bytes, " that are read"));
  }
  std::string text(static_cast<size_t>(file->num_bytes()), '\0');
  TF_RETURN_IF_ERROR(file->Read(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(text.data()), text.size())));
  return text;
}

}  // namespace tokenferry
