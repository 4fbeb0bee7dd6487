#include "comm/plan/exchange_planner.h"

#include <numeric>

namespace tokenferry {

void ScaleOffsets(const std::vector<int64_t>& offsets, int64_t num_bytes, std::vector<int64_t>& out) {
  for (size_t i = 0; i < offsets.size(); ++i) out[i] = offsets[i] * num_bytes;
}

namespace {

// Rows side by side; complete after the next Synchronize. No data: an empty vector.
void CopyToHost(Stream& stream, const MatrixView<int32_t>& from, std::vector<int32_t>& to) {
  to.resize(from.data == nullptr ? 0 : from.rows * from.cols);
  const size_t row_bytes = from.cols * sizeof(int32_t);
  if (to.empty()) return;
  if (from.stride == from.cols) return stream.CopyToHost(to.data(), from.data, from.rows * row_bytes);
  for (int64_t t = 0; t < from.rows; ++t) stream.CopyToHost(to.data() + t * from.cols, from.row(t), row_bytes);
}

}  // namespace

ExchangePlanner::ExchangePlanner(const Transport& transport, const RowFormats& formats)
    : rank_(transport.rank().value),
      num_ranks_(transport.num_ranks()),
      formats_(formats),
      send_headers_(num_ranks_),
      recv_headers_(num_ranks_),
      header_offsets_(num_ranks_ + 1),
      send_offsets_(num_ranks_ + 1),
      recv_offsets_(num_ranks_ + 1) {
  for (size_t r = 0; r < header_offsets_.size(); ++r) header_offsets_[r] = static_cast<int64_t>(r * sizeof(PlanHeader));
}

absl::Status ExchangePlanner::PlanHome(Stream& stream, const Routing& routing, const Placement& placement,
                                       SendPlan& plan) {
  if (placement.num_ranks() != num_ranks_) {
    return absl::InvalidArgumentError(
        absl::StrCat("placement is for ", placement.num_ranks(), " ranks, but there are ", num_ranks_));
  }
  const MatrixView<int32_t>& experts = routing.expert_idx;
  CopyToHost(stream, experts, host_expert_idx_);
  CopyToHost(stream, routing.location, host_location_);
  TF_RETURN_IF_ERROR(stream.Synchronize());
  host_routing_ = {host_expert_idx_, experts.rows, static_cast<int>(experts.cols), host_location_, RankId(rank_)};
  return builder_.BuildSend(host_routing_, placement, plan);
}

const std::vector<PlanHeader>& ExchangePlanner::MakeHeaders(const CallSite& site, const absl::Status& send_status,
                                                            const SendPlan& plan, const Placement& placement) {
  const uint64_t digest = placement.Digest();
  for (int r = 0; r < num_ranks_; ++r) {
    PlanHeader& h = send_headers_[r];
    h = {digest,
         formats_.hidden,
         static_cast<int16_t>(formats_.wire_dtype),
         static_cast<int8_t>(formats_.expert_dtype),
         static_cast<int8_t>(formats_.output_dtype),
         send_status.ok() ? 0 : 1,
         0,
         0,
         site.step,
         site.layer,
         num_exchanges_};
    if (!send_status.ok()) continue;
    h.num_rows = plan.row_offsets[r + 1] - plan.row_offsets[r];
    h.num_selections = plan.selection_offsets[r + 1] - plan.selection_offsets[r];
    h.num_tokens = plan.num_tokens;
  }
  ++num_exchanges_;
  return send_headers_;
}

absl::Status ExchangePlanner::CheckHeaders(const CallSite& site, const absl::Status& send_status,
                                           absl::Span<const PlanHeader> theirs) const {
  if (!send_status.ok()) return Annotate(send_status, absl::StrCat(ToString(site), ": rank ", rank_));
  for (int r = 0; r < num_ranks_; ++r) TF_RETURN_IF_ERROR(CompareHeader(site, r, theirs[r]));
  return absl::OkStatus();
}

absl::Status ExchangePlanner::CompareHeader(const CallSite& site, int r, const PlanHeader& theirs) const {
  const PlanHeader& mine = send_headers_[r];
  const auto differ = [&](absl::string_view what, const auto& my_value, const auto& their_value) {
    return absl::FailedPreconditionError(absl::StrCat(ToString(site), ": ranks disagree on the ", what, ": rank ",
                                                      rank_, " has ", my_value, ", rank ", r, " has ", their_value,
                                                      "; start all ranks with the same model and options"));
  };
  // First, which exchange it is: everything else may differ between two of them.
  if (theirs.layer != mine.layer || theirs.step != mine.step || theirs.exchange != mine.exchange) {
    const auto describe = [](const PlanHeader& h) {
      return absl::StrCat("layer ", h.layer, " of step ", h.step, ", exchange ", h.exchange);
    };
    return absl::FailedPreconditionError(
        absl::StrCat(ToString(site), ": ranks are in different exchanges: rank ", rank_, " in ", describe(mine),
                     ", rank ", r, " in ", describe(theirs), "; all ranks must make the same calls in the same order"));
  }
  if (theirs.hidden != mine.hidden) return differ("hidden size", mine.hidden, theirs.hidden);
  if (theirs.wire_dtype != mine.wire_dtype) return differ("row dtype (number)", mine.wire_dtype, theirs.wire_dtype);
  if (theirs.expert_dtype != mine.expert_dtype) {
    return differ("experts' dtype (number)", int{mine.expert_dtype}, int{theirs.expert_dtype});
  }
  if (theirs.output_dtype != mine.output_dtype) {
    return differ("output dtype (number)", int{mine.output_dtype}, int{theirs.output_dtype});
  }
  if (theirs.placement_digest != mine.placement_digest) {
    return differ("placement (digest)", absl::Hex(mine.placement_digest), absl::Hex(theirs.placement_digest));
  }
  if (theirs.cannot_plan == 0) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat(ToString(site), ": rank ", r, " could not plan this exchange; see its error"));
}

absl::Status ExchangePlanner::Plan(Transport& transport, Stream& stream, const CallSite& site, const Routing& routing,
                                   const Placement& placement, ExchangePlan& plan) {
  plan.rank = transport.rank();
  const absl::Status send_status = PlanHome(stream, routing, placement, plan.send);
  return Swap(transport, site, send_status, plan.send, placement, RowsFor::kThisRank, plan.recv);
}

absl::Status ExchangePlanner::Swap(Transport& transport, const CallSite& site, const absl::Status& send_status,
                                   const SendPlan& told, const Placement& placement, RowsFor rows, RecvPlan& plan) {
  const CallSite counts = At(site, "plan counts");
  const absl::Status swapped = transport.HostAllToAllV(
      counts,
      {MakeHeaders(site, send_status, told, placement).data(), header_offsets_, recv_headers_.data(), header_offsets_});
  if (send_status.ok()) TF_RETURN_IF_ERROR(swapped);
  TF_RETURN_IF_ERROR(CheckHeaders(counts, send_status, recv_headers_));
  most_tokens_ = 0;
  for (const PlanHeader& h : recv_headers_) most_tokens_ = std::max(most_tokens_, h.num_tokens);
  return SwapSelections(transport, At(site, "plan selections"), told, placement, rows, plan);
}

absl::Status ExchangePlanner::SwapSelections(Transport& transport, const CallSite& site, const SendPlan& told,
                                             const Placement& placement, RowsFor rows, RecvPlan& plan) {
  row_counts_.resize(num_ranks_);
  selection_counts_.resize(num_ranks_);
  for (int r = 0; r < num_ranks_; ++r) {
    row_counts_[r] = recv_headers_[r].num_rows;
    selection_counts_[r] = recv_headers_[r].num_selections;
  }
  TF_RETURN_IF_ERROR(Annotate(ValidateCounts(row_counts_, selection_counts_, rows), site));
  ScaleOffsets(told.selection_offsets, sizeof(WireSelection), send_offsets_);
  recv_offsets_[0] = 0;
  for (int r = 0; r < num_ranks_; ++r) {
    recv_offsets_[r + 1] = recv_offsets_[r] + selection_counts_[r] * static_cast<int64_t>(sizeof(WireSelection));
  }
  recv_selections_.resize(std::accumulate(selection_counts_.begin(), selection_counts_.end(), int64_t{0}));
  TF_RETURN_IF_ERROR(
      transport.HostAllToAllV(site, {told.selections.data(), send_offsets_, recv_selections_.data(), recv_offsets_}));
  return PlanAway(site, row_counts_, selection_counts_, recv_selections_, placement, plan, rows);
}

absl::Status ExchangePlanner::PlanAway(const CallSite& site, absl::Span<const int64_t> row_counts,
                                       absl::Span<const int64_t> selection_counts,
                                       absl::Span<const WireSelection> selections, const Placement& placement,
                                       RecvPlan& plan, RowsFor rows) {
  const int num_slots = placement.num_local_slots(RankId(rank_));
  return Annotate(builder_.BuildRecv(row_counts, selection_counts, selections, num_slots, plan, rows), site);
}

}  // namespace tokenferry
