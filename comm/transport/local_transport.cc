#include "comm/transport/local_transport.h"

#include <atomic>
#include <cstring>
#include <mutex>

#include "comm/peer/peer_group.h"
#include "comm/transport/collectives.h"
#include "comm/transport/transfer.h"
#include "comm/wait/wait.h"
#include "core/check.h"

namespace tokenferry {
namespace {

// A message from one rank to another. The sender fills the fields and posts; the receiver claims, copies and frees.
// A sender that gives up withdraws what is posted; what is claimed it waits for: the receiver reads its memory.
enum : int { kFree, kPosted, kClaimed };
struct Mailbox {
  std::atomic<int> state{kFree};
  const char* data = nullptr;
  int64_t num_bytes = 0;
  int64_t sequence = 0;
  CallSite site;
};

struct RankState {
  std::atomic<int64_t> entered{-1};  // the last transfer all of whose messages this rank has posted
  std::array<std::atomic<int64_t>, kMaxTransfersInFlight> left{};  // 1 + the last transfer completed in each slot
  std::atomic<bool> failed{false};
  absl::Status error;  // written before `failed`
};

struct Group {
  explicit Group(int n) : num_ranks(n), ranks(n), mailboxes(static_cast<size_t>(n) * n * kMaxTransfersInFlight) {}
  Mailbox& mailbox(int src, int dst, int slot) {
    return mailboxes[(static_cast<size_t>(src) * num_ranks + dst) * kMaxTransfersInFlight + slot];
  }
  const int num_ranks;
  std::vector<RankState> ranks;
  std::vector<Mailbox> mailboxes;
  std::shared_ptr<PeerMemory> peer_memory;  // while rank 0 hands it out
};

struct LocalTransfer : Transfer {
  int slot = 0;
  std::vector<char> receiving, sending;  // [R] not complete yet
};

class LocalTransport : public HostTransport, public PeerGroup {
 public:
  LocalTransport(std::shared_ptr<Group> group, int rank, const LocalTransportOptions& options)
      : group_(std::move(group)),
        rank_(rank),
        options_(options),
        wait_seconds_(group_->num_ranks, 0.0),
        last_heard_(group_->num_ranks) {}
  ~LocalTransport() override {
    Fail(absl::UnavailableError(absl::StrCat("rank ", rank_, " has left the group")));
    Withdraw();
  }

  RankId rank() const override { return RankId(rank_); }
  int num_ranks() const override { return group_->num_ranks; }
  std::string ToString() const override { return absl::StrCat("local rank ", rank_, " of ", group_->num_ranks); }
  std::string host(RankId) const override { return "(this process)"; }
  absl::Span<const double> wait_seconds_per_rank() const override { return wait_seconds_; }
  absl::Duration timeout() const override { return options_.timeout; }
  PeerGroup& peers() override { return *this; }

  std::string ProcessStateOf(RankId) const override { return ""; }  // ours
  void AddWaitSeconds(RankId rank, double seconds) override { wait_seconds_[rank.value] += seconds; }
  absl::Status CheckAlive(RankId rank) const override {
    const RankState& peer = group_->ranks[rank.value];
    return peer.failed.load(std::memory_order_acquire) ? peer.error : absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<PeerMemory>> Allocate(const CallSite& site, int64_t bytes_per_rank) override {
    return ShareMemory(site, bytes_per_rank, PeerPages::kNow);
  }
  absl::StatusOr<std::shared_ptr<PeerMemory>> Reserve(const CallSite& site, int64_t bytes_per_rank) override {
    return ShareMemory(site, bytes_per_rank, PeerPages::kLater);
  }

  absl::StatusOr<TransferHandle> HostBegin(const CallSite& site, const AllToAllVArgs& args) override {
    if (!error_.ok()) return error_;
    absl::Status status = ValidateArgs(*this, site, args);
    if (status.ok()) {
      auto handle = transfers_.Open(site, args, ++sequence_);
      if (handle.ok()) {
        Post(*handle);
        return handle;
      }
      status = handle.status();
    }
    Fail(status);
    Withdraw();
    return status;
  }

  absl::Status HostFinish(TransferHandle handle) override {
    if (!error_.ok()) return error_;
    LocalTransfer& t = transfers_[handle];
    const absl::Status status = Complete(t);
    if (!status.ok()) {
      Fail(status);  // first, so that a peer that finds a message withdrawn knows why
      Withdraw();
    }
    group_->ranks[rank_].left[handle.slot].store(t.sequence + 1, std::memory_order_release);
    t.open = false;
    return status;
  }

  void Abort(const absl::Status& why) override { Fail(why); }

 private:
  absl::StatusOr<std::shared_ptr<PeerMemory>> ShareMemory(const CallSite& site, int64_t bytes_per_rank,
                                                          PeerPages pages) {
    absl::Status status;
    if (rank_ == 0) {
      auto memory = AllocateProcessMemory(group_->num_ranks, bytes_per_rank, pages);
      status = memory.status();
      if (status.ok()) group_->peer_memory = *std::move(memory);
    }
    TF_RETURN_IF_ERROR(AgreeOnStatus(*this, site, status));  // from here on all see it
    std::shared_ptr<PeerMemory> memory = group_->peer_memory;
    TF_RETURN_IF_ERROR(Barrier(*this, site));  // all have it
    if (rank_ == 0) group_->peer_memory.reset();
    return memory;
  }

  void Post(TransferHandle handle) {
    LocalTransfer& t = transfers_[handle];
    t.slot = handle.slot;
    t.receiving.resize(group_->num_ranks);
    t.sending.resize(group_->num_ranks);
    for (int r = 0; r < group_->num_ranks; ++r) {
      t.receiving[r] = r != rank_ && t.recv_bytes(r) > 0;
      t.sending[r] = r != rank_ && t.send_bytes(r) > 0;
      if (!t.sending[r]) continue;
      Mailbox& box = group_->mailbox(rank_, r, t.slot);
      TF_CHECK_EQ(box.state.load(std::memory_order_acquire), static_cast<int>(kFree));
      box.data = t.send(r);
      box.num_bytes = t.send_bytes(r);
      box.sequence = t.sequence;
      box.site = t.site;
      box.state.store(kPosted, std::memory_order_release);
    }
    group_->ranks[rank_].entered.store(t.sequence, std::memory_order_release);
    if (t.send_bytes(rank_) > 0) std::memcpy(t.recv(rank_), t.send(rank_), t.send_bytes(rank_));
  }

  // Polls until everything has come and everything has been taken.
  absl::Status Complete(LocalTransfer& t) {
    WaitLimit limit(options_.timeout);
    Backoff backoff(t.site.pace);
    int last_rank = -1;
    double last_seconds = 0;
    for (;;) {
      int num_open = 0;
      bool progress = false;
      for (int r = 0; r < group_->num_ranks; ++r) {
        if (!t.receiving[r] && !t.sending[r]) continue;
        const int num_open_before = t.receiving[r] + t.sending[r];
        const bool failed = group_->ranks[r].failed.load(std::memory_order_acquire);  // what it posted before is good
        if (t.receiving[r]) {
          TF_RETURN_IF_ERROR(PollReceive(r, t));
          if (!t.receiving[r]) last_heard_[r] = {t.sequence, SteadyNanos()};
        }
        if (t.sending[r]) TF_RETURN_IF_ERROR(PollSend(r, t));
        if (t.receiving[r] + t.sending[r] < num_open_before) {
          last_rank = r;
          last_seconds = limit.seconds();
          progress = true;
        }
        if (failed && (t.receiving[r] || t.sending[r])) return FailureOf(r, t);
        num_open += t.receiving[r] + t.sending[r];
      }
      if (num_open == 0) break;
      if (progress) {
        backoff.Reset();
        continue;
      }
      const absl::StatusCode code = limit.Check();
      if (code != absl::StatusCode::kOk) {
        return WaitError(code, options_.timeout, Describe(t));
      }
      backoff.Pause();
    }
    if (last_rank >= 0) wait_seconds_[last_rank] += last_seconds;
    return absl::OkStatus();
  }

  absl::Status PollReceive(int src, LocalTransfer& t) {
    const int64_t expected = t.recv_bytes(src);
    Mailbox& box = group_->mailbox(src, rank_, t.slot);
    // Read before the mailbox: a rank that has entered this transfer has posted before.
    const bool entered = group_->ranks[src].entered.load(std::memory_order_acquire) >= t.sequence;
    int posted = kPosted;
    if (!box.state.compare_exchange_strong(posted, kClaimed, std::memory_order_acq_rel)) {
      if (!entered || group_->ranks[src].failed.load(std::memory_order_acquire)) return absl::OkStatus();
      return Mismatch(t, absl::StrCat("expects ", expected, " bytes, but rank ", src, " sends 0"));
    }
    absl::Status status;
    if (box.sequence != t.sequence) {
      status = Mismatch(t, absl::StrCat("did not expect the ", box.num_bytes, " bytes that rank ", src,
                                        " sent in transfer ", box.sequence, " (", tokenferry::ToString(box.site), ")"));
    } else if (box.num_bytes != expected) {
      status = Mismatch(t, absl::StrCat("expects ", expected, " bytes, but rank ", src, " sends ", box.num_bytes));
    } else {
      std::memcpy(t.recv(src), box.data, expected);
      t.receiving[src] = 0;
    }
    box.state.store(kFree, std::memory_order_release);
    return status;
  }

  absl::Status PollSend(int dst, LocalTransfer& t) {
    Mailbox& box = group_->mailbox(rank_, dst, t.slot);
    const bool left = group_->ranks[dst].left[t.slot].load(std::memory_order_acquire) > t.sequence;
    if (box.state.load(std::memory_order_acquire) == kFree) {
      t.sending[dst] = 0;
      return absl::OkStatus();
    }
    if (!left || group_->ranks[dst].failed.load(std::memory_order_acquire)) return absl::OkStatus();
    return Mismatch(t, absl::StrCat("sends ", box.num_bytes, " bytes that rank ", dst, " does not expect"));
  }

  absl::Status Mismatch(const LocalTransfer& t, const std::string& what) const {
    return absl::FailedPreconditionError(
        absl::StrCat(tokenferry::ToString(t.site), ", transfer ", t.sequence, ": rank ", rank_, " ", what));
  }

  absl::Status FailureOf(int r, const LocalTransfer& t) const {
    const absl::Status& why = group_->ranks[r].error;
    return absl::Status(why.code(), absl::StrCat(Describe(t), ": rank ", r, " has ended the group: ", why.message()));
  }

  std::string Describe(const LocalTransfer& t) const {
    std::vector<PendingRank> pending;
    for (int r = 0; r < group_->num_ranks; ++r) {
      if (!t.receiving[r] && !t.sending[r]) continue;
      PendingRank p = DescribePending(RankId(r), host(RankId(r)),
                                      {.expected = t.receiving[r] ? t.recv_bytes(r) : 0,
                                       .untaken = t.sending[r] ? t.send_bytes(r) : 0,
                                       .row_bytes = t.row_bytes});
      p.last_sign = DescribeLastSign(last_heard_[r].sequence, last_heard_[r].at_ns);
      pending.push_back(std::move(p));
    }
    return DescribeWait(t.site, t.sequence, RankId(rank_), pending);
  }

  // Everything that others have not taken.
  void Withdraw() {
    for (int i = 0; i < group_->num_ranks * kMaxTransfersInFlight; ++i) {
      Mailbox& box = group_->mailbox(rank_, i / kMaxTransfersInFlight, i % kMaxTransfersInFlight);
      Backoff backoff;
      for (;;) {
        int posted = kPosted;
        if (box.state.compare_exchange_strong(posted, kFree, std::memory_order_acq_rel) || posted == kFree) break;
        backoff.Pause();
      }
    }
  }

  void Fail(const absl::Status& why) {
    if (!error_.ok()) return;
    error_ = why.ok() ? absl::AbortedError("the group was ended without a reason") : why;
    group_->ranks[rank_].error = error_;
    group_->ranks[rank_].failed.store(true, std::memory_order_release);
  }

  std::shared_ptr<Group> group_;
  const int rank_;
  const LocalTransportOptions options_;
  int64_t sequence_ = -1;
  absl::Status error_;
  std::vector<double> wait_seconds_;
  struct Heard {
    int64_t sequence = -1;
    int64_t at_ns = 0;  // of SteadyNanos
  };
  std::vector<Heard> last_heard_;  // [R]
  TransferSlots<LocalTransfer> transfers_;
};

}  // namespace

std::vector<std::unique_ptr<Transport>> CreateLocalGroup(int num_ranks, const LocalTransportOptions& options) {
  TF_CHECK_GE(num_ranks, 1);
  auto group = std::make_shared<Group>(num_ranks);
  std::vector<std::unique_ptr<Transport>> out;
  for (int r = 0; r < num_ranks; ++r) out.push_back(std::make_unique<LocalTransport>(group, r, options));
  return out;
}

}  // namespace tokenferry
