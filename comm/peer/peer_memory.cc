#include "comm/peer/peer_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "comm/transport/collectives.h"
#include "core/check.h"

namespace tokenferry {
namespace {

class File {
 public:
  explicit File(int fd = -1) : fd_(fd) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  void reset(int fd) { fd_ = fd; }
  int fd() const { return fd_; }

 private:
  int fd_;
};

std::string Mebibytes(int64_t num_bytes) { return absl::StrCat((num_bytes + (1 << 20) - 1) >> 20, " MiB"); }

absl::Status Failed(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat("peer memory: ", what, ": ", std::strerror(errno)));
}

struct Space {
  int64_t free_bytes = 0, used_bytes = 0;
};

Space SpaceIn(const char* directory) {
  struct statvfs space = {};
  if (statvfs(directory, &space) != 0) return {};
  const int64_t block = static_cast<int64_t>(space.f_frsize);
  return {static_cast<int64_t>(space.f_bavail) * block, static_cast<int64_t>(space.f_blocks - space.f_bavail) * block};
}

absl::Status TooSmall(const char* directory, int64_t num_bytes) {
  const Space space = SpaceIn(directory);
  const int64_t size = (space.used_bytes + num_bytes + (1 << 20) - 1) >> 20;
  return absl::ResourceExhaustedError(absl::StrCat("peer memory needs ", Mebibytes(num_bytes), " in ", directory,
                                                   ", where ", space.free_bytes >> 20,
                                                   " MiB are free: enlarge it (mount -o remount,size=", size, "m ",
                                                   directory, "; docker run --shm-size), or choose --path alltoallv"));
}

absl::Status CreateFile(const char* directory, int64_t num_bytes, PeerPages pages, File& file) {
  // Before anything is touched: a tmpfs promises more than it has.
  if (pages == PeerPages::kNow && SpaceIn(directory).free_bytes < num_bytes) return TooSmall(directory, num_bytes);
  file.reset(open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file.fd() < 0) return Failed(absl::StrCat("cannot create a file in ", directory));
  if (ftruncate(file.fd(), num_bytes) != 0) return Failed(absl::StrCat("cannot size a file in ", directory));
  return absl::OkStatus();
}

// Takes the pages of [begin, begin + num_bytes) now.
absl::Status TakePages(void* begin, int64_t num_bytes, const char* directory, int fd, int64_t offset) {
  if (num_bytes == 0) return absl::OkStatus();
  // Of Linux 5.14: faults in huge pages where they are allowed, and reports instead of raising SIGBUS.
  if (madvise(begin, num_bytes, MADV_POPULATE_WRITE) == 0) return absl::OkStatus();
  if (errno == EFAULT || errno == ENOMEM) return TooSmall(directory, num_bytes);
  const int code = posix_fallocate(fd, offset, num_bytes);
  if (code == 0) return absl::OkStatus();
  if (code == ENOSPC || code == ENOMEM) return TooSmall(directory, num_bytes);
  errno = code;
  return Failed(absl::StrCat("cannot take memory of ", directory));
}

class Mapping : public PeerMemory {
 public:
  // `directory` is where `file` is; null: process memory, without one, whose pages come as they are touched.
  Mapping(void* base, int64_t num_bytes, int64_t bytes_per_rank, File file, const char* directory)
      : PeerMemory(static_cast<char*>(base), bytes_per_rank),
        num_bytes_(num_bytes),
        file_(std::move(file)),
        directory_(directory) {}
  ~Mapping() override { munmap(base(), num_bytes_); }

  absl::Status Take(int rank, int64_t begin, int64_t num_bytes) override {
    TF_CHECK(begin >= 0 && num_bytes >= 0 && begin + num_bytes <= bytes_per_rank());
    if (num_bytes == 0 || directory_ == nullptr) return absl::OkStatus();
    // Whole pages: one on a border is taken by both neighbours.
    const int64_t page = sysconf(_SC_PAGESIZE), part = rank * bytes_per_rank();
    const int64_t first = (part + begin) / page * page;
    const int64_t end = std::min((part + begin + num_bytes + page - 1) / page * page, num_bytes_);
    return TakePages(base() + first, end - first, directory_, file_.fd(), first);
  }

 private:
  const int64_t num_bytes_;
  const File file_;
  const char* const directory_;
};

// Where rank 0's file is. Travels as bytes.
struct FileAddress {
  int64_t pid = 0;
  int64_t fd = -1;
  int64_t num_bytes = 0;
};

absl::Status OpenFile(const std::string& bytes, int64_t num_bytes, File& file) {
  FileAddress address;
  if (bytes.size() != sizeof(address)) return absl::DataLossError("peer memory: rank 0 sent no file");
  std::memcpy(&address, bytes.data(), sizeof(address));
  if (address.num_bytes != num_bytes) {
    return absl::FailedPreconditionError(absl::StrCat("peer memory: ranks disagree on its size: ", num_bytes,
                                                      " bytes here, ", address.num_bytes, " on rank 0"));
  }
  if (file.fd() >= 0) return absl::OkStatus();  // rank 0
  const std::string name = absl::StrCat("/proc/", address.pid, "/fd/", address.fd);
  file.reset(open(name.c_str(), O_RDWR | O_CLOEXEC));
  if (file.fd() >= 0) return absl::OkStatus();
  return Failed(
      absl::StrCat("cannot open rank 0's memory as ", name,
                   " (run all ranks of a host as one user and in one container, or choose --path alltoallv)"));
}

absl::StatusOr<std::shared_ptr<Mapping>> MapFile(File file, int64_t num_bytes, int64_t bytes_per_rank,
                                                 const char* directory) {
  void* base = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
  if (base == MAP_FAILED) return Failed(absl::StrCat("cannot map ", num_bytes, " bytes"));
  madvise(base, num_bytes, MADV_HUGEPAGE);  // advice: fails where the kernel does not allow it
  return std::make_shared<Mapping>(base, num_bytes, bytes_per_rank, std::move(file), directory);
}

// `first_rank` of this rank's host creates the file.
absl::StatusOr<std::shared_ptr<PeerMemory>> ShareFile(Transport& transport, const CallSite& site,
                                                      int64_t bytes_per_rank, int first_rank, PeerPages pages,
                                                      const char* directory) {
  const int rank = transport.rank().value;
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t num_bytes = (transport.num_ranks() * bytes_per_rank + page - 1) / page * page;
  File file;
  absl::Status status = rank == first_rank ? CreateFile(directory, num_bytes, pages, file) : absl::OkStatus();
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, site, status));
  const FileAddress address{getpid(), file.fd(), num_bytes};
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> addresses,
                      AllGather(transport, site, {reinterpret_cast<const char*>(&address), sizeof(address)}));
  status = OpenFile(addresses[first_rank], num_bytes, file);
  absl::StatusOr<std::shared_ptr<Mapping>> memory = absl::UnknownError("not mapped");
  if (status.ok()) {
    memory = MapFile(std::move(file), num_bytes, bytes_per_rank, directory);
    status = memory.status();
  }
  if (status.ok() && pages == PeerPages::kNow) status = (*memory)->Take(rank, 0, bytes_per_rank);
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, site, status));  // until here the first rank's file is open
  return *std::move(memory);
}

}  // namespace

absl::StatusOr<std::shared_ptr<PeerMemory>> AllocateProcessMemory(int num_ranks, int64_t bytes_per_rank,
                                                                  PeerPages pages) {
  const int64_t num_bytes = num_ranks * bytes_per_rank;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (pages == PeerPages::kLater ? MAP_NORESERVE : 0);
  void* base = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("peer memory: cannot have ", Mebibytes(num_bytes), ": ", std::strerror(errno)));
  }
  return std::make_shared<Mapping>(base, num_bytes, bytes_per_rank, File(), nullptr);
}

absl::StatusOr<std::shared_ptr<PeerMemory>> AllocateHostMemory(Transport& transport, const CallSite& site,
                                                               int64_t bytes_per_rank, const char* directory) {
  return ShareFile(transport, site, bytes_per_rank, 0, PeerPages::kNow, directory);
}

absl::StatusOr<std::shared_ptr<PeerMemory>> ReserveHostMemory(Transport& transport, const CallSite& site,
                                                              int64_t bytes_per_rank, int first_rank,
                                                              const char* directory) {
  return ShareFile(transport, site, bytes_per_rank, first_rank, PeerPages::kLater, directory);
}

}  // namespace tokenferry
