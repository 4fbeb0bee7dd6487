#include "comm/peer_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "comm/collectives.h"

namespace tokenferry {
namespace {

class Mapping : public PeerMemory {
 public:
  Mapping(void* base, int64_t num_bytes, int64_t bytes_per_rank)
      : PeerMemory(static_cast<char*>(base), bytes_per_rank), num_bytes_(num_bytes) {}
  ~Mapping() override { munmap(base(), num_bytes_); }

 private:
  const int64_t num_bytes_;
};

class File {
 public:
  explicit File(int fd = -1) : fd_(fd) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
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

absl::Status CreateFile(const char* directory, int64_t num_bytes, File& file) {
  // Before anything is touched: a tmpfs promises more than it has.
  if (SpaceIn(directory).free_bytes < num_bytes) return TooSmall(directory, num_bytes);
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

absl::StatusOr<std::shared_ptr<PeerMemory>> MapFile(const File& file, int rank, int64_t num_bytes,
                                                    int64_t bytes_per_rank, const char* directory) {
  void* base = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
  if (base == MAP_FAILED) return Failed(absl::StrCat("cannot map ", num_bytes, " bytes"));
  auto memory = std::make_shared<Mapping>(base, num_bytes, bytes_per_rank);
  madvise(base, num_bytes, MADV_HUGEPAGE);  // advice: fails where the kernel does not allow it
  // Whole pages; the page on a border belongs to the rank in whose part it begins, the first one to rank 0.
  const int64_t page = sysconf(_SC_PAGESIZE);
  const auto first_page_of = [&](int r) { return (r * bytes_per_rank + page - 1) / page * page; };
  const int64_t begin = first_page_of(rank), end = std::min(first_page_of(rank + 1), num_bytes);
  if (begin < end) {
    TF_RETURN_IF_ERROR(TakePages(static_cast<char*>(base) + begin, end - begin, directory, file.fd(), begin));
  }
  return memory;
}

}  // namespace

absl::StatusOr<std::shared_ptr<PeerMemory>> AllocateProcessMemory(int num_ranks, int64_t bytes_per_rank) {
  const int64_t num_bytes = num_ranks * bytes_per_rank;
  void* base = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("peer memory: cannot have ", Mebibytes(num_bytes), ": ", std::strerror(errno)));
  }
  return std::make_shared<Mapping>(base, num_bytes, bytes_per_rank);
}

absl::StatusOr<std::shared_ptr<PeerMemory>> AllocateHostMemory(Transport& transport, const CallSite& site,
                                                               int64_t bytes_per_rank, const char* directory) {
  const int rank = transport.rank().value;
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t num_bytes = (transport.num_ranks() * bytes_per_rank + page - 1) / page * page;
  File file;
  absl::Status status = rank == 0 ? CreateFile(directory, num_bytes, file) : absl::OkStatus();
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, site, status));
  const FileAddress address{getpid(), file.fd(), num_bytes};
  TF_ASSIGN_OR_RETURN(const std::string bytes, Broadcast(transport, site, RankId(0),
                                                         {reinterpret_cast<const char*>(&address), sizeof(address)}));
  status = OpenFile(bytes, num_bytes, file);
  absl::StatusOr<std::shared_ptr<PeerMemory>> memory = absl::UnknownError("not mapped");
  if (status.ok()) {
    memory = MapFile(file, rank, num_bytes, bytes_per_rank, directory);
    status = memory.status();
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, site, status));  // until here rank 0's file is open
  return memory;
}

}  // namespace tokenferry
