#include "comm/local_transport.h"

#include <atomic>
#include <cstring>
#include <mutex>

#include "absl/time/clock.h"
#include "comm/collectives.h"
#include "comm/peer_memory.h"
#include "comm/wait.h"
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
  std::atomic<int64_t> left{-1};     // the last transfer this rank has completed
  std::atomic<bool> failed{false};
  absl::Status error;  // written before `failed`
};

struct Group {
  explicit Group(int n) : num_ranks(n), ranks(n), mailboxes(static_cast<size_t>(n) * n) {}
  Mailbox& mailbox(int src, int dst) { return mailboxes[static_cast<size_t>(src) * num_ranks + dst]; }
  const int num_ranks;
  std::vector<RankState> ranks;
  std::vector<Mailbox> mailboxes;
  std::shared_ptr<PeerMemory> peer_memory;  // while rank 0 hands it out
};

class LocalTransport : public Transport {
 public:
  LocalTransport(std::shared_ptr<Group> group, int rank, const LocalTransportOptions& options)
      : group_(std::move(group)),
        rank_(rank),
        options_(options),
        wait_seconds_(group_->num_ranks, 0.0),
        last_heard_(group_->num_ranks),
        receiving_(group_->num_ranks),
        sending_(group_->num_ranks) {}
  ~LocalTransport() override { Fail(absl::UnavailableError(absl::StrCat("rank ", rank_, " has left the group"))); }

  RankId rank() const override { return RankId(rank_); }
  int num_ranks() const override { return group_->num_ranks; }
  std::string ToString() const override { return absl::StrCat("local rank ", rank_, " of ", group_->num_ranks); }
  std::string host(RankId) const override { return "(this process)"; }
  absl::Span<const double> wait_seconds_per_rank() const override { return wait_seconds_; }
  absl::Duration timeout() const override { return options_.timeout; }
  std::string PeerState(RankId) const override { return ""; }
  void AddWaitSeconds(RankId rank, double seconds) override { wait_seconds_[rank.value] += seconds; }
  absl::Status PeerStatus(RankId rank) const override {
    const RankState& peer = group_->ranks[rank.value];
    return peer.failed.load(std::memory_order_acquire) ? peer.error : absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<PeerMemory>> AllocatePeerMemory(const CallSite& site,
                                                                 int64_t bytes_per_rank) override {
    return ShareMemory(site, bytes_per_rank, PeerPages::kNow);
  }
  absl::StatusOr<std::shared_ptr<PeerMemory>> ReservePeerMemory(const CallSite& site, int64_t bytes_per_rank) override {
    return ShareMemory(site, bytes_per_rank, PeerPages::kLater);
  }

  absl::Status HostAllToAllV(const CallSite& site, const AllToAllVArgs& args) override {
    if (!error_.ok()) return error_;
    absl::Status status = ValidateArgs(*this, site, args);
    if (status.ok()) status = Transfer(site, args);
    if (!status.ok()) Fail(status);
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

  absl::Status Transfer(const CallSite& site, const AllToAllVArgs& args) {
    ++sequence_;
    Post(site, args);
    const int64_t own = args.send_offsets[rank_ + 1] - args.send_offsets[rank_];
    if (own > 0) {
      std::memcpy(static_cast<char*>(args.recv) + args.recv_offsets[rank_],
                  static_cast<const char*>(args.send) + args.send_offsets[rank_], own);
    }
    absl::Status status = Complete(site, args);
    if (!status.ok()) {
      Fail(status);  // first, so that a peer that finds a message withdrawn knows why
      Withdraw();
    }
    group_->ranks[rank_].left.store(sequence_, std::memory_order_release);
    return status;
  }

  void Post(const CallSite& site, const AllToAllVArgs& args) {
    for (int r = 0; r < group_->num_ranks; ++r) {
      const int64_t num_bytes = args.send_offsets[r + 1] - args.send_offsets[r];
      receiving_[r] = r != rank_ && args.recv_offsets[r + 1] > args.recv_offsets[r];
      sending_[r] = r != rank_ && num_bytes > 0;
      if (!sending_[r]) continue;
      Mailbox& box = group_->mailbox(rank_, r);
      TF_CHECK_EQ(box.state.load(std::memory_order_acquire), static_cast<int>(kFree));
      box.data = static_cast<const char*>(args.send) + args.send_offsets[r];
      box.num_bytes = num_bytes;
      box.sequence = sequence_;
      box.site = site;
      box.state.store(kPosted, std::memory_order_release);
    }
    group_->ranks[rank_].entered.store(sequence_, std::memory_order_release);
  }

  // Polls until everything has come and everything has been taken.
  absl::Status Complete(const CallSite& site, const AllToAllVArgs& args) {
    WaitLimit limit(options_.timeout);
    Backoff backoff;
    int last_rank = -1;
    double last_seconds = 0;
    for (;;) {
      int num_open = 0;
      bool progress = false;
      for (int r = 0; r < group_->num_ranks; ++r) {
        if (!receiving_[r] && !sending_[r]) continue;
        const int num_open_before = receiving_[r] + sending_[r];
        const bool failed = group_->ranks[r].failed.load(std::memory_order_acquire);  // what it posted before is good
        if (receiving_[r]) {
          TF_RETURN_IF_ERROR(PollReceive(r, site, args));
          if (!receiving_[r]) last_heard_[r] = {sequence_, absl::Now()};
        }
        if (sending_[r]) TF_RETURN_IF_ERROR(PollSend(r, site));
        if (receiving_[r] + sending_[r] < num_open_before) {
          last_rank = r;
          last_seconds = limit.seconds();
          progress = true;
        }
        if (failed && (receiving_[r] || sending_[r])) return FailureOf(r, site, args);
        num_open += receiving_[r] + sending_[r];
      }
      if (num_open == 0) break;
      if (progress) {
        backoff.Reset();
        continue;
      }
      const absl::StatusCode code = limit.Check();
      if (code != absl::StatusCode::kOk) {
        return WaitError(code, options_.timeout, DescribeWait(*this, site, sequence_, Pending(args)));
      }
      backoff.Pause();
    }
    if (last_rank >= 0) wait_seconds_[last_rank] += last_seconds;
    return absl::OkStatus();
  }

  absl::Status PollReceive(int src, const CallSite& site, const AllToAllVArgs& args) {
    const int64_t expected = args.recv_offsets[src + 1] - args.recv_offsets[src];
    Mailbox& box = group_->mailbox(src, rank_);
    // Read before the mailbox: a rank that has entered this transfer has posted before.
    const bool entered = group_->ranks[src].entered.load(std::memory_order_acquire) >= sequence_;
    int posted = kPosted;
    if (!box.state.compare_exchange_strong(posted, kClaimed, std::memory_order_acq_rel)) {
      if (!entered || group_->ranks[src].failed.load(std::memory_order_acquire)) return absl::OkStatus();
      return Mismatch(site, absl::StrCat("expects ", expected, " bytes, but rank ", src, " sends 0"));
    }
    absl::Status status;
    if (box.sequence != sequence_) {
      status =
          Mismatch(site, absl::StrCat("did not expect the ", box.num_bytes, " bytes that rank ", src,
                                      " sent in transfer ", box.sequence, " (", tokenferry::ToString(box.site), ")"));
    } else if (box.num_bytes != expected) {
      status = Mismatch(site, absl::StrCat("expects ", expected, " bytes, but rank ", src, " sends ", box.num_bytes));
    } else {
      std::memcpy(static_cast<char*>(args.recv) + args.recv_offsets[src], box.data, expected);
      receiving_[src] = 0;
    }
    box.state.store(kFree, std::memory_order_release);
    return status;
  }

  absl::Status PollSend(int dst, const CallSite& site) {
    Mailbox& box = group_->mailbox(rank_, dst);
    const bool left = group_->ranks[dst].left.load(std::memory_order_acquire) >= sequence_;
    if (box.state.load(std::memory_order_acquire) == kFree) {
      sending_[dst] = 0;
      return absl::OkStatus();
    }
    if (!left || group_->ranks[dst].failed.load(std::memory_order_acquire)) return absl::OkStatus();
    return Mismatch(site, absl::StrCat("sends ", box.num_bytes, " bytes that rank ", dst, " does not expect"));
  }

  absl::Status Mismatch(const CallSite& site, const std::string& what) const {
    return absl::FailedPreconditionError(
        absl::StrCat(tokenferry::ToString(site), ", transfer ", sequence_, ": rank ", rank_, " ", what));
  }

  absl::Status FailureOf(int r, const CallSite& site, const AllToAllVArgs& args) const {
    const absl::Status& why = group_->ranks[r].error;
    return absl::Status(why.code(), absl::StrCat(DescribeWait(*this, site, sequence_, Pending(args)), ": rank ", r,
                                                 " has ended the group: ", why.message()));
  }

  std::vector<PendingRank> Pending(const AllToAllVArgs& args) const {
    std::vector<PendingRank> out;
    for (int r = 0; r < group_->num_ranks; ++r) {
      if (!receiving_[r] && !sending_[r]) continue;
      PendingRank p = DescribePending(
          RankId(r), receiving_[r] ? args.recv_offsets[r + 1] - args.recv_offsets[r] : 0, /*arrived_bytes=*/0,
          sending_[r] ? args.send_offsets[r + 1] - args.send_offsets[r] : 0, args.row_bytes);
      p.last_sign = DescribeLastSign(last_heard_[r].sequence, last_heard_[r].at);
      out.push_back(std::move(p));
    }
    return out;
  }

  void Withdraw() {
    for (int r = 0; r < group_->num_ranks; ++r) {
      Mailbox& box = group_->mailbox(rank_, r);
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
    absl::Time at;
  };
  std::vector<Heard> last_heard_;          // [R]
  std::vector<char> receiving_, sending_;  // [R] of the current transfer: not complete yet
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
