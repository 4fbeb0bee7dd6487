// Who may write when. Exchanges are numbered; all ranks enqueue Plan, Dispatch, Combine of n, then of n + 1, on one
// stream each. Two flags per exchange, and a rank waits for those of all ranks, so that memory needs no second place:
//  * The plan and the rows of n are read by others between their wait for kRows of n and their kOutputs of n. They are
//    written for n + 1 after Combine n, which waited for the kOutputs of all.
//  * Outputs of n, and where each one lies, are read by homes in Combine n, which comes before their kRows of n + 1.
//    They are written for n + 1 after FinishDispatch n + 1, which waited for the kRows of all.
#include "comm/exchange/peer/device_peer_exchange.h"

#include <algorithm>

#include "comm/exchange/path/exchange_rows.h"
#include "comm/exchange/peer/device_peer_memory.h"
#include "comm/exchange/peer/device_peer_watch.h"
#include "comm/ops/row_codec_ops.h"
#include "comm/plan/exchange_planner.h"
#include "comm/transport/collectives.h"
#include "core/check.h"

namespace tokenferry {
namespace {

class DevicePeerMover : public PathMover {
 public:
  explicit DevicePeerMover(const PathContext& context)
      : transport_(context.transport),
        device_(context.device),
        options_(context.options),
        rank_(transport_.rank().value),
        num_ranks_(transport_.num_ranks()),
        row_bytes_(RowBytes(options_.wire_dtype, options_.hidden)),
        out_bytes_(RowBytes(options_.output_dtype, options_.hidden)),
        rows_(device_, options_),
        watch_(transport_.peers()) {}

  // Collective; the same status on every rank.
  absl::Status Start() {
    TF_RETURN_IF_ERROR(AgreeOnCapacity());
    layout_ = DevicePeerLayout::For(capacity_, row_bytes_, out_bytes_);
    std::unique_ptr<Stream> stream;
    TF_RETURN_IF_ERROR(AgreeOnStatus(transport_, kStartDevicePeer, Allocate(stream)));
    TF_ASSIGN_OR_RETURN(memory_, DevicePeerMemory::Create(transport_, device_, *stream, capacity_, layout_));
    group_ = {memory_->parts(), rank_, num_ranks_, words_.as<int64_t>(), words_.as<int32_t>() + 2};
    // Freeing waits for everything on a GPU. Where ranks share one, that may be a wait for this rank: so all free
    // first.
    stream.reset();
    return Barrier(transport_, kStartDevicePeer);
  }

  absl::StatusOr<FloatMatrix> HomeRows(int64_t num_tokens) override {
    // Quantised rows are not read as home has them.
    if (IsQuantised(options_.wire_dtype) || num_tokens > capacity_.tokens) return rows_.Home(num_tokens);
    return FloatMatrix(memory_->mine<char>(layout_.rows), options_.wire_dtype, num_tokens, options_.hidden);
  }

  absl::Status Plan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                    int64_t most_tokens) override {
    const MatrixView<int32_t>& experts = routing.expert_idx;
    if (experts.rows > capacity_.tokens || most_tokens > capacity_.tokens || experts.cols > capacity_.top_k) {
      return absl::ResourceExhaustedError(absl::StrCat(
          ToString(At(site, "plan")), ": rank ", rank_, ": an exchange of ", std::max(experts.rows, most_tokens),
          " tokens with top-", experts.cols, " is larger than the ", capacity_.tokens, " tokens with top-",
          capacity_.top_k, " that path peer was created for on ", device_.ToString()));
    }
    TF_RETURN_IF_ERROR(UsePlacement(stream, At(site, "plan"), placement));
    TF_RETURN_IF_ERROR(transport_.EnterPhase(At(site, "plan selections")));
    watch_.Watch(stream);
    num_tokens_ = experts.rows;
    most_tokens_ = most_tokens > 0 ? most_tokens : capacity_.tokens;
    // If experts are chosen evenly, as many arrive as a rank sends.
    expected_selections_ = (most_tokens > 0 ? most_tokens : num_tokens_) * experts.cols;
    PlanSendArgs args;
    args.expert_idx = experts;
    args.location = routing.location;
    args.placement = placement_.view();
    args.plan = send_;
    args.scratch = locations_.as<int32_t>();
    args.fault = watch_.fault();
    args.counters = counters_;
    stream.Launch(kPlanSend, args);
    return absl::OkStatus();
  }

  const ExchangePlan* host_plan() const override { return nullptr; }

  absl::Status BeginDispatch(Stream& stream, const CallSite& site, ConstFloatMatrix home_rows) override {
    char* const rows = memory_->mine<char>(layout_.rows);
    if (home_rows.data != rows) {
      rows_.Pack(stream, home_rows, every_token_.as<int32_t>(), num_tokens_, rows);
    } else {
      TF_CHECK(home_rows.dtype == options_.wire_dtype && home_rows.stride == options_.hidden);
    }
    TF_RETURN_IF_ERROR(transport_.EnterPhase(At(site, "dispatch rows")));
    stream.Launch(kRaiseFlags, {group_, PeerStage::kRows});
    return absl::OkStatus();
  }

  absl::StatusOr<ExpertRows> FinishDispatch(Stream& stream, const CallSite& site) override {
    Await(stream, site, PeerStage::kRows);
    PlanRecvArgs args;
    args.sources = memory_->sources();
    args.rank = rank_;
    args.num_ranks = num_ranks_;
    args.num_slots = num_slots_;
    args.max_rows = max_rows();
    args.max_selections = max_selections();
    args.nothing_came = group_.gave_up;
    args.plan = recv_;
    args.plan.slot_offsets = slot_offsets_.as<int64_t>();
    args.scratch = arrived_.as<WireSelection>();
    args.fault = watch_.fault();
    args.counters = counters_;
    stream.Launch(kPlanRecv, args);
    stream.Launch(kPullRows, {group_, recv_.row_offsets, row_bytes_, max_rows(), pulled_rows_.as<char>()});
    TF_ASSIGN_OR_RETURN(const void* rows,
                        rows_.Widen(stream, pulled_rows_.data(), max_rows(), recv_.row_offsets + num_ranks_));
    return ExpertRows{.rows = rows,
                      .dtype = options_.resident_dtype(),
                      .hidden = options_.hidden,
                      .row_stride = options_.hidden,
                      .row_idx = recv_.row_idx,
                      .slot_offsets = slot_offsets_.as<int64_t>(),
                      .max_selections = max_selections(),
                      .expected_selections = std::min(expected_selections_, max_selections())};
  }

  absl::StatusOr<FloatMatrix> ExpertOut() override {
    return FloatMatrix(memory_->mine<char>(layout_.outputs), options_.output_dtype, max_selections(), options_.hidden);
  }

  absl::Status BeginCombine(Stream& stream, const CallSite& site) override {
    TF_RETURN_IF_ERROR(transport_.EnterPhase(At(site, "combine rows")));
    stream.Launch(kRaiseFlags, {group_, PeerStage::kOutputs});
    return absl::OkStatus();
  }

  absl::Status FinishCombine(Stream& stream, const CallSite& site, MatrixView<const float> weight,
                             MatrixView<float> out) override {
    Await(stream, site, PeerStage::kOutputs);
    stream.Launch(kCombinePeers, {group_, options_.output_dtype, send_.selection_offsets, send_.combine_offsets,
                                  send_.combine_selection, send_.combine_k, weight, out});
    return absl::OkStatus();
  }

  absl::Status AddDeviceStats(Stream& stream, ExchangeStats& stats) const override {
    std::vector<int64_t> counted(num_counters());
    stream.CopyToHost(counted.data(), counters_.num_exchanges, counted.size() * sizeof(int64_t));
    TF_RETURN_IF_ERROR(stream.Synchronize());
    stats.num_exchanges += counted[0];
    stats.num_tokens += counted[1];
    stats.num_selections += counted[2];
    stats.bases.selection += counted[2];
    stats.bases.node += counted[1];  // on one host: a row per token
    for (int r = 0; r < num_ranks_; ++r) {
      const int64_t *rows = &counted[3], *returned = rows + num_ranks_, *wait_ns = returned + num_ranks_;
      stats.dispatch_rows_per_rank[r] += rows[r];
      stats.dispatch_bytes_per_rank[r] += rows[r] * row_bytes_;
      stats.combine_bytes_per_rank[r] += returned[r] * out_bytes_;
      stats.bases.rank += rows[r];
      stats.wait_seconds_per_rank[r] += static_cast<double>(wait_ns[r]) * 1e-9;
    }
    return absl::OkStatus();
  }

 private:
  int64_t max_rows() const { return num_ranks_ * most_tokens_; }
  int64_t max_selections() const { return max_rows() * std::min<int64_t>(capacity_.top_k, num_slots_); }
  size_t num_counters() const { return 3 + 3 * static_cast<size_t>(num_ranks_); }

  absl::Status AgreeOnCapacity() {
    TF_ASSIGN_OR_RETURN(capacity_, AgreeOnDeviceCapacity(transport_, kStartDevicePeer, options_));
    const DevicePeerLayout layout = DevicePeerLayout::For(capacity_, row_bytes_, out_bytes_);
    absl::Status status;
    if (options_.max_peer_bytes > 0 && layout.num_bytes > options_.max_peer_bytes) {
      status = absl::ResourceExhaustedError(absl::StrCat("exchange: path peer for ", capacity_.tokens, " tokens needs ",
                                                         layout.num_bytes, " bytes per rank, more than the ",
                                                         options_.max_peer_bytes, " allowed"));
    }
    return AgreeOnStatus(transport_, kStartDevicePeer, status);
  }

  absl::Status Allocate(std::unique_ptr<Stream>& stream) {
    const int64_t tokens = capacity_.tokens, sent = capacity_.send_selections(), received = capacity_.recv_selections();
    const int64_t word = sizeof(int64_t), idx = sizeof(int32_t);
    const auto allocate = [&](Buffer& buffer, int64_t num_bytes, const char* label) -> absl::Status {
      TF_ASSIGN_OR_RETURN(buffer, device_.Allocate(num_bytes, MemoryKind::kDevice, label));
      return absl::OkStatus();
    };
    TF_RETURN_IF_ERROR(watch_.Allocate(device_));
    TF_RETURN_IF_ERROR(allocate(words_, 2 * word + static_cast<int64_t>(num_counters()) * word, "exchange: counters"));
    TF_RETURN_IF_ERROR(allocate(every_token_, tokens * idx, "exchange: tokens in order"));
    TF_RETURN_IF_ERROR(allocate(locations_, sent * idx, "exchange: locations of selections"));
    TF_RETURN_IF_ERROR(allocate(combine_offsets_, (tokens + 1) * word, "exchange: combine offsets"));
    TF_RETURN_IF_ERROR(allocate(combine_selection_, sent * idx, "exchange: combine order"));
    TF_RETURN_IF_ERROR(allocate(combine_k_, sent * idx, "exchange: combine weights' positions"));
    TF_RETURN_IF_ERROR(allocate(row_offsets_, (num_ranks_ + 1) * word, "exchange: row offsets"));
    TF_RETURN_IF_ERROR(allocate(row_idx_, received * idx, "exchange: rows of selections"));
    TF_RETURN_IF_ERROR(
        allocate(arrived_, received * static_cast<int64_t>(sizeof(WireSelection)), "exchange: arrivals"));
    TF_RETURN_IF_ERROR(allocate(pulled_rows_, num_ranks_ * tokens * row_bytes_, "exchange: rows received"));
    TF_RETURN_IF_ERROR(rows_.Reserve(tokens, num_ranks_ * tokens));
    TF_ASSIGN_OR_RETURN(stream, device_.CreateStream());
    stream->Fill(words_.data(), 0, words_.num_bytes());
    std::vector<int32_t> every_token(tokens);
    for (int64_t t = 0; t < tokens; ++t) every_token[t] = static_cast<int32_t>(t);
    stream->CopyToDevice(every_token_.data(), every_token.data(), every_token_.num_bytes());
    return stream->Synchronize();
  }

  // Ranks change their placement in the same exchange: then, and only then, they compare it.
  absl::Status UsePlacement(Stream& stream, const CallSite& site, const Placement& placement) {
    if (placement_.Holds(placement, RankId(rank_))) return absl::OkStatus();
    if (placement.num_ranks() != num_ranks_) {
      return absl::InvalidArgumentError(
          absl::StrCat("placement is for ", placement.num_ranks(), " ranks, but there are ", num_ranks_));
    }
    const uint64_t digest = placement.Digest();
    TF_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                        AllGather(transport_, site, {reinterpret_cast<const char*>(&digest), sizeof(digest)}));
    for (int r = 0; r < num_ranks_; ++r) {
      if (all[r] == all[rank_]) continue;
      return absl::FailedPreconditionError(
          absl::StrCat(ToString(site), ": ranks ", rank_, " and ", r,
                       " disagree on the placement of experts; start all ranks with the "
                       "same model and options"));
    }
    num_slots_ = placement.num_local_slots(RankId(rank_));
    TF_RETURN_IF_ERROR(slot_offsets_.Reserve(device_, (num_slots_ + 1) * static_cast<int64_t>(sizeof(int64_t))));
    TF_RETURN_IF_ERROR(placement_.Set(stream, placement, RankId(rank_)));
    send_ = {memory_->mine<int64_t>(layout_.row_offsets),
             memory_->mine<int64_t>(layout_.selection_offsets),
             memory_->mine<int32_t>(layout_.row_token),
             memory_->mine<WireSelection>(layout_.selections),
             nullptr,
             nullptr,
             combine_offsets_.as<int64_t>(),
             combine_selection_.as<int32_t>(),
             combine_k_.as<int32_t>()};
    recv_ = {row_offsets_.as<int64_t>(), memory_->mine<int64_t>(layout_.recv_selection_offsets), nullptr,
             row_idx_.as<int32_t>(), memory_->mine<int32_t>(layout_.return_selection)};
    int64_t* const counters = words_.as<int64_t>() + 2;
    counters_ = {counters, counters + 1, counters + 2, counters + 3, counters + 3 + num_ranks_};
    return Barrier(transport_, site);  // as at start
  }

  void Await(Stream& stream, const CallSite& site, PeerStage stage) {
    stream.Launch(kAwaitFlags, {group_, stage, site.layer, site.step, absl::ToInt64Nanoseconds(transport_.timeout()),
                                watch_.report(), watch_.seen(), counters_.returned_per_rank + num_ranks_});
  }

  Transport& transport_;
  Device& device_;
  const ExchangeOptions& options_;
  const int rank_, num_ranks_;
  const int64_t row_bytes_;  // of a dispatched row
  const int64_t out_bytes_;  // of an expert output
  DeviceCapacity capacity_;
  DevicePeerLayout layout_ = {};
  std::unique_ptr<DevicePeerMemory> memory_;
  PeerGroupView group_;
  PlacementTables placement_;
  int32_t num_slots_ = 0;
  SendPlanArrays send_;
  RecvPlanArrays recv_;
  PlanCounters counters_;  // its arrays lie side by side, and behind them the nanoseconds of waits for each rank
  ExchangeRows rows_;
  DevicePeerWatch watch_;
  int64_t num_tokens_ = 0, most_tokens_ = 0, expected_selections_ = 0;  // of the last Plan
  Buffer words_;  // [2 + counters] int64: sequence, gave_up, then the counters
  Buffer every_token_, locations_, combine_offsets_, combine_selection_, combine_k_;
  Buffer row_offsets_, row_idx_, arrived_, pulled_rows_;
  GrowingBuffer slot_offsets_{MemoryKind::kDevice, "exchange: slot offsets"};
};

}  // namespace

absl::StatusOr<std::unique_ptr<PathMover>> CreateDevicePeerMover(const PathContext& context) {
  absl::Status status;
  if (context.topology.num_hosts() > 1) {
    status = absl::FailedPreconditionError("exchange: path peer is for the GPUs of one host, and there are " +
                                           context.topology.ToString());
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kStartDevicePeer, status));
  auto mover = std::make_unique<DevicePeerMover>(context);
  TF_RETURN_IF_ERROR(mover->Start());
  return mover;
}

}  // namespace tokenferry
