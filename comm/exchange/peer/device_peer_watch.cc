#include "comm/exchange/peer/device_peer_watch.h"

#include <algorithm>
#include <atomic>
#include <new>

#include "comm/peer/peer_wait.h"
#include "comm/wait/wait.h"

namespace tokenferry {
namespace {

constexpr absl::Duration kLookPeriod = absl::Milliseconds(100);

int64_t Load(int64_t& word) { return std::atomic_ref<int64_t>(word).load(std::memory_order_acquire); }

}  // namespace

absl::Status DevicePeerWatch::Allocate(Device& device) {
  const auto allocate = [&](Buffer& buffer, size_t num_bytes) -> absl::Status {
    TF_ASSIGN_OR_RETURN(buffer, device.Allocate(num_bytes, MemoryKind::kHost, "exchange: report of waits"));
    return absl::OkStatus();
  };
  TF_RETURN_IF_ERROR(allocate(report_, sizeof(PeerWaitReport)));
  TF_RETURN_IF_ERROR(allocate(seen_, peers_.num_ranks() * sizeof(int64_t)));
  TF_RETURN_IF_ERROR(allocate(fault_, sizeof(PlanFault)));
  new (report_.data()) PeerWaitReport;
  new (fault_.data()) PlanFault;
  std::fill_n(seen(), peers_.num_ranks(), 0);
  return absl::OkStatus();
}

absl::Status DevicePeerWatch::Check() {
  if (!error_.ok()) return error_;
  if (Load(report()->gave_up) != 0) return error_ = GaveUp();
  if (std::atomic_ref<int32_t>(fault()->kind).load(std::memory_order_acquire) != PlanFault::kNone) {
    return error_ = absl::DataLossError(absl::StrCat("rank ", peers_.rank().value, ": ", ToString(*fault())));
  }
  if (next_look_.Expired()) {
    next_look_ = Deadline::After(kLookPeriod);
    LookAround();
  }
  return absl::OkStatus();
}

// A rank that has ended may have raised its flags before: only waits that lack one give up.
void DevicePeerWatch::LookAround() {
  if (!cause_.ok()) return;
  for (int r = 0; r < peers_.num_ranks() && cause_.ok(); ++r) {
    if (RankId(r) == peers_.rank()) continue;
    const absl::Status alive = peers_.CheckAlive(RankId(r));
    if (alive.ok()) continue;
    cause_ = absl::Status(alive.code(), absl::StrCat("rank ", r, " has ended: ", alive.message()));
  }
  if (StopRequested() && !stop_grace_) stop_grace_ = Deadline::After(kStopGrace);
  if (cause_.ok() && stop_grace_ && stop_grace_->Expired()) cause_ = absl::CancelledError("asked to stop");
  if (!cause_.ok()) std::atomic_ref<int64_t>(report()->stop).store(1, std::memory_order_release);
}

absl::Status DevicePeerWatch::GaveUp() const {
  const PeerWaitReport& wait = *report();
  const bool rows = wait.stage == static_cast<int64_t>(PeerStage::kRows);
  const CallSite site{rows ? "dispatch rows" : "combine rows", static_cast<int>(wait.layer), wait.step};
  std::vector<PendingRank> pending;
  for (int r = 0; r < peers_.num_ranks(); ++r) {
    if (seen()[r] >= wait.sequence) continue;
    PendingRank p{.rank = RankId(r), .host = peers_.host(RankId(r)), .unit = "flags", .expected = 1};
    p.process_state = peers_.ProcessStateOf(RankId(r));
    p.last_sign = seen()[r] == 0 ? "no sign of it yet" : absl::StrCat("its last sign: exchange ", seen()[r]);
    pending.push_back(std::move(p));
  }
  const std::string text = DescribePeerWait(peers_, site, wait.sequence, pending);
  if (cause_.ok()) return WaitError(absl::StatusCode::kDeadlineExceeded, peers_.timeout(), text);
  if (absl::IsCancelled(cause_)) return WaitError(absl::StatusCode::kCancelled, peers_.timeout(), text);
  return absl::Status(cause_.code(), absl::StrCat(text, ": ", cause_.message()));
}

}  // namespace tokenferry
