#include "comm/transport/nccl/transfer_log.h"

#include <algorithm>
#include <numeric>

#include "comm/peer/peer_wait.h"
#include "comm/transport/collectives.h"
#include "comm/wait/wait.h"

namespace tokenferry {
namespace {

constexpr CallSite kStart{"start: nccl"};

}  // namespace

TransferLog::TransferLog(Transport& control) : control_(control) {}

absl::Status TransferLog::Prepare(Device& device, Stream& stream) {
  for (Entry& entry : entries_) {
    TF_ASSIGN_OR_RETURN(entry.end, device.CreateEvent());
  }
  std::array<int64_t, kNumEntries> numbers;
  std::iota(numbers.begin(), numbers.end(), 0);
  TF_ASSIGN_OR_RETURN(entry_numbers_, device.Allocate(sizeof numbers, MemoryKind::kDevice, "transport: numbers"));
  TF_ASSIGN_OR_RETURN(last_ended_, device.Allocate(sizeof(int64_t), MemoryKind::kHost, "transport: last ended"));
  stream.CopyToDevice(entry_numbers_.data(), numbers.data(), sizeof numbers);
  *last_ended_.as<int64_t>() = kNumEntries - 1;  // as if one before the first had ended
  return absl::OkStatus();
}

absl::Status TransferLog::Start(Device& device, Stream& stream) {
  TF_RETURN_IF_ERROR(AgreeOnStatus(control_, kStart, Prepare(device, stream)));
  auto board = control_.peers().Reserve(kStart, sizeof(Progress));
  if (absl::IsFailedPrecondition(board.status())) return absl::OkStatus();  // containers of their own, say
  TF_RETURN_IF_ERROR(board.status());
  board_ = *std::move(board);
  return AgreeOnStatus(control_, kStart, board_->Take(control_.rank().value, 0, sizeof(Progress)));
}

void TransferLog::Begin(const Transfer& t) {
  FirstUnderWay();  // before numbers of entries come round
  static_cast<Transfer&>(entries_[t.sequence % kNumEntries]) = t;
  num_begun_ = t.sequence + 1;
}

void TransferLog::HasBeenEnqueued(Stream& stream) {
  const int64_t entry = num_enqueued_++ % kNumEntries;
  stream.CopyOnDevice(last_ended_.data(), entry_numbers_.as<int64_t>() + entry, sizeof(int64_t));
  stream.Record(*entries_[entry].end);
  if (board_ == nullptr) return;
  auto* const mine = reinterpret_cast<Progress*>(board_->part(control_.rank().value));
  mine->at_ns.store(SteadyNanos(), std::memory_order_relaxed);
  mine->num_enqueued.store(num_enqueued_, std::memory_order_release);
}

const Transfer* TransferLog::FirstUnderWay() {
  // Written by the device. They end in their order.
  const int64_t last = std::atomic_ref<int64_t>(*last_ended_.as<int64_t>()).load(std::memory_order_acquire);
  first_under_way_ = std::max(first_under_way_, num_enqueued_ - kNumEntries + 1);
  while (first_under_way_ < num_enqueued_ && (last + 1) % kNumEntries != first_under_way_ % kNumEntries) {
    ++first_under_way_;
  }
  return first_under_way_ < num_enqueued_ ? &entries_[first_under_way_ % kNumEntries] : nullptr;
}

const TransferLog::Progress* TransferLog::ProgressOf(int rank) const {
  if (board_ == nullptr || control_.host(RankId(rank)) != control_.host(control_.rank())) return nullptr;
  return reinterpret_cast<const Progress*>(board_->part(rank));
}

PendingRank TransferLog::DescribeRank(const Transfer& t, int rank, const Progress* progress) const {
  const RankId id(rank);
  const int64_t num_begun = progress == nullptr ? 0 : progress->num_enqueued.load(std::memory_order_acquire);
  // Of a transfer that a rank has not begun nothing can have come; of one that it has, nobody knows how much.
  const bool nothing_came = progress != nullptr && num_begun <= t.sequence;
  PendingRank p = DescribePending(id, control_.host(id),
                                  {.expected = nothing_came ? t.recv_bytes(rank) : 0,
                                   .untaken = nothing_came ? t.send_bytes(rank) : 0,
                                   .row_bytes = t.row_bytes});
  p.process_state = control_.peers().ProcessStateOf(id);
  p.last_sign = progress == nullptr ? "from here it cannot be seen whether it has begun"
                                    : DescribeLastSign(num_begun - 1, progress->at_ns.load(std::memory_order_relaxed));
  return p;
}

std::string TransferLog::Describe(const Transfer& t) const {
  std::vector<PendingRank> missing, unknown, all;
  for (int r = 0; r < control_.num_ranks(); ++r) {
    if (r == control_.rank().value) continue;
    const Progress* const progress = ProgressOf(r);
    if (progress != nullptr && progress->num_enqueued.load(std::memory_order_acquire) <= t.sequence) {
      missing.push_back(DescribeRank(t, r, progress));
    }
    if (t.send_bytes(r) == 0 && t.recv_bytes(r) == 0) continue;
    all.push_back(DescribeRank(t, r, progress));
    if (progress == nullptr) unknown.push_back(all.back());
  }
  return DescribePeerWait(control_.peers(), t.site, t.sequence,
                          !missing.empty()   ? missing
                          : !unknown.empty() ? unknown
                                             : all);
}

}  // namespace tokenferry
