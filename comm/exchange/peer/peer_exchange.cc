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
#include <limits>
#include <optional>

#include "comm/exchange/peer/peer_layout.h"
#include "comm/ops/exchange_ops.h"
#include "comm/ops/row_codec_ops.h"
#include "comm/peer/peer_flags.h"
#include "comm/peer/peer_memory.h"
#include "comm/plan/exchange_planner.h"
#include "comm/transport/collectives.h"
#include "core/check.h"
#include "core/device/growing_buffer.h"
#include "core/kernels/gather_rows.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxItems = std::numeric_limits<int32_t>::max();
constexpr CallSite kStart{"start: peer memory"};

// What a rank tells all ranks about an exchange; followed by PlanHeader [R], by destination.
struct alignas(64) Announcement {
  int64_t num_tokens = 0;
  PlanHeader* headers() { return reinterpret_cast<PlanHeader*>(this + 1); }
};

int64_t AnnouncementBytes(int num_ranks) {
  return static_cast<int64_t>(sizeof(Announcement) + (num_ranks * sizeof(PlanHeader) + 63) / 64 * 64);
}

class PeerExchange : public Exchange {
 public:
  PeerExchange(Transport& transport, Device& device, const ExchangeOptions& options)
      : Exchange(ExchangePath::kPeer, transport, device, options),
        transport_(transport),
        device_(device),
        options_(options),
        rank_(transport.rank().value),
        num_ranks_(transport.num_ranks()),
        row_bytes_(RowBytes(options.resident_dtype(), options.hidden)),
        out_bytes_(options.hidden * DTypeBytes(options.output_dtype)),
        planner_(transport, options),
        headers_(static_cast<size_t>(num_ranks_) * num_ranks_),
        num_tokens_(num_ranks_),
        my_headers_(num_ranks_),
        row_counts_(num_ranks_),
        selection_counts_(num_ranks_),
        all_(num_ranks_, 1),
        sources_(num_ranks_),
        destinations_(num_ranks_) {}

  // Collective.
  absl::Status Start() {
    TF_ASSIGN_OR_RETURN(
        control_, transport_.peers().Allocate(kStart, PeerFlags::kBytesPerRank + 2 * AnnouncementBytes(num_ranks_)));
    flags_.emplace(transport_.peers(), *control_);
    const int64_t wanted[] = {options_.max_tokens, options_.max_top_k};
    TF_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                        AllGather(transport_, kStart, {reinterpret_cast<const char*>(wanted), sizeof(wanted)}));
    int64_t tokens = 0, top_k = 0;
    for (const std::string& bytes : all) {
      int64_t theirs[2] = {};
      if (bytes.size() != sizeof(theirs)) return absl::DataLossError("exchange: a rank sent no sizes at start");
      std::memcpy(theirs, bytes.data(), sizeof(theirs));
      tokens = std::max(tokens, theirs[0]);
      top_k = std::max(top_k, theirs[1]);
    }
    // Outputs for as many selections as a rank's own tokens have: what a balanced load needs.
    const int64_t selections = std::min(tokens * top_k, kMaxItems);
    return Resize(kStart, {tokens, std::min(selections, tokens * num_ranks_), selections, selections});
  }

 private:
  absl::StatusOr<FloatMatrix> DoHomeRows(int64_t num_tokens) override {
    previous_rows_.reset();
    // Quantised rows are not read as home has them.
    if (IsQuantised(options_.wire_dtype) || num_tokens > capacity_.tokens) return Exchange::DoHomeRows(num_tokens);
    return FloatMatrix(rows_->part(rank_), options_.wire_dtype, num_tokens, options_.hidden);
  }

  absl::Status DoPlan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                      ExchangePlan& plan) override {
    const CallSite counts = At(site, "plan counts"), indices = At(site, "plan selections");
    plan.rank = transport_.rank();
    const absl::Status home = planner_.PlanHome(stream, routing, placement, plan.send);
    TF_RETURN_IF_ERROR(transport_.EnterPhase(counts));
    ++sequence_;
    Announce(counts, home, plan.send, placement);
    flags_->Raise(PeerSignal::kPlan, sequence_);
    // The others read in my header that I cannot plan; theirs may not be there yet.
    if (!home.ok()) return planner_.CheckHeaders(counts, home, my_headers_);
    TF_RETURN_IF_ERROR(flags_->Wait(counts, PeerSignal::kPlan, sequence_, all_));
    TF_RETURN_IF_ERROR(transport_.EnterPhase(indices));
    ReadHeaders();
    TF_RETURN_IF_ERROR(planner_.CheckHeaders(counts, home, my_headers_));
    TF_ASSIGN_OR_RETURN(const PeerCapacity needed, Needed(counts));
    if (!capacity_.Holds(needed)) {
      TF_RETURN_IF_ERROR(Resize(counts, capacity_.GrownTo(needed)));
      WriteIndices(plan.send);
      flags_->Raise(PeerSignal::kIndices, sequence_);
      TF_RETURN_IF_ERROR(flags_->Wait(indices, PeerSignal::kIndices, sequence_, all_));
    }
    TF_RETURN_IF_ERROR(ReadSelections(indices, placement, plan.recv));
    TF_RETURN_IF_ERROR(LocateRows(indices, plan.recv));
    std::copy(plan.recv.return_selection.begin(), plan.recv.return_selection.end(),
              InPart<int32_t>(rank_, layout_.return_idx));
    return absl::OkStatus();
  }

  absl::Status DoBeginDispatch(Stream& stream, const CallSite& caller, const ExchangePlan& plan,
                               ConstFloatMatrix home_rows) override {
    const CallSite site = At(caller, "dispatch rows");
    TF_RETURN_IF_ERROR(WriteRows(stream, home_rows));
    TF_RETURN_IF_ERROR(Annotate(stream.Synchronize(), site));
    TF_RETURN_IF_ERROR(transport_.EnterPhase(site));
    flags_->Raise(PeerSignal::kRows, sequence_);
    for (int r = 0; r < num_ranks_; ++r) {
      sources_[r] = plan.recv.row_offsets[r + 1] - plan.recv.row_offsets[r];
      const int64_t num_rows = plan.send.row_offsets[r + 1] - plan.send.row_offsets[r];
      stats_.dispatch_rows_per_rank[r] += num_rows;
      stats_.dispatch_bytes_per_rank[r] += num_rows * row_bytes_;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ExpertRows> DoDispatch(Stream& stream, const CallSite& caller, const ExchangePlan& plan,
                                        ConstFloatMatrix) override {
    const CallSite site = At(caller, "dispatch rows");
    TF_RETURN_IF_ERROR(flags_->Wait(site, PeerSignal::kRows, sequence_, sources_));
    return MakeExpertRows(stream, plan.recv, rows_->base(), row_location_);
  }

  absl::StatusOr<FloatMatrix> DoExpertOut(const ExchangePlan& plan) override {
    return FloatMatrix(data_->part(rank_) + layout_.outputs, options_.output_dtype, plan.num_recv_selections(),
                       options_.hidden);
  }

  absl::Status DoBeginCombine(Stream& stream, const CallSite& caller, const ExchangePlan& plan) override {
    const CallSite site = At(caller, "combine rows");
    TF_RETURN_IF_ERROR(Annotate(stream.Synchronize(), site));  // the experts are done
    TF_RETURN_IF_ERROR(transport_.EnterPhase(site));
    flags_->Raise(PeerSignal::kOutputs, sequence_);
    for (int r = 0; r < num_ranks_; ++r) {
      destinations_[r] = plan.send.selection_offsets[r + 1] - plan.send.selection_offsets[r];
      stats_.combine_bytes_per_rank[r] +=
          (plan.recv.selection_offsets[r + 1] - plan.recv.selection_offsets[r]) * out_bytes_;
    }
    return absl::OkStatus();
  }

  absl::Status DoCombine(Stream& stream, const CallSite& caller, const ExchangePlan& plan,
                         MatrixView<const float> weight, MatrixView<float> out) override {
    const CallSite site = At(caller, "combine rows");
    TF_RETURN_IF_ERROR(combine_offsets_.Upload(stream, plan.send.combine_offsets));
    TF_RETURN_IF_ERROR(combine_k_.Upload(stream, plan.send.combine_k));
    TF_RETURN_IF_ERROR(flags_->Wait(site, PeerSignal::kOutputs, sequence_, destinations_));
    TF_RETURN_IF_ERROR(transport_.EnterPhase(At(caller, "combine sums")));
    TF_RETURN_IF_ERROR(LocateOutputs(site, plan.send));
    TF_RETURN_IF_ERROR(combine_row_.Upload(stream, combine_location_));
    const ConstFloatMatrix outputs(data_->base() + layout_.outputs, options_.output_dtype,
                                   num_ranks_ * layout_.outputs_per_rank, options_.hidden);
    stream.Launch(kCombineRows, {outputs, combine_offsets_.as<int64_t>(), combine_row_.as<int32_t>(),
                                 combine_k_.as<int32_t>(), weight, out});
    return absl::OkStatus();
  }

  template <class T>
  T* InPart(int rank, int64_t offset) const {
    return reinterpret_cast<T*>(data_->part(rank) + offset);
  }
  const PlanHeader& header(int src, int dst) const { return headers_[static_cast<size_t>(src) * num_ranks_ + dst]; }
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
                       options_.max_peer_bytes, " allowed; choose --path alltoallv"));
    }
    data_.reset();
    TF_ASSIGN_OR_RETURN(data_, transport_.peers().Allocate(site, layout_.bytes_per_rank));
    if (rows_ == nullptr || capacity.tokens > capacity_.tokens) {
      previous_rows_ = std::move(rows_);
      TF_ASSIGN_OR_RETURN(rows_, transport_.peers().Allocate(site, layout_.row_bytes_per_rank));
    }
    capacity_ = capacity;
    const int64_t previous_bytes = previous_rows_ == nullptr ? 0 : previous_rows_->bytes_per_rank();
    stats_.peak_peer_bytes =
        std::max(stats_.peak_peer_bytes, total_bytes + previous_bytes + control_->bytes_per_rank());
    return absl::OkStatus();
  }

  // Index arrays come along when there is room for them; otherwise the memory will grow first, for everybody.
  void Announce(const CallSite& site, const absl::Status& home, const SendPlan& send, const Placement& placement) {
    Announcement& mine = announcement(rank_);
    mine.num_tokens = home.ok() ? send.num_tokens : 0;
    const auto& headers = planner_.MakeHeaders(site, home, send, placement);
    std::copy(headers.begin(), headers.end(), mine.headers());
    if (home.ok() && send.row_offsets.back() <= capacity_.send_rows &&
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
      num_tokens_[src] = theirs.num_tokens;
      std::copy_n(theirs.headers(), num_ranks_, headers_.begin() + static_cast<size_t>(src) * num_ranks_);
      my_headers_[src] = header(src, rank_);
    }
  }

  // What this exchange takes, from everybody's headers: so all ranks find the same.
  absl::StatusOr<PeerCapacity> Needed(const CallSite& site) const {
    PeerCapacity needed;
    const auto bad = [&](int r, int64_t value) {
      return absl::DataLossError(absl::StrCat(ToString(site), ": plan of rank ", r, ": count ", value));
    };
    for (int a = 0; a < num_ranks_; ++a) {
      if (num_tokens_[a] < 0 || num_tokens_[a] > kMaxItems) return bad(a, num_tokens_[a]);
      int64_t rows = 0, sent = 0, received = 0;
      for (int b = 0; b < num_ranks_; ++b) {
        for (const int64_t n : {header(a, b).num_rows, header(a, b).num_selections}) {
          if (n < 0 || n > kMaxItems) return bad(a, n);
        }
        rows += header(a, b).num_rows;
        sent += header(a, b).num_selections;
        received += header(b, a).num_selections;  // of a checked rank, or checked when a gets there
      }
      needed.tokens = std::max(needed.tokens, num_tokens_[a]);
      needed.send_rows = std::max(needed.send_rows, rows);
      needed.send_selections = std::max(needed.send_selections, sent);
      needed.recv_selections = std::max(needed.recv_selections, received);
    }
    return needed;
  }

  absl::Status ReadSelections(const CallSite& site, const Placement& placement, RecvPlan& plan) {
    for (int src = 0; src < num_ranks_; ++src) {
      row_counts_[src] = my_headers_[src].num_rows;
      selection_counts_[src] = my_headers_[src].num_selections;
    }
    TF_RETURN_IF_ERROR(Annotate(ValidateCounts(row_counts_, selection_counts_), site));
    recv_selections_.clear();
    for (int src = 0; src < num_ranks_; ++src) {
      int64_t begin = 0;
      for (int dst = 0; dst < rank_; ++dst) begin += header(src, dst).num_selections;
      const auto* theirs = InPart<const WireSelection>(src, layout_.selections[parity()]) + begin;
      recv_selections_.insert(recv_selections_.end(), theirs, theirs + selection_counts_[src]);
    }
    return planner_.PlanAway(site, row_counts_, selection_counts_, recv_selections_, placement, plan);
  }

  // Where in the matrix of all ranks' rows each selection's row lies.
  absl::Status LocateRows(const CallSite& site, const RecvPlan& recv) {
    arrival_location_.clear();
    for (int src = 0; src < num_ranks_; ++src) {
      int64_t begin = 0;
      for (int dst = 0; dst < rank_; ++dst) begin += header(src, dst).num_rows;
      const auto* tokens = InPart<const int32_t>(src, layout_.row_token[parity()]) + begin;
      for (int64_t i = 0; i < row_counts_[src]; ++i) {
        const int32_t token = tokens[i];
        if (token < 0 || token >= num_tokens_[src]) {
          return absl::DataLossError(absl::StrCat(ToString(site), ": plan from rank ", src, ": row ", i, " is token ",
                                                  token, " of ", num_tokens_[src]));
        }
        arrival_location_.push_back(static_cast<int32_t>(src * layout_.rows_per_rank + token));
      }
    }
    row_location_.resize(recv.row_idx.size());
    for (size_t i = 0; i < recv.row_idx.size(); ++i) row_location_[i] = arrival_location_[recv.row_idx[i]];
    return absl::OkStatus();
  }

  // All rows, in order, into this rank's part, if they are not there.
  absl::Status WriteRows(Stream& stream, ConstFloatMatrix from) {
    char* rows = rows_->part(rank_);
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
      PackRows(stream, from, token_idx_.as<int32_t>(), from.rows, rows);
      return absl::OkStatus();
    }
    // Nothing crosses a wire here: what others read are the values that a quantised message would have brought them.
    TF_RETURN_IF_ERROR(narrow_rows_.Reserve(device_, from.rows * RowBytes(options_.wire_dtype, options_.hidden)));
    PackRows(stream, from, token_idx_.as<int32_t>(), from.rows, narrow_rows_.data());
    stream.Launch(kWidenRows,
                  {narrow_rows_.data(), options_.wire_dtype, from.rows, options_.hidden, rows, options_.expert_dtype});
    return absl::OkStatus();
  }

  // Where in the matrix of all ranks' outputs each of the sums' terms lies.
  absl::Status LocateOutputs(const CallSite& site, const SendPlan& send) {
    selection_location_.resize(send.selections.size());
    for (int r = 0; r < num_ranks_; ++r) {
      int64_t begin = 0, num_outputs = 0;
      for (int src = 0; src < num_ranks_; ++src) {
        if (src == rank_) begin = num_outputs;
        num_outputs += header(src, r).num_selections;
      }
      const auto* return_idx = InPart<const int32_t>(r, layout_.return_idx) + begin;
      const int64_t first = send.selection_offsets[r];
      for (int64_t s = first; s < send.selection_offsets[r + 1]; ++s) {
        const int32_t idx = return_idx[s - first];
        if (idx < 0 || idx >= num_outputs) {
          return absl::DataLossError(absl::StrCat(ToString(site), ": rank ", r, " says that selection ", s - first,
                                                  " is its output ", idx, " of ", num_outputs));
        }
        selection_location_[s] = static_cast<int32_t>(r * layout_.outputs_per_rank + idx);
      }
    }
    combine_location_.resize(send.combine_selection.size());
    for (size_t i = 0; i < combine_location_.size(); ++i) {
      combine_location_[i] = selection_location_[send.combine_selection[i]];
    }
    return absl::OkStatus();
  }

  Transport& transport_;
  Device& device_;
  const ExchangeOptions options_;
  const int rank_, num_ranks_;
  const int64_t row_bytes_;  // of a dispatched row
  const int64_t out_bytes_;  // of an expert output
  ExchangePlanner planner_;
  std::shared_ptr<PeerMemory> control_;        // flags, two announcements
  std::shared_ptr<PeerMemory> data_;           // layout_
  std::shared_ptr<PeerMemory> rows_;           // [tokens, H] of each rank
  std::shared_ptr<PeerMemory> previous_rows_;  // what HomeRows gave before rows_ grew
  std::optional<PeerFlags> flags_;
  PeerCapacity capacity_;
  PeerLayout layout_;
  int64_t sequence_ = 0;
  // Of the last Plan.
  std::vector<PlanHeader> headers_;                     // [R, R] by source, then destination
  std::vector<int64_t> num_tokens_;                     // [R]
  std::vector<PlanHeader> my_headers_;                  // [R] by source, for this rank
  std::vector<int64_t> row_counts_, selection_counts_;  // [R] to this rank
  std::vector<WireSelection> recv_selections_;
  std::vector<int32_t> arrival_location_, row_location_;  // [rows], [selections]
  // Of the last Dispatch and Combine.
  std::vector<int32_t> selection_location_, combine_location_;  // [n]
  const std::vector<int64_t> all_;                              // [R] whom to wait for: one thing of everybody
  std::vector<int64_t> sources_, destinations_;                 // [R] rows from, outputs from
  std::vector<int32_t> every_token_;                            // 0, 1, ..
  GrowingBuffer narrow_rows_{MemoryKind::kDevice, "exchange: quantised rows"};
  GrowingBuffer token_idx_{MemoryKind::kDevice, "exchange: tokens in order"};
  GrowingBuffer combine_offsets_{MemoryKind::kDevice, "exchange: combine offsets"};
  GrowingBuffer combine_row_{MemoryKind::kDevice, "exchange: combine order"};
  GrowingBuffer combine_k_{MemoryKind::kDevice, "exchange: combine weights' positions"};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Exchange>> CreatePeerExchange(Transport& transport, Device& device,
                                                             const ExchangeOptions& options) {
  absl::Status status;
  if (device.kind() != DeviceKind::kCpu) {
    status = absl::FailedPreconditionError(
        absl::StrCat("exchange: path peer shares host memory, which ", device.ToString(), " does not compute on"));
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, kStart, status));
  auto exchange = std::make_unique<PeerExchange>(transport, device, options);
  status = exchange->Start();
  if (IsAgreedOn(status)) return status;
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, kStart, status));
  return exchange;
}

}  // namespace tokenferry
