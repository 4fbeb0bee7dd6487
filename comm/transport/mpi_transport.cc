#include "comm/transport/mpi_transport.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "comm/peer/peer_wait.h"
#include "comm/transport/host_peers.h"
#include "comm/transport/mpi_communicator.h"
#include "comm/transport/mpi_status.h"
#include "comm/transport/transfer.h"
#include "comm/wait/last_words.h"
#include "comm/wait/wait.h"

namespace tokenferry {
namespace {

constexpr absl::Duration kLivenessPeriod = absl::Milliseconds(100);
constexpr int kNumTags = 16384;  // the standard promises 32767
// Deadlines of one group end together, and MPI_Abort makes mpirun wake whom a signal had stopped: nobody could then say
// so.
constexpr absl::Duration kOthersSpeak = absl::Milliseconds(200);

enum class Direction : uint8_t { kReceive, kSend };
struct Piece {
  Direction direction;
  int rank;
  int num_bytes;
};

struct MpiTransfer : Transfer {
  std::vector<MPI_Request> requests;
  std::vector<Piece> pieces;                        // of each request
  std::vector<int64_t> arrived_bytes, taken_bytes;  // [R]
};

// What a rank has last shown.
struct Sign {
  int num_times_gone = 0;      // its process, seen in a row
  int64_t last_sequence = -1;  // of the last transfer in which something came from it
  int64_t last_heard_ns = 0;   // of SteadyNanos
};

class MpiTransport : public HostTransport {
 public:
  explicit MpiTransport(const MpiTransportOptions& options) : options_(options) {}

  ~MpiTransport() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    // After an error peers may be gone: freeing the communicator could wait for them.
    if (!finalized && error_.ok() && comm_ != MPI_COMM_NULL) MPI_Comm_free(&comm_);
  }

  // Collective over `parent`: own communicator, then everybody's host and process.
  absl::Status Join(MPI_Comm parent) {
    TF_RETURN_IF_MPI_ERROR(MPI_Comm_rank(parent, &rank_));
    TF_RETURN_IF_MPI_ERROR(MPI_Comm_size(parent, &num_ranks_));
    signs_.resize(num_ranks_);
    wait_seconds_.resize(num_ranks_);
    TF_RETURN_IF_ERROR(Duplicate(parent));
    TF_RETURN_IF_MPI_ERROR(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
    TF_RETURN_IF_ERROR(peers_.Join());
    last_words_.emplace([this] { return DescribeInFlight(); });
    return absl::OkStatus();
  }

  RankId rank() const override { return RankId(rank_); }
  int num_ranks() const override { return num_ranks_; }
  std::string ToString() const override {
    return absl::StrCat("mpi rank ", rank_, " of ", num_ranks_, " on host ", host(rank()));
  }
  std::string host(RankId rank) const override { return peers_.host(rank); }
  absl::Span<const double> wait_seconds_per_rank() const override { return wait_seconds_; }
  absl::Duration timeout() const override { return options_.timeout; }
  PeerGroup& peers() override { return peers_; }

  absl::StatusOr<TransferHandle> HostBegin(const CallSite& site, const AllToAllVArgs& args) override {
    if (!error_.ok()) return error_;
    absl::Status status = ValidateArgs(*this, site, args);
    if (status.ok()) {
      auto handle = transfers_.Open(site, args, ++sequence_);
      if (handle.ok()) status = PostAll(transfers_[*handle]);
      if (handle.ok() && status.ok()) return handle;
      status.Update(handle.status());
    }
    return End(status);
  }

  absl::Status HostFinish(TransferHandle handle) override {
    if (!error_.ok()) return error_;
    MpiTransfer& t = transfers_[handle];
    SetWaiting(&t);
    const absl::Status status = Complete(t);
    SetWaiting(nullptr);
    if (!status.ok()) return End(status);
    t.open = false;
    return absl::OkStatus();
  }

  void Progress() override {
    int arrived = 0;  // of no interest: asking makes MPI look after its connections; an error shows in the wait
    if (error_.ok()) MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &arrived, MPI_STATUS_IGNORE);
  }

  void Abort(const absl::Status& why) override {
    if (absl::IsDeadlineExceeded(why)) absl::SleepFor(kOthersSpeak);
    MPI_Abort(MPI_COMM_WORLD, 1);
    _exit(why.ok() ? 1 : 1 + static_cast<int>(why.code()) % 100);  // MPI_Abort may return when mpirun has gone
  }

 private:
  absl::Status Duplicate(MPI_Comm parent) {
    MPI_Request request = MPI_REQUEST_NULL;
    TF_RETURN_IF_MPI_ERROR(MPI_Comm_idup(parent, &comm_, &request));
    WaitLimit limit(options_.timeout);
    Backoff backoff;
    for (;;) {
      int done = 0;
      TF_RETURN_IF_MPI_ERROR(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
      if (done) return absl::OkStatus();
      const absl::StatusCode code = limit.Check();
      if (code != absl::StatusCode::kOk) {
        return WaitError(code, options_.timeout,
                         absl::StrCat("start: rank ", rank_, " of ", num_ranks_, " waits for the others to join"));
      }
      backoff.Pause();
    }
  }

  absl::Status End(const absl::Status& why) {
    error_ = why;
    for (MpiTransfer& t : transfers_) {
      if (t.open) CancelReceives(t);
    }
    return why;
  }

  void SetWaiting(const MpiTransfer* transfer) {
    absl::MutexLock lock(&mutex_);
    waiting_ = transfer;
  }
  std::string DescribeInFlight() {
    absl::MutexLock lock(&mutex_);
    if (waiting_ == nullptr) return "";
    return Describe(*waiting_);
  }

  absl::Status PostAll(MpiTransfer& t) {
    t.requests.clear();
    t.pieces.clear();
    t.arrived_bytes.assign(num_ranks_, 0);
    t.taken_bytes.assign(num_ranks_, 0);
    // Receives first, so that nothing arrives unexpected; peers in an order that spreads the load.
    for (int i = 1; i < num_ranks_; ++i) {
      TF_RETURN_IF_ERROR(Post(Direction::kReceive, (rank_ + num_ranks_ - i) % num_ranks_, t));
    }
    for (int i = 1; i < num_ranks_; ++i) {
      TF_RETURN_IF_ERROR(Post(Direction::kSend, (rank_ + i) % num_ranks_, t));
    }
    if (t.send_bytes(rank_) > 0) std::memcpy(t.recv(rank_), t.send(rank_), t.send_bytes(rank_));
    return absl::OkStatus();
  }

  absl::Status Post(Direction direction, int r, MpiTransfer& t) {
    const bool receive = direction == Direction::kReceive;
    const int64_t num_bytes = receive ? t.recv_bytes(r) : t.send_bytes(r);
    const int tag = static_cast<int>(t.sequence % kNumTags);
    for (int64_t begin = 0; begin < num_bytes; begin += options_.max_message_bytes) {
      const int n = static_cast<int>(std::min(options_.max_message_bytes, num_bytes - begin));
      t.requests.push_back(MPI_REQUEST_NULL);
      t.pieces.push_back({direction, r, n});
      const int code = receive ? MPI_Irecv(t.recv(r) + begin, n, MPI_BYTE, r, tag, comm_, &t.requests.back())
                               : MPI_Isend(t.send(r) + begin, n, MPI_BYTE, r, tag, comm_, &t.requests.back());
      if (code == MPI_SUCCESS) continue;  // no words in steady state: they take memory
      return MpiStatus(code, absl::StrCat(tokenferry::ToString(t.site), ", transfer ", t.sequence, ": rank ", rank_,
                                          receive ? " receiving from" : " sending to", " rank ", r));
    }
    return absl::OkStatus();
  }

  absl::Status Complete(MpiTransfer& t) {
    const int num_requests = static_cast<int>(t.requests.size());
    done_.resize(t.requests.size());
    statuses_.resize(t.requests.size());
    WaitLimit limit(options_.timeout);
    Backoff backoff(t.site.pace);
    Deadline next_liveness = Deadline::After(kLivenessPeriod);
    int last_rank = -1;
    double last_seconds = 0;
    for (int num_open = num_requests; num_open > 0;) {
      int num_done = 0;
      const int code = MPI_Testsome(num_requests, t.requests.data(), &num_done, done_.data(), statuses_.data());
      if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) {
        return MpiStatus(code, absl::StrCat(tokenferry::ToString(t.site), ", transfer ", t.sequence, ": rank ", rank_));
      }
      for (int i = 0; i < num_done; ++i) {
        const Piece& piece = t.pieces[done_[i]];
        TF_RETURN_IF_ERROR(Account(piece, statuses_[i], code, t));
        if (last_rank < 0 || i == 0 || piece.direction == Direction::kReceive) last_rank = piece.rank;
      }
      if (num_done > 0) last_seconds = limit.seconds();
      num_open -= num_done;
      if (num_done > 0) {
        backoff.Reset();
        continue;
      }
      const absl::StatusCode give_up = limit.Check();
      if (give_up != absl::StatusCode::kOk) {
        return WaitError(give_up, options_.timeout, Describe(t));
      }
      if (next_liveness.Expired()) {
        TF_RETURN_IF_ERROR(CheckPeersAlive(t));
        next_liveness = Deadline::After(kLivenessPeriod);
      }
      backoff.Pause();
    }
    if (last_rank >= 0) wait_seconds_[last_rank] += last_seconds;
    return absl::OkStatus();
  }

  // A finished request. MPI sets the status's error field only when Testsome says MPI_ERR_IN_STATUS.
  absl::Status Account(const Piece& piece, const MPI_Status& status, int testsome_code, MpiTransfer& t) {
    const auto where = [&] {
      return absl::StrCat(tokenferry::ToString(t.site), ", transfer ", t.sequence, ": rank ", rank_, " expects ",
                          piece.num_bytes, " bytes from rank ", piece.rank);
    };
    if (testsome_code == MPI_ERR_IN_STATUS && status.MPI_ERROR != MPI_SUCCESS && status.MPI_ERROR != MPI_ERR_PENDING) {
      return MpiStatus(status.MPI_ERROR, piece.direction == Direction::kReceive
                                             ? where()
                                             : absl::StrCat(tokenferry::ToString(t.site), ": rank ", rank_,
                                                            " sending to rank ", piece.rank));
    }
    if (piece.direction == Direction::kSend) {
      absl::MutexLock lock(&mutex_);
      t.taken_bytes[piece.rank] += piece.num_bytes;
      return absl::OkStatus();
    }
    int num_bytes = 0;
    TF_RETURN_IF_MPI_ERROR(MPI_Get_count(&status, MPI_BYTE, &num_bytes));
    if (num_bytes != piece.num_bytes) {
      return absl::FailedPreconditionError(absl::StrCat(where(), ", but it sent ", num_bytes));
    }
    absl::MutexLock lock(&mutex_);
    t.arrived_bytes[piece.rank] += num_bytes;
    signs_[piece.rank].last_sequence = t.sequence;
    signs_[piece.rank].last_heard_ns = SteadyNanos();
    return absl::OkStatus();
  }

  bool Waiting(int r, const MpiTransfer& t) const {
    return r != rank_ && (t.arrived_bytes[r] < t.recv_bytes(r) || t.taken_bytes[r] < t.send_bytes(r));
  }

  std::string Describe(const MpiTransfer& t) const {
    std::vector<PendingRank> pending;
    for (int r = 0; r < num_ranks_; ++r) {
      if (!Waiting(r, t)) continue;
      const RankId rank(r);
      PendingRank p = DescribePending(rank, host(rank),
                                      {.expected = t.recv_bytes(r),
                                       .arrived = t.arrived_bytes[r],
                                       .untaken = t.send_bytes(r) - t.taken_bytes[r],
                                       .row_bytes = t.row_bytes});
      p.last_sign = DescribeLastSign(signs_[r].last_sequence, signs_[r].last_heard_ns);
      p.process_state = peers_.ProcessStateOf(rank);
      pending.push_back(std::move(p));
    }
    return DescribePeerWait(peers_, t.site, t.sequence, pending);
  }

  // A process that has ended may have sent everything before: it is missed only when, a period later, its bytes have
  // still not come.
  absl::Status CheckPeersAlive(const MpiTransfer& t) {
    for (int r = 0; r < num_ranks_; ++r) {
      if (!Waiting(r, t)) continue;
      const absl::Status alive = peers_.CheckAlive(RankId(r));
      signs_[r].num_times_gone = alive.ok() ? 0 : signs_[r].num_times_gone + 1;
      if (signs_[r].num_times_gone < 2) continue;
      return absl::Status(alive.code(), absl::StrCat(alive.message(), ": ", Describe(t)));
    }
    return absl::OkStatus();
  }

  void CancelReceives(MpiTransfer& t) {
    for (size_t i = 0; i < t.requests.size(); ++i) {
      if (t.requests[i] == MPI_REQUEST_NULL) continue;
      if (t.pieces[i].direction == Direction::kReceive) MPI_Cancel(&t.requests[i]);
      MPI_Request_free(&t.requests[i]);
    }
  }

  const MpiTransportOptions options_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int num_ranks_ = 1;
  int64_t sequence_ = -1;
  absl::Status error_;
  std::vector<Sign> signs_;  // [R]
  std::vector<double> wait_seconds_;
  HostPeers peers_{*this, wait_seconds_};
  std::vector<int> done_;             // of a Testsome
  std::vector<MPI_Status> statuses_;  // of a Testsome
  // Also read by last_words_'s thread: written under the mutex, which that thread holds while it reads.
  absl::Mutex mutex_;
  TransferSlots<MpiTransfer> transfers_;  // the one waited for
  const MpiTransfer* waiting_ = nullptr;
  std::optional<LastWords> last_words_;  // last: its thread uses all of the above
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> CreateMpiTransport(const MpiTransportOptions& options) {
  return CreateMpiTransport(MPI_COMM_WORLD, options);
}

absl::StatusOr<std::unique_ptr<Transport>> CreateMpiTransport(MPI_Comm communicator,
                                                              const MpiTransportOptions& options) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (!initialized) return absl::FailedPreconditionError("the mpi transport needs MPI to be initialised first");
  if (communicator == MPI_COMM_NULL) return absl::InvalidArgumentError("the mpi transport was given MPI_COMM_NULL");
  if (options.max_message_bytes < 1 || options.max_message_bytes > (int64_t{1} << 30)) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_message_bytes is ", options.max_message_bytes, ", not 1 to 2^30"));
  }
  auto transport = std::make_unique<MpiTransport>(options);
  TF_RETURN_IF_ERROR(transport->Join(communicator));
  return transport;
}

}  // namespace tokenferry
