// Who may write what when, of the memory that a host's ranks share. Exchanges of one object are numbered n = 1, 2, ..
// All ranks pass through Plan n, Dispatch n, Combine n in order, and each synchronizes its stream before it raises a
// flag, so that what it has launched is complete then.
//  * What a rank tells the others of Plan n is read in their Plan n. It lies in one of two places, by the parity of n:
//    it is overwritten in Plan n + 2, after Plan n + 1 in which the rank has seen the plan flag n + 1 of all ranks of
//    its host, which they raised after their Plan n.
//  * Rows that a rank serves, and outputs of its experts, of n are read by the others until they raise their plan flag
//    n + 1. They are overwritten after Plan n + 1, in which the rank has waited for those. What a GPU has pulled of
//    them is its own alone, and its stream's.
#include "comm/exchange/two_level/two_level_exchange.h"

#include <algorithm>
#include <array>
#include <optional>

#include "comm/exchange/path/exchange_rows.h"
#include "comm/exchange/two_level/two_level_memory.h"
#include "comm/exchange/two_level/two_level_state.h"
#include "comm/ops/copy_rows.h"
#include "comm/ops/exchange_ops.h"
#include "comm/ops/row_codec_ops.h"
#include "comm/peer/peer_flags.h"
#include "comm/peer/peer_memory.h"
#include "comm/plan/exchange_planner.h"
#include "comm/transport/collectives.h"
#include "core/device/growing_buffer.h"
#include "core/round_up.h"

namespace tokenferry {
namespace {

const std::vector<float> kOne = {1.0f};  // the weight of a host's sum

class TwoLevelMover : public PathMover {
 public:
  explicit TwoLevelMover(const PathContext& context)
      : transport_(context.transport),
        device_(context.device),
        options_(context.options),
        stats_(context.stats),
        rank_(transport_.rank().value),
        num_ranks_(transport_.num_ranks()),
        wire_row_bytes_(RowBytes(options_.wire_dtype, options_.hidden)),
        out_bytes_(options_.hidden * DTypeBytes(options_.output_dtype)),
        routes_(TwoLevelRoutes::Make(context.topology, transport_.rank())),
        planner_(transport_, options_.formats()),
        rows_(device_, options_),
        wire_rows_(transport_.memory_kind(), "exchange: rows for hosts"),
        narrow_rows_(transport_.memory_kind(), "exchange: quantised rows for this host"),
        back_send_(transport_.memory_kind(), "exchange: outputs to send back"),
        home_sums_(transport_.memory_kind(), "exchange: sums of hosts"),
        weight_send_(transport_.memory_kind(), "exchange: weights for hosts"),
        weight_recv_(transport_.memory_kind(), "exchange: weights for this host"),
        on_host_(num_ranks_),
        wanted_(num_ranks_),
        send_bytes_(num_ranks_ + 1),
        recv_bytes_(num_ranks_ + 1) {
    for (int r : routes_.ranks) on_host_[r] = 1;
  }

  // Collective.
  absl::Status Start(const PathContext& context, TwoLevelRows kept_in) {
    const int64_t row_bytes = RowBytes(options_.resident_dtype(), options_.hidden);
    TF_ASSIGN_OR_RETURN(layout_, MakeTwoLevelLayout(num_ranks_, row_bytes, out_bytes_));
    TF_ASSIGN_OR_RETURN(shared_, transport_.peers().Reserve(kStartTwoLevel, layout_.bytes_per_rank));
    flags_.emplace(transport_.peers(), *shared_);
    // Flags must be there before anybody polls them; the rest is taken when a plan needs it.
    TF_RETURN_IF_ERROR(AgreeOnStatus(transport_, kStartTwoLevel, shared_->Take(rank_, 0, PeerFlags::kBytesPerRank)));
    if (kept_in == TwoLevelRows::kHostMemory) {
      memory_ = CreateHostTwoLevelMemory(context, *shared_, layout_);
      return absl::OkStatus();
    }
    TF_ASSIGN_OR_RETURN(memory_, CreateDeviceTwoLevelMemory(context, routes_, layout_));
    return absl::OkStatus();
  }

  absl::StatusOr<FloatMatrix> HomeRows(int64_t num_tokens) override { return rows_.Home(num_tokens); }

  absl::Status Plan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                    int64_t) override {
    plan_.rank = transport_.rank();
    const absl::Status send_status = planner_.PlanHome(stream, routing, placement, plan_.send);
    state_.Clear(num_ranks_);
    if (send_status.ok()) BuildHostPlan(plan_.send, routes_.hosts, state_.host);
    TF_RETURN_IF_ERROR(
        planner_.Swap(transport_, site, send_status, state_.host.told, placement, RowsFor::kThisHost, plan_.recv));
    state_.PlanRows(routes_, plan_.recv);
    PlanParts();
    const CallSite forwards = At(site, "plan forwards");
    TF_RETURN_IF_ERROR(Publish(forwards, placement));
    TF_RETURN_IF_ERROR(Annotate(state_.LocateRows(routes_, plan_.recv, layout_.rows_per_rank), forwards));
    const int64_t stride = layout_.outputs_per_rank;
    return Annotate(reduces() ? state_.PlanSums(routes_, plan_.send, stride, out_bytes_)
                              : state_.PlanOutputs(routes_, plan_.send, stride, out_bytes_),
                    forwards);
  }

  const ExchangePlan* host_plan() const override { return &plan_; }

  absl::Status BeginDispatch(Stream& stream, const CallSite& caller, ConstFloatMatrix home_rows) override {
    const CallSite site = At(caller, "dispatch rows");
    const std::vector<int32_t>& own_token = state_.host.row_token[routes_.my_host];
    const int64_t num_own = static_cast<int64_t>(own_token.size());
    TF_RETURN_IF_ERROR(wire_rows_.Reserve(device_, state_.rows.send.back() * wire_row_bytes_));
    if (IsQuantised(options_.wire_dtype)) {
      TF_RETURN_IF_ERROR(narrow_rows_.Reserve(device_, NumServedRows() * wire_row_bytes_));
    }
    TF_RETURN_IF_ERROR(wire_token_.Upload(stream, state_.wire_token));
    TF_RETURN_IF_ERROR(own_token_.Upload(stream, own_token));
    const auto pack = [&](int64_t i, int64_t n) {
      rows_.Pack(stream, home_rows, wire_token_.as<int32_t>() + i, n,
                 static_cast<char*>(wire_rows_.data()) + i * wire_row_bytes_);
    };
    TF_RETURN_IF_ERROR(StartParts(stream, site, state_.rows, wire_row_bytes_, state_.num_row_parts, wire_rows_.data(),
                                  arrives(), stats_.dispatch_bytes_per_rank, pack));
    char* const own = arrives() + state_.rows.recv.back() * wire_row_bytes_;
    InSlices(num_own, [&](int64_t i, int64_t n) {
      rows_.Pack(stream, home_rows, own_token_.as<int32_t>() + i, n, own + i * wire_row_bytes_);
    });
    for (int r = 0; r < num_ranks_; ++r) {
      stats_.dispatch_rows_per_rank[r] += state_.rows.send[r + 1] - state_.rows.send[r];
    }
    stats_.dispatch_rows_per_rank[rank_] += num_own;
    stats_.dispatch_bytes_per_rank[rank_] += num_own * wire_row_bytes_;
    return absl::OkStatus();
  }

  absl::StatusOr<ExpertRows> FinishDispatch(Stream& stream, const CallSite& caller) override {
    for (int p = 0; p < state_.num_row_parts; ++p) TF_RETURN_IF_ERROR(transport_.Finish(stream, parts_[p]));
    if (IsQuantised(options_.wire_dtype)) {
      stream.Launch(kWidenRows, {narrow_rows_.data(), options_.wire_dtype, NumServedRows(), options_.hidden,
                                 memory_->rows(), options_.expert_dtype});
    }
    const CallSite forward = At(caller, "forward rows");
    TF_RETURN_IF_ERROR(Annotate(stream.Synchronize(), forward));
    TF_RETURN_IF_ERROR(transport_.EnterPhase(forward));
    flags_->Raise(PeerSignal::kRows, sequence_);
    for (size_t m = 0; m < routes_.ranks.size(); ++m) wanted_[routes_.ranks[m]] = state_.published[m].num_rows;
    TF_RETURN_IF_ERROR(flags_->Wait(forward, PeerSignal::kRows, sequence_, wanted_));
    const auto rows = memory_->ReadRows(stream, NumServedRows(), state_.row_location);
    TF_RETURN_IF_ERROR(Annotate(rows.status(), forward));
    return rows_.ForExperts(stream, plan_.recv, rows->first, state_.row_location);
  }

  absl::StatusOr<FloatMatrix> ExpertOut() override {
    return FloatMatrix(memory_->outputs(), options_.output_dtype, plan_.num_recv_selections(), options_.hidden);
  }

  absl::Status BeginCombine(Stream& stream, const CallSite& caller) override {
    const CallSite site = At(caller, "combine inside");
    TF_RETURN_IF_ERROR(Annotate(stream.Synchronize(), site));  // the experts are done
    TF_RETURN_IF_ERROR(transport_.EnterPhase(site));
    flags_->Raise(PeerSignal::kOutputs, sequence_);
    return absl::OkStatus();
  }

  absl::Status FinishCombine(Stream& stream, const CallSite& caller, MatrixView<const float> weight,
                             MatrixView<float> out) override {
    if (reduces()) TF_RETURN_IF_ERROR(SendWeights(stream, At(caller, "combine weights"), plan_.send, weight));
    for (size_t d = 0; d < routes_.ranks.size(); ++d) {
      wanted_[routes_.ranks[d]] = state_.published[d].selection_offsets.back();
    }
    const CallSite inside = At(caller, "combine inside");
    TF_RETURN_IF_ERROR(flags_->Wait(inside, PeerSignal::kOutputs, sequence_, wanted_));
    TF_RETURN_IF_ERROR(Annotate(ReadOutputs(stream), inside));
    TF_RETURN_IF_ERROR(back_send_.Reserve(device_, state_.back.send.back() * out_bytes_));
    const CallSite rows = At(caller, "combine rows");
    return reduces() ? ReturnSums(stream, rows, out) : ReturnOutputs(stream, rows, plan_.send, weight, out);
  }

 private:
  bool reduces() const { return options_.reduction == Reduction::kNode; }

  // Of this host, those that are to be sent back or summed here; and what comes back to this rank lies among them.
  absl::Status ReadOutputs(Stream& stream) {
    std::vector<int32_t>* const read[] = {&state_.sums.output, &state_.combine_output};
    TF_ASSIGN_OR_RETURN(const TwoLevelMemory::Items items, memory_->ReadOutputs(stream, NumOwnOutputs(), read));
    outputs_ = {items.first, options_.output_dtype, items.num, options_.hidden};
    return absl::OkStatus();
  }

  // From what all ranks know: no host gets more rows from a rank than any has tokens.
  void PlanParts() {
    constexpr int kUsualTopK = 8;  // a wrong guess makes parts larger or smaller
    const int64_t top_k = options_.max_top_k > 0 ? options_.max_top_k : kUsualTopK;
    const int64_t most_tokens = planner_.most_tokens();
    state_.num_row_parts = NumParts(most_tokens * wire_row_bytes_, kTwoLevelParts);
    state_.num_back_parts = NumParts(most_tokens * (reduces() ? 1 : top_k) * out_bytes_, kTwoLevelParts);
  }

  int64_t NumServedRows() const { return state_.rows.recv.back() + state_.row_counts[rank_]; }
  // Of this rank's experts, and what comes back.
  int64_t NumOwnOutputs() const {
    return plan_.num_recv_selections() + (reduces() ? 0 : routes_.NumSentAway(plan_.send));
  }

  // Tells the ranks of this host what their servers need to know, and reads what they tell.
  absl::Status Publish(const CallSite& site, const Placement& placement) {
    const int64_t published_bytes = PublishedPlan::NumBytes(num_ranks_, plan_.num_recv_selections());
    const int64_t num_outputs = NumOwnOutputs();
    if (std::max({NumServedRows(), num_outputs}) > layout_.max_items) {
      return absl::ResourceExhaustedError(absl::StrCat(
          ToString(site), ": rank ", rank_, " would serve ", NumServedRows(), " rows and hold ", num_outputs,
          " outputs, more than the ", layout_.max_items, " that there are addresses for; choose path alltoallv"));
    }
    const int parity = static_cast<int>(++sequence_ % 2);
    const int64_t published = layout_.published[parity];
    if (int64_t& taken = taken_published_[parity]; published_bytes > taken) {
      TF_RETURN_IF_ERROR(Annotate(shared_->Take(rank_, published, published_bytes), site));
      taken = published_bytes;
    }
    TF_RETURN_IF_ERROR(Annotate(memory_->Take(NumServedRows(), num_outputs), site));
    CountSharedBytes();
    PublishedPlan::Write(NumServedRows(), plan_.recv, planner_.recv_selections(),
                         placement.local_experts(RankId(rank_)), shared_->part(rank_) + published);
    TF_RETURN_IF_ERROR(transport_.EnterPhase(site));
    flags_->Raise(PeerSignal::kPlan, sequence_);
    TF_RETURN_IF_ERROR(flags_->Wait(site, PeerSignal::kPlan, sequence_, on_host_));
    for (int r : routes_.ranks) {
      auto theirs = PublishedPlan::Read(shared_->part(r) + published, r, num_ranks_, layout_);
      if (!theirs.ok()) return Annotate(theirs.status(), site);
      state_.published.push_back(*std::move(theirs));
    }
    return absl::OkStatus();
  }

  void CountSharedBytes() {
    int64_t num_bytes = memory_->shared_bytes();
    for (int64_t taken : {int64_t{PeerFlags::kBytesPerRank}, taken_published_[0], taken_published_[1]}) {
      num_bytes += RoundUp(taken, kPage);
    }
    stats_.peak_peer_bytes = num_bytes;  // taken memory is kept
  }

  // Transfers items of `num_bytes` each, in parts: pack(i, n) makes items [i, i + n) of `send`, and they leave while
  // the next are made.
  template <class Pack>
  absl::Status StartParts(Stream& stream, const CallSite& site, const MessageOffsets& items, int64_t num_bytes,
                          int num_parts, const void* send, void* recv, std::vector<int64_t>& stats, Pack pack) {
    ScaleOffsets(items.send, num_bytes, send_bytes_);
    ScaleOffsets(items.recv, num_bytes, recv_bytes_);
    for (int r = 0; r < num_ranks_; ++r) stats[r] += send_bytes_[r + 1] - send_bytes_[r];
    for (int p = 0; p < num_parts; ++p) {
      for (int r = 0; r < num_ranks_; ++r) {
        const RowRange rows = RowsOfPart(items.send[r + 1] - items.send[r], num_bytes, p, num_parts);
        if (rows.end == rows.begin) continue;
        pack(items.send[r] + rows.begin, rows.end - rows.begin);
        transport_.Progress();
      }
      TF_ASSIGN_OR_RETURN(
          parts_[p], transport_.Begin(stream, site, {send, send_bytes_, recv, recv_bytes_, num_bytes, p, num_parts}));
    }
    return absl::OkStatus();
  }

  // work(i, n) on items [i, i + n), while parts are under way. A GPU works by itself, and is given all at once.
  template <class Work>
  void InSlices(int64_t num_items, Work work) {
    constexpr int64_t kSlice = 32;
    const int64_t slice = device_.kind() == DeviceKind::kCpu ? kSlice : std::max<int64_t>(num_items, 1);
    for (int64_t i = 0; i < num_items; i += slice) {
      work(i, std::min(slice, num_items - i));
      transport_.Progress();
    }
  }

  // Where rows arrive: where experts read them, unless they have to be widened first.
  char* arrives() const {
    return IsQuantised(options_.wire_dtype) ? static_cast<char*>(narrow_rows_.data()) : memory_->rows();
  }

  absl::Status ReturnOutputs(Stream& stream, const CallSite& site, const SendPlan& send, MatrixView<const float> weight,
                             MatrixView<float> out) {
    TF_RETURN_IF_ERROR(output_.Upload(stream, state_.sums.output));
    TF_RETURN_IF_ERROR(offsets_.Upload(stream, send.combine_offsets));
    TF_RETURN_IF_ERROR(selection_.Upload(stream, state_.combine_output));
    TF_RETURN_IF_ERROR(k_.Upload(stream, send.combine_k));
    const auto pack = [&](int64_t i, int64_t n) {
      stream.Launch(kCopyRows, {outputs_.data, output_.as<int32_t>() + i, n, out_bytes_, BackSend(i)});
    };
    char* const returned = memory_->outputs() + state_.num_own_outputs * out_bytes_;
    TF_RETURN_IF_ERROR(StartParts(stream, site, state_.back, out_bytes_, state_.num_back_parts, back_send_.data(),
                                  returned, stats_.combine_bytes_per_rank, pack));
    return SumAtHome(stream, outputs_, weight, out);
  }

  absl::Status ReturnSums(Stream& stream, const CallSite& site, MatrixView<float> out) {
    const int64_t num_back = state_.back.recv.back(), num_own = state_.row_counts[rank_];
    TF_RETURN_IF_ERROR(home_sums_.Reserve(device_, (num_back + num_own) * out_bytes_));
    char* const home = static_cast<char*>(home_sums_.data());
    TF_RETURN_IF_ERROR(sum_offsets_.Upload(stream, state_.sums.offsets));
    TF_RETURN_IF_ERROR(output_.Upload(stream, state_.sums.output));
    TF_RETURN_IF_ERROR(sum_k_.Upload(stream, state_.sums.position));
    const auto sum = [&](int64_t i, int64_t n) { Sum(stream, i, n, BackSend(i)); };
    TF_RETURN_IF_ERROR(StartParts(stream, site, state_.back, out_bytes_, state_.num_back_parts, back_send_.data(), home,
                                  stats_.combine_bytes_per_rank, sum));
    InSlices(num_own, [&](int64_t i, int64_t n) {
      Sum(stream, state_.back.send.back() + i, n, home + (num_back + i) * out_bytes_);
    });
    TF_RETURN_IF_ERROR(offsets_.Upload(stream, state_.home_offsets));
    TF_RETURN_IF_ERROR(selection_.Upload(stream, state_.home_row));
    TF_RETURN_IF_ERROR(k_.Upload(stream, state_.home_k));
    TF_RETURN_IF_ERROR(one_.Upload(stream, kOne));
    return SumAtHome(stream, ConstFloatMatrix(home, options_.output_dtype, num_back + num_own, options_.hidden),
                     {one_.as<float>(), out.rows, 1, 0}, out);
  }

  // Each part that has come completes some tokens.
  absl::Status SumAtHome(Stream& stream, ConstFloatMatrix items, MatrixView<const float> weight,
                         MatrixView<float> out) {
    int64_t begin = 0;
    for (int p = 0; p < state_.num_back_parts; ++p) {
      TF_RETURN_IF_ERROR(transport_.Finish(stream, parts_[p]));
      const int64_t n = state_.tokens_ready[p] - begin;
      if (n == 0) continue;
      stream.Launch(kCombineRows, {items, offsets_.as<int64_t>() + begin, selection_.as<int32_t>(), k_.as<int32_t>(),
                                   MatrixView<const float>{weight.row(begin), n, weight.cols, weight.stride},
                                   MatrixView<float>{out.row(begin), n, out.cols, out.stride}});
      begin += n;
    }
    return absl::OkStatus();
  }

  char* BackSend(int64_t item) const { return static_cast<char*>(back_send_.data()) + item * out_bytes_; }

  // The sums of rows [begin, begin + num_rows) of those that this rank serves.
  void Sum(Stream& stream, int64_t begin, int64_t num_rows, void* out) {
    // Weights lie side by side, in the order of positions: a matrix whose rows all begin at the same place.
    stream.Launch(kCombineRows, {outputs_,
                                 sum_offsets_.as<int64_t>() + begin,
                                 output_.as<int32_t>(),
                                 sum_k_.as<int32_t>(),
                                 {weight_recv_.as<float>(), num_rows, 1, 0},
                                 FloatMatrix(out, options_.output_dtype, num_rows, options_.hidden)});
  }

  absl::Status SendWeights(Stream& stream, const CallSite& site, const SendPlan& send, MatrixView<const float> weight) {
    state_.PlanWeights(routes_, send, weight.stride);
    const MessageOffsets& weights = state_.weights;
    constexpr auto kBytes = static_cast<int64_t>(sizeof(float));
    TF_RETURN_IF_ERROR(weight_send_.Reserve(device_, weights.send.back() * kBytes));
    TF_RETURN_IF_ERROR(weight_recv_.Reserve(device_, weights.recv.back() * kBytes));
    TF_RETURN_IF_ERROR(weight_idx_.Upload(stream, state_.weight_idx));
    stream.Launch(kCopyRows,
                  {weight.data, weight_idx_.as<int32_t>(), weights.send.back(), kBytes, weight_send_.data()});
    ScaleOffsets(weights.send, kBytes, send_bytes_);
    ScaleOffsets(weights.recv, kBytes, recv_bytes_);
    for (int r = 0; r < num_ranks_; ++r) stats_.combine_bytes_per_rank[r] += send_bytes_[r + 1] - send_bytes_[r];
    return transport_.AllToAllV(stream, site,
                                {weight_send_.data(), send_bytes_, weight_recv_.data(), recv_bytes_, kBytes});
  }

  Transport& transport_;
  Device& device_;
  const ExchangeOptions& options_;
  ExchangeStats& stats_;
  const int rank_, num_ranks_;
  const int64_t wire_row_bytes_;  // of a dispatched row on its way
  const int64_t out_bytes_;       // of an expert output
  const TwoLevelRoutes routes_;
  ExchangePlanner planner_;
  ExchangePlan plan_;
  ExchangeRows rows_;
  TwoLevelLayout layout_;
  std::shared_ptr<PeerMemory> shared_;
  std::optional<PeerFlags> flags_;
  std::unique_ptr<TwoLevelMemory> memory_;
  int64_t sequence_ = 0;
  int64_t taken_published_[2] = {};  // bytes of this rank's part of `shared_`
  ConstFloatMatrix outputs_;         // what the indices of the state's outputs mean, from ReadOutputs on
  GrowingBuffer wire_rows_, narrow_rows_, back_send_, home_sums_, weight_send_, weight_recv_;
  GrowingBuffer wire_token_{MemoryKind::kDevice, "exchange: token of each row"};
  GrowingBuffer own_token_{MemoryKind::kDevice, "exchange: token of each row for this host"};
  GrowingBuffer output_{MemoryKind::kDevice, "exchange: outputs of each source"};
  GrowingBuffer sum_offsets_{MemoryKind::kDevice, "exchange: outputs of each sum"};
  GrowingBuffer sum_k_{MemoryKind::kDevice, "exchange: weights of each sum"};
  GrowingBuffer offsets_{MemoryKind::kDevice, "exchange: combine offsets"};
  GrowingBuffer selection_{MemoryKind::kDevice, "exchange: combine order"};
  GrowingBuffer k_{MemoryKind::kDevice, "exchange: combine weights' positions"};
  GrowingBuffer weight_idx_{MemoryKind::kDevice, "exchange: weights to send, indices"};
  GrowingBuffer one_{MemoryKind::kDevice, "exchange: 1"};
  TwoLevelState state_;  // of the last Plan
  std::array<TransferHandle, kTwoLevelParts> parts_;
  std::vector<int64_t> on_host_;                  // [R] 1 for ranks of this host
  std::vector<int64_t> wanted_;                   // [R] rows or outputs that a flag stands for
  std::vector<int64_t> send_bytes_, recv_bytes_;  // [R + 1]
};

}  // namespace

absl::StatusOr<std::unique_ptr<PathMover>> CreateTwoLevelMover(const PathContext& context, TwoLevelRows kept_in) {
  auto mover = std::make_unique<TwoLevelMover>(context);
  const absl::Status status = mover->Start(context, kept_in);
  if (IsAgreedOn(status)) return status;
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kStartTwoLevel, status));
  return mover;
}

}  // namespace tokenferry
