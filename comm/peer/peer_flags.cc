#include "comm/peer/peer_flags.h"

#include "comm/peer/peer_wait.h"
#include "comm/wait/wait.h"

namespace tokenferry {
namespace {

constexpr absl::Duration kFlagLivenessPeriod = absl::Milliseconds(100);

const char* SignalName(int signal) {
  static constexpr const char* kNames[kNumPeerSignals] = {"plan", "plan indices", "dispatch rows", "expert outputs"};
  return kNames[signal];
}

const char* SignalUnit(PeerSignal signal) {
  static constexpr const char* kUnits[kNumPeerSignals] = {"headers", "index arrays", "rows", "outputs"};
  return kUnits[static_cast<int>(signal)];
}

}  // namespace

PeerFlag& PeerFlags::flag(int rank, PeerSignal signal) const {
  return reinterpret_cast<PeerFlag*>(memory_.part(rank))[static_cast<int>(signal)];
}

bool PeerFlags::Raised(int rank, PeerSignal signal, int64_t sequence) const {
  return flag(rank, signal).sequence.load(std::memory_order_acquire) >= sequence;
}

void PeerFlags::Raise(PeerSignal signal, int64_t sequence) {
  PeerFlag& mine = flag(peers_.rank().value, signal);
  mine.raised_at_ns.store(SteadyNanos(), std::memory_order_relaxed);
  mine.sequence.store(sequence, std::memory_order_release);
}

absl::Status PeerFlags::Wait(const CallSite& site, PeerSignal signal, int64_t sequence,
                             absl::Span<const int64_t> wanted) {
  pending_.clear();
  for (size_t r = 0; r < wanted.size(); ++r) {
    if (wanted[r] && !Raised(static_cast<int>(r), signal, sequence)) pending_.push_back(static_cast<int>(r));
  }
  if (pending_.empty()) return absl::OkStatus();
  WaitLimit limit(peers_.timeout());
  Backoff turn;  // as in the transports: sleeps cost more than a phase of a small batch takes
  Deadline next_liveness = Deadline::After(kFlagLivenessPeriod);
  int last_arrival = -1;
  while (!pending_.empty()) {
    const size_t num_before = pending_.size();
    std::erase_if(pending_, [&](int r) {
      if (!Raised(r, signal, sequence)) return false;
      last_arrival = r;
      return true;
    });
    if (pending_.size() < num_before) {
      turn.Reset();
      continue;
    }
    if (const absl::StatusCode code = limit.Check(); code != absl::StatusCode::kOk) {
      return WaitError(code, peers_.timeout(), Describe(site, signal, sequence, wanted));
    }
    if (next_liveness.Expired()) {
      TF_RETURN_IF_ERROR(CheckAlive(site, signal, sequence, wanted));
      next_liveness = Deadline::After(kFlagLivenessPeriod);
    }
    turn.Pause();
  }
  peers_.AddWaitSeconds(RankId(last_arrival), limit.seconds());
  return absl::OkStatus();
}

// A rank that has ended may have raised its flag before: the flag is looked at after its status.
absl::Status PeerFlags::CheckAlive(const CallSite& site, PeerSignal signal, int64_t sequence,
                                   absl::Span<const int64_t> wanted) const {
  for (int r : pending_) {
    const absl::Status status = peers_.CheckAlive(RankId(r));
    if (status.ok() || Raised(r, signal, sequence)) continue;
    return absl::Status(status.code(), absl::StrCat(Describe(site, signal, sequence, wanted), ": rank ", r,
                                                    " has ended: ", status.message()));
  }
  return absl::OkStatus();
}

std::string PeerFlags::Describe(const CallSite& site, PeerSignal signal, int64_t sequence,
                                absl::Span<const int64_t> wanted) const {
  std::vector<PendingRank> ranks;
  for (int r : pending_) {
    if (Raised(r, signal, sequence)) continue;
    const RankId rank(r);
    PendingRank p{.rank = rank, .host = peers_.host(rank), .unit = SignalUnit(signal), .expected = wanted[r]};
    p.process_state = peers_.ProcessStateOf(rank);
    p.last_sign = LastSign(r);
    ranks.push_back(std::move(p));
  }
  return DescribePeerWait(peers_, site, sequence, ranks);
}

std::string PeerFlags::LastSign(int rank) const {
  int last = -1;
  int64_t at_ns = 0;
  for (int s = 0; s < kNumPeerSignals; ++s) {
    const PeerFlag& f = flag(rank, static_cast<PeerSignal>(s));
    if (f.sequence.load(std::memory_order_acquire) == 0) continue;
    const int64_t raised = f.raised_at_ns.load(std::memory_order_relaxed);
    if (last < 0 || raised >= at_ns) last = s, at_ns = raised;
  }
  if (last < 0) return "no sign of it yet";
  const absl::Duration ago = absl::Nanoseconds((SteadyNanos() - at_ns) / 1'000'000 * 1'000'000);
  return absl::StrCat("its last sign: ", SignalName(last), " of transfer ",
                      flag(rank, static_cast<PeerSignal>(last)).sequence.load(std::memory_order_relaxed), ", ",
                      absl::FormatDuration(ago), " ago");
}

}  // namespace tokenferry
