#include "comm/exchange/allgather/allgather_exchange.h"

#include <algorithm>
#include <numeric>

#include "comm/exchange/path/exchange_rows.h"
#include "comm/exchange/path/output_return.h"
#include "comm/ops/row_codec_ops.h"
#include "comm/plan/exchange_planner.h"
#include "core/device/growing_buffer.h"

namespace tokenferry {
namespace {

// The selections of one rank's tokens that this rank serves: f(token, slot), by token, then top-k position.
template <class F>
void ForEachServed(const GatheredRouting& routing, const Placement& placement, RankId me, F f) {
  const int32_t* idx = routing.location.data();
  for (int64_t t = 0; t < routing.num_tokens; ++t) {
    for (int k = 0; k < routing.top_k; ++k, ++idx) {
      if (*idx < 0) continue;
      const Placement::Location location = placement.location(*idx);
      if (location.rank == me) f(t, location.slot.value);
    }
  }
}

absl::Status CheckLocations(int rank, const GatheredRouting& routing, int32_t num_locations) {
  for (size_t i = 0; i < routing.location.size(); ++i) {
    const int32_t location = routing.location[i];
    if (location >= -1 && location < num_locations) continue;
    return absl::DataLossError(absl::StrCat("plan from rank ", rank, ": its token ", i / routing.top_k,
                                            " goes to location ", location,
                                            " of an expert, but the locations are 0 to ", num_locations - 1));
  }
  return absl::OkStatus();
}

class AllGatherMover : public PathMover {
 public:
  explicit AllGatherMover(const PathContext& context)
      : transport_(context.transport),
        device_(context.device),
        stats_(context.stats),
        row_bytes_(RowBytes(context.options.wire_dtype, context.options.hidden)),
        me_(transport_.rank().value),
        num_ranks_(transport_.num_ranks()),
        planner_(transport_, context.options.formats()),
        rows_(device_, context.options),
        output_return_(context),
        all_rows_(transport_.memory_kind(), "exchange: everybody's rows"),
        offsets_(num_ranks_ + 1),
        send_offsets_(num_ranks_ + 1),
        recv_offsets_(num_ranks_ + 1) {}

  absl::StatusOr<FloatMatrix> HomeRows(int64_t num_tokens) override { return rows_.Home(num_tokens); }

  absl::Status Plan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                    int64_t) override {
    plan_.rank = transport_.rank();
    const absl::Status send_status = planner_.PlanHome(stream, routing, placement, plan_.send);
    TF_RETURN_IF_ERROR(GatherHeaders(At(site, "plan counts"), send_status, plan_.send,
                                     static_cast<int>(routing.expert_idx.cols), placement));
    const CallSite selections = At(site, "plan selections");
    TF_RETURN_IF_ERROR(GatherLocations(selections, placement));
    return Annotate(BuildGatheredRecvPlan(gathered_, placement, plan_.rank, next_, plan_.recv), selections);
  }

  const ExchangePlan* host_plan() const override { return &plan_; }

  absl::Status BeginDispatch(Stream&, const CallSite&, ConstFloatMatrix home_rows) override {
    home_rows_ = home_rows;
    return absl::OkStatus();
  }

  absl::StatusOr<ExpertRows> FinishDispatch(Stream& stream, const CallSite& site) override {
    TF_RETURN_IF_ERROR(all_rows_.Reserve(device_, plan_.num_recv_rows() * row_bytes_));
    all_tokens_.resize(plan_.send.num_tokens);
    std::iota(all_tokens_.begin(), all_tokens_.end(), 0);
    TF_RETURN_IF_ERROR(token_.Upload(stream, all_tokens_));
    rows_.Pack(stream, home_rows_, token_.as<int32_t>(), plan_.send.num_tokens, all_rows_.data());
    const auto block_bytes = [&](int r) {
      return (plan_.recv.row_offsets[r + 1] - plan_.recv.row_offsets[r]) * row_bytes_;
    };
    const CallSite dispatch = At(site, "dispatch rows");
    TF_RETURN_IF_ERROR(GatherBlocks(block_bytes, all_rows_.data(), [&](const AllToAllVArgs& args, int dst) {
      stats_.dispatch_rows_per_rank[dst] += args.send_offsets.back() / row_bytes_;
      stats_.dispatch_bytes_per_rank[dst] += args.send_offsets.back();
      AllToAllVArgs rows = args;
      rows.row_bytes = row_bytes_;
      return transport_.AllToAllV(stream, dispatch, rows);
    }));
    TF_ASSIGN_OR_RETURN(const void* rows, rows_.Widen(stream, all_rows_.data(), plan_.num_recv_rows()));
    return rows_.ForExperts(stream, plan_.recv, rows, plan_.recv.row_idx);
  }

  absl::StatusOr<FloatMatrix> ExpertOut() override { return output_return_.ExpertOut(plan_); }

  absl::Status BeginCombine(Stream& stream, const CallSite& site) override {
    return output_return_.Begin(stream, site, plan_);
  }

  absl::Status FinishCombine(Stream& stream, const CallSite&, MatrixView<const float> weight,
                             MatrixView<float> out) override {
    return output_return_.Finish(stream, plan_, weight, out);
  }

 private:
  // Blocks of all ranks, in one buffer by increasing distance: this rank's own (already there), the next rank's, ..
  // move(args, destination) makes one transfer.
  template <class BlockBytes, class Move>
  absl::Status GatherBlocks(BlockBytes block_bytes, void* buffer, Move move) {
    offsets_[0] = 0;
    for (int i = 0; i < num_ranks_; ++i) offsets_[i + 1] = offsets_[i] + block_bytes((me_ + i) % num_ranks_);
    for (int distance = 1; distance < num_ranks_; distance *= 2) {
      const int num_blocks = std::min(distance, num_ranks_ - distance);
      const int dst = (me_ + num_ranks_ - distance) % num_ranks_, src = (me_ + distance) % num_ranks_;
      for (int r = 0; r <= num_ranks_; ++r) {
        send_offsets_[r] = r > dst ? offsets_[num_blocks] : 0;
        recv_offsets_[r] = r > src ? offsets_[distance + num_blocks] - offsets_[distance] : 0;
      }
      void* const arrives = static_cast<char*>(buffer) + offsets_[distance];
      TF_RETURN_IF_ERROR(move(AllToAllVArgs{buffer, send_offsets_, arrives, recv_offsets_}, dst));
    }
    return absl::OkStatus();
  }

  // headers_ [R] by rank, compared: num_rows is a rank's tokens, num_selections its top-k.
  absl::Status GatherHeaders(const CallSite& site, const absl::Status& send_status, const SendPlan& send, int top_k,
                             const Placement& placement) {
    PlanHeader mine = planner_.MakeHeaders(site, send_status, send, placement)[me_];
    mine.num_rows = send_status.ok() ? send.num_tokens : 0;
    mine.num_selections = send_status.ok() ? top_k : 0;
    headers_.resize(num_ranks_);  // by distance, then by rank
    headers_[0] = mine;
    const absl::Status gathered =
        GatherBlocks([](int) { return static_cast<int64_t>(sizeof(PlanHeader)); }, headers_.data(),
                     [&](const AllToAllVArgs& args, int) { return transport_.HostAllToAllV(site, args); });
    if (send_status.ok()) TF_RETURN_IF_ERROR(gathered);
    std::rotate(headers_.begin(), headers_.end() - me_, headers_.end());
    TF_RETURN_IF_ERROR(planner_.CheckHeaders(site, send_status, headers_));
    for (int r = 0; r < num_ranks_; ++r) {
      const int64_t tokens = headers_[r].num_rows, k = headers_[r].num_selections;
      if (tokens >= 0 && k >= 0 && k <= kMaxItems && (k == 0 ? tokens <= kMaxItems : tokens <= kMaxItems / k)) continue;
      return absl::DataLossError(
          absl::StrCat(ToString(site), ": plan from rank ", r, ": announces ", tokens, " tokens with top-", k));
    }
    return absl::OkStatus();
  }

  // gathered_ [R] by rank, views of locations_.
  absl::Status GatherLocations(const CallSite& site, const Placement& placement) {
    const auto num_entries = [&](int r) { return headers_[r].num_rows * headers_[r].num_selections; };
    int64_t total = 0;
    for (int r = 0; r < num_ranks_; ++r) total += num_entries(r);
    locations_.resize(total);
    const HostRouting& mine = planner_.host_routing();
    for (int64_t i = 0; i < static_cast<int64_t>(mine.expert_idx.size()); ++i) {
      locations_[i] = mine.expert_idx[i] < 0 ? -1 : LocationOf(mine, placement, i / mine.top_k, i);
    }
    TF_RETURN_IF_ERROR(
        GatherBlocks([&](int r) { return num_entries(r) * static_cast<int64_t>(sizeof(int32_t)); }, locations_.data(),
                     [&](const AllToAllVArgs& args, int) { return transport_.HostAllToAllV(site, args); }));
    gathered_.resize(num_ranks_);
    int64_t entry = 0, row = 0;
    for (int i = 0; i < num_ranks_; ++i) {
      const int r = (me_ + i) % num_ranks_;
      const absl::Span<const int32_t> locations = absl::MakeConstSpan(locations_).subspan(entry, num_entries(r));
      gathered_[r] = {locations, headers_[r].num_rows, static_cast<int>(headers_[r].num_selections), row};
      entry += num_entries(r);
      row += headers_[r].num_rows;
    }
    return absl::OkStatus();
  }

  Transport& transport_;
  Device& device_;
  ExchangeStats& stats_;
  const int64_t row_bytes_;  // of a dispatched row
  const int me_, num_ranks_;
  ExchangePlanner planner_;
  ExchangePlan plan_;
  ExchangeRows rows_;
  OutputReturn output_return_;
  std::vector<PlanHeader> headers_;
  std::vector<int32_t> locations_;
  std::vector<GatheredRouting> gathered_;
  std::vector<int64_t> next_;        // scratch
  std::vector<int32_t> all_tokens_;  // 0, 1, ..
  ConstFloatMatrix home_rows_;       // between BeginDispatch and FinishDispatch
  GrowingBuffer all_rows_;
  GrowingBuffer token_{MemoryKind::kDevice, "exchange: token of each row"};
  std::vector<int64_t> offsets_, send_offsets_, recv_offsets_;  // [R + 1] bytes
};

}  // namespace

absl::Status BuildGatheredRecvPlan(absl::Span<const GatheredRouting> ranks, const Placement& placement, RankId me,
                                   std::vector<int64_t>& next, RecvPlan& plan) {
  const int num_slots = placement.num_local_slots(me);
  plan.row_offsets.assign(1, 0);
  plan.selection_offsets.assign(1, 0);
  plan.slot_offsets.assign(num_slots + 1, 0);
  for (size_t r = 0; r < ranks.size(); ++r) {
    const GatheredRouting& routing = ranks[r];
    TF_RETURN_IF_ERROR(CheckLocations(static_cast<int>(r), routing, placement.num_locations()));
    int64_t served = 0;
    ForEachServed(routing, placement, me, [&](int64_t, int slot) {
      ++plan.slot_offsets[slot + 1];
      ++served;
    });
    plan.row_offsets.push_back(plan.row_offsets.back() + routing.num_tokens);
    plan.selection_offsets.push_back(plan.selection_offsets.back() + served);
    if (plan.row_offsets.back() <= kMaxItems && plan.selection_offsets.back() <= kMaxItems) continue;
    return absl::ResourceExhaustedError(absl::StrCat("plan: ranks 0 to ", r, " have ", plan.row_offsets.back(),
                                                     " tokens; one exchange takes ", kMaxItems));
  }
  for (int s = 0; s < num_slots; ++s) plan.slot_offsets[s + 1] += plan.slot_offsets[s];
  plan.row_idx.resize(plan.selection_offsets.back());
  plan.return_selection.resize(plan.selection_offsets.back());
  next.assign(plan.slot_offsets.begin(), plan.slot_offsets.end() - 1);
  size_t arrived = 0;
  for (const GatheredRouting& rank : ranks) {
    ForEachServed(rank, placement, me, [&](int64_t t, int slot) {
      const int64_t at_expert = next[slot]++;
      plan.row_idx[at_expert] = static_cast<int32_t>(rank.first_row + t);
      plan.return_selection[arrived++] = static_cast<int32_t>(at_expert);
    });
  }
  return absl::OkStatus();
}

std::unique_ptr<PathMover> CreateAllGatherMover(const PathContext& context) {
  return std::make_unique<AllGatherMover>(context);
}

}  // namespace tokenferry
