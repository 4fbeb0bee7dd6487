// Memory that all ranks of a group load and store: rank r's part is `bytes_per_rank` bytes at base + r *
// bytes_per_rank, in every rank's address space (bases differ between processes). Starts as zeros. Each rank may let go
// of it when it wants; it is freed when the last one has, also when ranks are killed: it never has a name.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/status.h"

namespace tokenferry {

class PeerMemory {
 public:
  virtual ~PeerMemory() = default;
  char* part(int rank) const { return base_ + rank * bytes_per_rank_; }
  char* base() const { return base_; }
  int64_t bytes_per_rank() const { return bytes_per_rank_; }

  // Of memory that was only reserved (PeerGroup::Reserve): makes bytes [begin, begin + num_bytes) of this
  // rank's part usable. Keeps what is there already; others need not know. ResourceExhausted when there is not enough.
  virtual absl::Status Take(int rank, int64_t begin, int64_t num_bytes) = 0;

 protected:
  PeerMemory(char* base, int64_t bytes_per_rank) : base_(base), bytes_per_rank_(bytes_per_rank) {}

 private:
  char* const base_;
  const int64_t bytes_per_rank_;
};

enum class PeerPages : uint8_t { kNow, kLater };  // kLater: PeerMemory::Take

// For ranks that are threads of this process.
absl::StatusOr<std::shared_ptr<PeerMemory>> AllocateProcessMemory(int num_ranks, int64_t bytes_per_rank,
                                                                  PeerPages pages = PeerPages::kNow);

// For ranks that are processes of one host and PID namespace: a nameless file of /dev/shm (a tmpfs) that one creates
// and all map. How they learn of its address is comm/transport/host_peers.h. Closed on destruction; move-only.
class SharedFile {
 public:
  // Whole pages, `num_bytes` at least. ResourceExhausted names the size needed, the space there is and what to do.
  static absl::StatusOr<SharedFile> Create(int64_t num_bytes, PeerPages pages);
  // The file that another process has and keeps open until this returns.
  static absl::StatusOr<SharedFile> Open(absl::string_view address, int64_t num_bytes);

  SharedFile() = default;
  SharedFile(SharedFile&& other) noexcept;
  SharedFile& operator=(SharedFile&& other) noexcept;
  ~SharedFile();

  std::string address() const;  // bytes, for Open
  int fd() const { return fd_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  int fd_ = -1;
  int64_t num_bytes_ = 0;
};

// Maps a file of num_ranks * bytes_per_rank bytes or a little more. No pages are taken yet (PeerMemory::Take): each
// rank takes those of its own part, so that they lie on its NUMA node, and that a lack of them is an error there and
// not a SIGBUS later.
absl::StatusOr<std::shared_ptr<PeerMemory>> MapSharedFile(SharedFile file, int64_t bytes_per_rank);

}  // namespace tokenferry
