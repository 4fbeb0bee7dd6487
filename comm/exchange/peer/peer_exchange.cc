// Who may write when. Exchanges of one object are numbered n = 1, 2, ..; all ranks pass through Plan n, Dispatch n,
// Combine n in order, and what a rank launches is complete when it next synchronizes its stream, which Plan, Dispatch
// and Combine do before they raise a flag. Memory that others read is written again only when they have said so:
//  * Headers, row tokens, selections of n are read by others in their Plan n. They lie in one of two places, by the
//    parity of n: they are overwritten in Plan n + 2, which comes after Plan n + 1, which waited for everybody's plan
//    flag n + 1, which everybody raised after his Plan n.
//  * My rows of n are read by experts between their rows flag and their outputs flag of n. They are overwritten in
//    Dispatch n + 1, after my Combine n, which waited for the outputs flag of every rank that I sent rows to.
//  * My return indices and expert outputs of n are read by homes in their Combine n, whose sums are complete when they
//    raise their plan flag n + 1 (Plan synchronizes first). They are overwritten after I have seen all of those: return
//    indices at the end of Plan n + 1, outputs by the experts after it.
//  * Memory is replaced by larger memory in Plan n + 1 after all plan flags n + 1: by the above nobody reads rows or
//    outputs of n any more, and nobody reads index arrays of n + 1 from the old memory, because everybody decides the
//    same from the same headers, which lie in the control memory, which stays. A producer may have written the rows of
//    n + 1 before: their old memory stays until the next HomeRows, and Dispatch n + 1 copies from there.
#include "comm/exchange/peer/peer_exchange.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "comm/exchange/path/exchange_rows.h"
#include "comm/exchange/peer/peer_layout.h"
#include "comm/exchange/peer/peer_plan.h"
#include "comm/ops/exchange_ops.h"
#include "comm/ops/row_codec_ops.h"
#include "comm/peer/peer_flags.h"
#include "comm/peer/peer_memory.h"
#include "comm/plan/exchange_planner.h"
#include "comm/transport/collectives.h"
#include "core/check.h"
#include "core/device/growing_buffer.h"

namespace tokenferry {
namespace {

constexpr CallSite kStartPeer{"start: peer memory"};

// What a rank tells all ranks about an exchange; followed by PlanHeader [R], by destination.
struct alignas(64) Announcement {
  int64_t num_tokens = 0;
  PlanHeader* headers() { return reinterpret_cast<PlanHeader*>(this + 1); }
};

int64_t AnnouncementBytes(int num_ranks) {
  return static_cast<int64_t>(sizeof(Announcement) + (num_ranks * sizeof(PlanHeader) + 63) / 64 * 64);
}

class PeerMover : public PathMover {
 public:
  explicit PeerMover(const PathContext& context)
      : transport_(context.transport),
        device_(context.device),
        options_(context.options),
        stats_(context.stats),
        rank_(transport_.rank().value),
        num_ranks_(transport_.num_ranks()),
        row_bytes_(RowBytes(options_.resident_dtype(), options_.hidden)),
        out_bytes_(options_.hidden * DTypeBytes(options_.output_dtype)),
        planner_(transport_, options_.formats()),
        rows_(device_, options_),
        headers_(num_ranks_),
        my_headers_(num_ranks_),
        row_counts_(num_ranks_),
        selection_counts_(num_ranks_),
        indices_(num_ranks_),
        all_(num_ranks_, 1),
        sources_(num_ranks_),
        destinations_(num_ranks_) {
    stats_.row_bytes = row_bytes_;  // nothing travels: rows lie as experts read them
  }

  // Collective.
  absl::Status Start() {
    TF_ASSIGN_OR_RETURN(control_, transport_.peers().Allocate(
                                      kStartPeer, PeerFlags::kBytesPerRank + 2 * AnnouncementBytes(num_ranks_)));
    flags_.emplace(transport_.peers(), *control_);
    const int64_t wanted[] = {options_.max_tokens, options_.max_top_k};
    TF_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                        AllGather(transport_, kStartPeer, {reinterpret_cast<const char*>(wanted), sizeof(wanted)}));
    int64_t tokens = 0, top_k = 0;
    for (const std::string& bytes : all) {
      int64_t theirs[2] = {};
      if (bytes.size() != sizeof(theirs)) return absl::DataLossError("exchange: a rank sent no sizes at start");
      std::memcpy(theirs, bytes.data(), sizeof(theirs));
      tokens = std::max(tokens, theirs[0]);
      top_k = std::max(top_k, theirs[1]);
    }
    return Resize(kStartPeer, PeerCapacity::AtStart(tokens, top_k, num_ranks_));
  }

  absl::StatusOr<FloatMatrix> HomeRows(int64_t num_tokens) override {
    previous_row_memory_.reset();
    // Quantised rows are not read as home has them.
    if (IsQuantised(options_.wire_dtype) || num_tokens > capacity_.tokens) return rows_.Home(num_tokens);
    return FloatMatrix(row_memory_->part(rank_), options_.wire_dtype, num_tokens, options_.hidden);
  }

  absl::Status Plan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                    int64_t) override {
    const CallSite counts = At(site, "plan counts"), indices = At(site, "plan selections");
    plan_.rank = transport_.rank();
    const absl::Status send_status = planner_.PlanHome(stream, routing, placement, plan_.send);
    TF_RETURN_IF_ERROR(transport_.EnterPhase(counts));
    ++sequence_;
    Announce(counts, send_status, plan_.send, placement);
    flags_->Raise(PeerSignal::kPlan, sequence_);
    // The others read in my header that I cannot plan; theirs may not be there yet.
    if (!send_status.ok()) return planner_.CheckHeaders(counts, send_status, my_headers_);
    TF_RETURN_IF_ERROR(flags_->Wait(counts, PeerSignal::kPlan, sequence_, all_));
    TF_RETURN_IF_ERROR(transport_.EnterPhase(indices));
    ReadHeaders();
    TF_RETURN_IF_ERROR(planner_.CheckHeaders(counts, send_status, my_headers_));
    const auto needed = NeededCapacity(headers_);
    if (!needed.ok()) return Annotate(needed.status(), counts);
    if (!capacity_.Holds(*needed)) {
      TF_RETURN_IF_ERROR(Resize(counts, capacity_.GrownTo(*needed)));
      WriteIndices(plan_.send);
      flags_->Raise(PeerSignal::kIndices, sequence_);
      TF_RETURN_IF_ERROR(flags_->Wait(indices, PeerSignal::kIndices, sequence_, all_));
    }
    TF_RETURN_IF_ERROR(ReadSelections(indices, placement, plan_.recv));
    for (int src = 0; src < num_ranks_; ++src) {
      indices_[src] = {InPart<const int32_t>(src, layout_.row_token[parity()]) + headers_.FirstRow(src, rank_),
                       static_cast<size_t>(row_counts_[src])};
    }
    TF_RETURN_IF_ERROR(
        Annotate(LocateRows(headers_, indices_, plan_.recv, layout_.rows_per_rank, scratch_, row_location_), indices));
    std::copy(plan_.recv.return_selection.begin(), plan_.recv.return_selection.end(),
              InPart<int32_t>(rank_, layout_.return_idx));
    return absl::OkStatus();
  }

  const ExchangePlan* host_plan() const override { return &plan_; }

  absl::Status BeginDispatch(Stream& stream, const CallSite& caller, ConstFloatMatrix home_rows) override {
    const CallSite site = At(caller, "dispatch rows");
    TF_RETURN_IF_ERROR(WriteRows(stream, home_rows));
    TF_RETURN_IF_ERROR(Annotate(stream.Synchronize(), site));
    TF_RETURN_IF_ERROR(transport_.EnterPhase(site));
    flags_->Raise(PeerSignal::kRows, sequence_);
    for (int r = 0; r < num_ranks_; ++r) {
      sources_[r] = plan_.recv.row_offsets[r + 1] - plan_.recv.row_offsets[r];
      const int64_t num_rows = plan_.send.row_offsets[r + 1] - plan_.send.row_offsets[r];
      stats_.dispatch_rows_per_rank[r] += num_rows;
      stats_.dispatch_bytes_per_rank[r] += num_rows * row_bytes_;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ExpertRows> FinishDispatch(Stream& stream, const CallSite& caller) override {
    const CallSite site = At(caller, "dispatch rows");
    TF_RETURN_IF_ERROR(flags_->Wait(site, PeerSignal::kRows, sequence_, sources_));
    return rows_.ForExperts(stream, plan_.recv, row_memory_->base(), row_location_);
  }

  absl::StatusOr<FloatMatrix> ExpertOut() override {
    return FloatMatrix(data_->part(rank_) + layout_.outputs, options_.output_dtype, plan_.num_recv_selections(),
                       options_.hidden);
  }

  absl::Status BeginCombine(Stream& stream, const CallSite& caller) override {
    const CallSite site = At(caller, "combine rows");
    TF_RETURN_IF_ERROR(Annotate(stream.Synchronize(), site));  // the experts are done
    TF_RETURN_IF_ERROR(transport_.EnterPhase(site));
    flags_->Raise(PeerSignal::kOutputs, sequence_);
    for (int r = 0; r < num_ranks_; ++r) {
      destinations_[r] = plan_.send.selection_offsets[r + 1] - plan_.send.selection_offsets[r];
      stats_.combine_bytes_per_rank[r] +=
          (plan_.recv.selection_offsets[r + 1] - plan_.recv.selection_offsets[r]) * out_bytes_;
    }
    return absl::OkStatus();
  }

  absl::Status FinishCombine(Stream& stream, const CallSite& caller, MatrixView<const float> weight,
                             MatrixView<float> out) override {
    const CallSite site = At(caller, "combine rows");
    TF_RETURN_IF_ERROR(combine_offsets_.Upload(stream, plan_.send.combine_offsets));
    TF_RETURN_IF_ERROR(combine_k_.Upload(stream, plan_.send.combine_k));
    TF_RETURN_IF_ERROR(flags_->Wait(site, PeerSignal::kOutputs, sequence_, destinations_));
    TF_RETURN_IF_ERROR(transport_.EnterPhase(At(caller, "combine sums")));
    for (int r = 0; r < num_ranks_; ++r) {
      const int64_t num_mine = plan_.send.selection_offsets[r + 1] - plan_.send.selection_offsets[r];
      indices_[r] = {InPart<const int32_t>(r, layout_.return_idx) + headers_.FirstArrival(rank_, r),
                     static_cast<size_t>(num_mine)};
    }
    TF_RETURN_IF_ERROR(Annotate(
        LocateOutputs(headers_, indices_, plan_.send, layout_.outputs_per_rank, scratch_, combine_location_), site));
    TF_RETURN_IF_ERROR(combine_row_.Upload(stream, combine_location_));
    const ConstFloatMatrix outputs(data_->base() + layout_.outputs, options_.output_dtype,
                                   num_ranks_ * layout_.outputs_per_rank, options_.hidden);
    stream.Launch(kCombineRows, {outputs, combine_offsets_.as<int64_t>(), combine_row_.as<int32_t>(),
                                 combine_k_.as<int32_t>(), weight, out});
    return absl::OkStatus();
  }

 private:
  template <class T>
  T* InPart(int rank, int64_t offset) const {
    return reinterpret_cast<T*>(data_->part(rank) + offset);
  }
  int parity() const { return static_cast<int>(sequence_ % 2); }
  Announcement& announcement(int rank) const {
    return *reinterpret_cast<Announcement*>(control_->part(rank) + PeerFlags::kBytesPerRank +
                                            parity() * AnnouncementBytes(num_ranks_));
  }

  // Collective: everybody comes with the same capacity. Old memory goes first, because both might not fit; but that of
  // rows, where home may have written, stays until the next HomeRows.
  absl::Status Resize(const CallSite& site, const PeerCapacity& capacity) {
    TF_ASSIGN_OR_RETURN(layout_, MakePeerLayout(capacity, num_ranks_, row_bytes_, out_bytes_));
    const int64_t total_bytes = layout_.bytes_per_rank + layout_.row_bytes_per_rank;
    if (options_.max_peer_bytes > 0 && total_bytes > options_.max_peer_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(ToString(site), ": an exchange of ", capacity.tokens, " tokens and ", capacity.recv_selections,
                       " expert outputs needs ", total_bytes, " bytes of peer memory per rank, more than the ",
                       options_.max_peer_bytes, " allowed; choose path alltoallv"));
    }
    data_.reset();
    TF_ASSIGN_OR_RETURN(data_, transport_.peers().Allocate(site, layout_.bytes_per_rank));
    if (row_memory_ == nullptr || capacity.tokens > capacity_.tokens) {
      previous_row_memory_ = std::move(row_memory_);
      TF_ASSIGN_OR_RETURN(row_memory_, transport_.peers().Allocate(site, layout_.row_bytes_per_rank));
    }
    capacity_ = capacity;
    const int64_t previous_bytes = previous_row_memory_ == nullptr ? 0 : previous_row_memory_->bytes_per_rank();
    stats_.peak_peer_bytes =
        std::max(stats_.peak_peer_bytes, total_bytes + previous_bytes + control_->bytes_per_rank());
    return absl::OkStatus();
  }

  // Index arrays come along when there is room for them; otherwise the memory will grow first, for everybody.
  void Announce(const CallSite& site, const absl::Status& send_status, const SendPlan& send,
                const Placement& placement) {
    Announcement& mine = announcement(rank_);
    mine.num_tokens = send_status.ok() ? send.num_tokens : 0;
    const auto& headers = planner_.MakeHeaders(site, send_status, send, placement);
    std::copy(headers.begin(), headers.end(), mine.headers());
    if (send_status.ok() && send.row_offsets.back() <= capacity_.send_rows &&
        send.selection_offsets.back() <= capacity_.send_selections) {
      WriteIndices(send);
    }
  }

  void WriteIndices(const SendPlan& send) {
    std::copy(send.row_token.begin(), send.row_token.end(), InPart<int32_t>(rank_, layout_.row_token[parity()]));
    std::copy(send.selections.begin(), send.selections.end(),
              InPart<WireSelection>(rank_, layout_.selections[parity()]));
  }

  // Copies once, so that what is checked is what is used.
  void ReadHeaders() {
    for (int src = 0; src < num_ranks_; ++src) {
      Announcement& theirs = announcement(src);
      headers_.num_tokens[src] = theirs.num_tokens;
      std::copy_n(theirs.headers(), num_ranks_, headers_.by_pair.begin() + static_cast<size_t>(src) * num_ranks_);
      my_headers_[src] = headers_.of(src, rank_);
    }
  }

  absl::Status ReadSelections(const CallSite& site, const Placement& placement, RecvPlan& plan) {
    for (int src = 0; src < num_ranks_; ++src) {
      row_counts_[src] = my_headers_[src].num_rows;
      selection_counts_[src] = my_headers_[src].num_selections;
    }
    TF_RETURN_IF_ERROR(Annotate(ValidateCounts(row_counts_, selection_counts_), site));
    recv_selections_.clear();
    for (int src = 0; src < num_ranks_; ++src) {
      const auto* theirs =
          InPart<const WireSelection>(src, layout_.selections[parity()]) + headers_.FirstSelection(src, rank_);
      recv_selections_.insert(recv_selections_.end(), theirs, theirs + selection_counts_[src]);
    }
    return planner_.PlanAway(site, row_counts_, selection_counts_, recv_selections_, placement, plan);
  }

  // All rows, in order, into this rank's part, if they are not there.
  absl::Status WriteRows(Stream& stream, ConstFloatMatrix from) {
    char* rows = row_memory_->part(rank_);
    if (from.data == rows) {
      TF_CHECK(from.dtype == options_.wire_dtype && from.stride == options_.hidden);
      return absl::OkStatus();
    }
    if (static_cast<int64_t>(every_token_.size()) < from.rows) {
      for (int64_t t = static_cast<int64_t>(every_token_.size()); t < from.rows; ++t) {
        every_token_.push_back(static_cast<int32_t>(t));
      }
      TF_RETURN_IF_ERROR(token_idx_.Upload(stream, every_token_));
    }
    if (!IsQuantised(options_.wire_dtype)) {
      rows_.Pack(stream, from, token_idx_.as<int32_t>(), from.rows, rows);
      return absl::OkStatus();
    }
    // Nothing crosses a wire here: what others read are the values that a quantised message would have brought them.
    TF_RETURN_IF_ERROR(narrow_rows_.Reserve(device_, from.rows * RowBytes(options_.wire_dtype, options_.hidden)));
    rows_.Pack(stream, from, token_idx_.as<int32_t>(), from.rows, narrow_rows_.data());
    stream.Launch(kWidenRows,
                  {narrow_rows_.data(), options_.wire_dtype, from.rows, options_.hidden, rows, options_.expert_dtype});
    return absl::OkStatus();
  }

  Transport& transport_;
  Device& device_;
  const ExchangeOptions& options_;
  ExchangeStats& stats_;
  const int rank_, num_ranks_;
  const int64_t row_bytes_;  // of a dispatched row
  const int64_t out_bytes_;  // of an expert output
  ExchangePlanner planner_;
  ExchangePlan plan_;
  ExchangeRows rows_;
  std::shared_ptr<PeerMemory> control_;              // flags, two announcements
  std::shared_ptr<PeerMemory> data_;                 // layout_
  std::shared_ptr<PeerMemory> row_memory_;           // [tokens, H] of each rank
  std::shared_ptr<PeerMemory> previous_row_memory_;  // what HomeRows gave before row_memory_ grew
  std::optional<PeerFlags> flags_;
  PeerCapacity capacity_;
  PeerLayout layout_;
  int64_t sequence_ = 0;
  // Of the last Plan.
  PeerHeaders headers_;
  std::vector<PlanHeader> my_headers_;                  // [R] by source, for this rank
  std::vector<int64_t> row_counts_, selection_counts_;  // [R] to this rank
  std::vector<WireSelection> recv_selections_;
  std::vector<absl::Span<const int32_t>> indices_;  // [R] what ranks wrote, of LocateRows, then of LocateOutputs
  std::vector<int32_t> row_location_;               // [selections]
  // Of the last Dispatch and Combine.
  std::vector<int32_t> scratch_, combine_location_;  // [n]
  const std::vector<int64_t> all_;                   // [R] whom to wait for: one thing of everybody
  std::vector<int64_t> sources_, destinations_;      // [R] rows from, outputs from
  std::vector<int32_t> every_token_;                 // 0, 1, ..
  GrowingBuffer narrow_rows_{MemoryKind::kDevice, "exchange: quantised rows"};
  GrowingBuffer token_idx_{MemoryKind::kDevice, "exchange: tokens in order"};
  GrowingBuffer combine_offsets_{MemoryKind::kDevice, "exchange: combine offsets"};
  GrowingBuffer combine_row_{MemoryKind::kDevice, "exchange: combine order"};
  GrowingBuffer combine_k_{MemoryKind::kDevice, "exchange: combine weights' positions"};
};

}  // namespace

absl::StatusOr<std::unique_ptr<PathMover>> CreatePeerMover(const PathContext& context) {
  absl::Status status;
  auto mover = std::make_unique<PeerMover>(context);
  status = mover->Start();
  if (IsAgreedOn(status)) return status;
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kStartPeer, status));
  return mover;
}

}  // namespace tokenferry
