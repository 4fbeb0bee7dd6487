#include "comm/peer/peer_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/round_up.h"

namespace tokenferry {
namespace {

constexpr const char* kDirectory = "/dev/shm";

std::string Mebibytes(int64_t num_bytes) { return absl::StrCat((num_bytes + (1 << 20) - 1) >> 20, " MiB"); }

absl::Status Failed(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat("peer memory: ", what, ": ", std::strerror(errno)));
}

struct Space {
  int64_t free_bytes = 0, used_bytes = 0;
};

Space SharedSpace() {
  struct statvfs space = {};
  if (statvfs(kDirectory, &space) != 0) return {};
  const int64_t block = static_cast<int64_t>(space.f_frsize);
  return {static_cast<int64_t>(space.f_bavail) * block, static_cast<int64_t>(space.f_blocks - space.f_bavail) * block};
}

absl::Status TooSmall(int64_t num_bytes) {
  const Space space = SharedSpace();
  const int64_t size = (space.used_bytes + num_bytes + (1 << 20) - 1) >> 20;
  return absl::ResourceExhaustedError(absl::StrCat("peer memory needs ", Mebibytes(num_bytes), " in ", kDirectory,
                                                   ", where ", space.free_bytes >> 20,
                                                   " MiB are free: enlarge it (mount -o remount,size=", size, "m ",
                                                   kDirectory, "; docker run --shm-size), or choose path alltoallv"));
}

// Takes the pages of [begin, begin + num_bytes) now.
absl::Status TakePages(void* begin, int64_t num_bytes, int fd, int64_t offset) {
  if (num_bytes == 0) return absl::OkStatus();
  // Of Linux 5.14: faults in huge pages where they are allowed, and reports instead of raising SIGBUS.
  if (madvise(begin, num_bytes, MADV_POPULATE_WRITE) == 0) return absl::OkStatus();
  if (errno == EFAULT || errno == ENOMEM) return TooSmall(num_bytes);
  const int code = posix_fallocate(fd, offset, num_bytes);
  if (code == 0) return absl::OkStatus();
  if (code == ENOSPC || code == ENOMEM) return TooSmall(num_bytes);
  errno = code;
  return Failed(absl::StrCat("cannot take memory of ", kDirectory));
}

class Mapping : public PeerMemory {
 public:
  // Without a file: process memory, whose pages come as they are touched.
  Mapping(void* base, int64_t num_bytes, int64_t bytes_per_rank, SharedFile file)
      : PeerMemory(static_cast<char*>(base), bytes_per_rank), num_bytes_(num_bytes), file_(std::move(file)) {}
  ~Mapping() override { munmap(base(), num_bytes_); }

  absl::Status Take(int rank, int64_t begin, int64_t num_bytes) override {
    TF_CHECK(begin >= 0 && num_bytes >= 0 && begin + num_bytes <= bytes_per_rank());
    if (num_bytes == 0 || file_.fd() < 0) return absl::OkStatus();
    // Whole pages: one on a border is taken by both neighbours.
    const int64_t page = sysconf(_SC_PAGESIZE), part = rank * bytes_per_rank();
    const int64_t first = (part + begin) / page * page;
    const int64_t end = std::min(RoundUp(part + begin + num_bytes, page), num_bytes_);
    return TakePages(base() + first, end - first, file_.fd(), first);
  }

 private:
  const int64_t num_bytes_;
  const SharedFile file_;
};

// Where a file is. Travels as bytes.
struct FileAddress {
  int64_t pid = 0;
  int64_t fd = -1;
  int64_t num_bytes = 0;
};

}  // namespace

SharedFile::SharedFile(SharedFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}

SharedFile& SharedFile::operator=(SharedFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(num_bytes_, other.num_bytes_);
  return *this;
}

SharedFile::~SharedFile() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<SharedFile> SharedFile::Create(int64_t num_bytes, PeerPages pages) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  SharedFile file;
  file.num_bytes_ = RoundUp(num_bytes, page);
  // Before anything is touched: a tmpfs promises more than it has.
  if (pages == PeerPages::kNow && SharedSpace().free_bytes < file.num_bytes_) return TooSmall(file.num_bytes_);
  file.fd_ = open(kDirectory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file.fd_ < 0) return Failed(absl::StrCat("cannot create a file in ", kDirectory));
  if (ftruncate(file.fd_, file.num_bytes_) != 0) return Failed(absl::StrCat("cannot size a file in ", kDirectory));
  return file;
}

std::string SharedFile::address() const {
  const FileAddress address{getpid(), fd_, num_bytes_};
  return std::string(reinterpret_cast<const char*>(&address), sizeof(address));
}

absl::StatusOr<SharedFile> SharedFile::Open(absl::string_view bytes, int64_t num_bytes) {
  FileAddress address;
  if (bytes.size() != sizeof(address)) return absl::DataLossError("peer memory: another rank sent no file");
  std::memcpy(&address, bytes.data(), sizeof(address));
  if (address.num_bytes < num_bytes || address.num_bytes - num_bytes >= sysconf(_SC_PAGESIZE)) {
    return absl::FailedPreconditionError(absl::StrCat("peer memory: ranks disagree on its size: ", num_bytes,
                                                      " bytes here, ", address.num_bytes, " on the rank that has it"));
  }
  const std::string name = absl::StrCat("/proc/", address.pid, "/fd/", address.fd);
  SharedFile file;
  file.num_bytes_ = address.num_bytes;
  file.fd_ = open(name.c_str(), O_RDWR | O_CLOEXEC);
  if (file.fd_ >= 0) return file;
  return Failed(absl::StrCat("cannot open another rank's memory as ", name,
                             " (run all ranks of a host as one user and in one container, or choose path alltoallv)"));
}

absl::StatusOr<std::shared_ptr<PeerMemory>> MapSharedFile(SharedFile file, int64_t bytes_per_rank) {
  const int64_t num_bytes = file.num_bytes();
  void* base = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
  if (base == MAP_FAILED) return Failed(absl::StrCat("cannot map ", num_bytes, " bytes"));
  madvise(base, num_bytes, MADV_HUGEPAGE);  // advice: fails where the kernel does not allow it
  return std::make_shared<Mapping>(base, num_bytes, bytes_per_rank, std::move(file));
}

absl::StatusOr<std::shared_ptr<PeerMemory>> AllocateProcessMemory(int num_ranks, int64_t bytes_per_rank,
                                                                  PeerPages pages) {
  const int64_t num_bytes = num_ranks * bytes_per_rank;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (pages == PeerPages::kLater ? MAP_NORESERVE : 0);
  void* base = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("peer memory: cannot have ", Mebibytes(num_bytes), ": ", std::strerror(errno)));
  }
  return std::make_shared<Mapping>(base, num_bytes, bytes_per_rank, SharedFile());
}

}  // namespace tokenferry
