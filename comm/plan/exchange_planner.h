// The half of every path that is the same: this rank's tokens become a SendPlan, ranks compare what must be equal and
// swap counts and selections, and what arrives becomes a RecvPlan.
#pragma once

#include <vector>

#include "comm/plan/exchange_plan.h"
#include "comm/plan/row_formats.h"
#include "comm/transport/transport.h"
#include "core/device/device.h"
#include "core/moe/moe_types.h"

namespace tokenferry {

// What every rank tells every other before anything else: what must be equal, and what it will send. Travels as bytes.
struct PlanHeader {
  uint64_t placement_digest = 0;
  int64_t hidden = 0;
  int16_t wire_dtype = 0;
  int8_t expert_dtype = 0, output_dtype = 0;
  int32_t cannot_plan = 0;  // this rank has an error: all end together
  int64_t num_rows = 0;     // to the rank that reads the header
  int64_t num_selections = 0;
  int64_t step = 0;
  int32_t layer = 0;
  uint32_t exchange = 0;   // how many this rank has planned before
  int64_t num_tokens = 0;  // of the sender, for whichever rank
};
static_assert(sizeof(PlanHeader) == 64, "headers travel as bytes");

// The site of one phase of an exchange. `phase` is a string literal.
inline CallSite At(const CallSite& site, const char* phase) { return {phase, site.layer, site.step}; }

// out[i] = offsets[i] * num_bytes.
void ScaleOffsets(const std::vector<int64_t>& offsets, int64_t num_bytes, std::vector<int64_t>& out);

class ExchangePlanner {
 public:
  ExchangePlanner(const Transport& transport, const RowFormats& formats);

  // Needs nobody else: copies the routing to the host (synchronizes the stream) and builds this rank's half.
  absl::Status PlanHome(Stream& stream, const Routing& routing, const Placement& placement, SendPlan& plan);

  // The most tokens of any rank in the last exchange that was swapped: the same on all.
  int64_t most_tokens() const { return most_tokens_; }

  // The last PlanHome's.
  const HostRouting& host_routing() const { return host_routing_; }

  // [R] what each rank is told, valid until the next call. Once for each exchange: it counts them. `send_status` is
  // PlanHome's; `plan` is not read after an error.
  const std::vector<PlanHeader>& MakeHeaders(const CallSite& site, const absl::Status& send_status,
                                             const SendPlan& plan, const Placement& placement);

  // Compares this rank's last headers with `theirs` [R]; FailedPrecondition naming what differs and both values, and
  // `send_status`, PlanHome's own error, named, before that.
  absl::Status CheckHeaders(const CallSite& site, const absl::Status& send_status,
                            absl::Span<const PlanHeader> theirs) const;

  // The other half, from everybody's checked messages.
  absl::Status PlanAway(const CallSite& site, absl::Span<const int64_t> row_counts,
                        absl::Span<const int64_t> selection_counts, absl::Span<const WireSelection> selections,
                        const Placement& placement, RecvPlan& plan, RowsFor rows = RowsFor::kThisRank);

  // Over the transport: one small all-to-all of headers, which are compared, and one all-to-all-v of selections, which
  // become the other half. `send_status` is PlanHome's, `told` what it built, or what other ranks are to know of it.
  absl::Status Swap(Transport& transport, const CallSite& site, const absl::Status& send_status, const SendPlan& told,
                    const Placement& placement, RowsFor rows, RecvPlan& plan);

  // Of the last Swap: what arrived, rank 0's first.
  absl::Span<const WireSelection> recv_selections() const { return recv_selections_; }

  // PlanHome and Swap.
  absl::Status Plan(Transport& transport, Stream& stream, const CallSite& site, const Routing& routing,
                    const Placement& placement, ExchangePlan& plan);

 private:
  absl::Status CompareHeader(const CallSite& site, int r, const PlanHeader& theirs) const;
  absl::Status SwapSelections(Transport& transport, const CallSite& site, const SendPlan& told,
                              const Placement& placement, RowsFor rows, RecvPlan& plan);

  const int rank_, num_ranks_;
  const RowFormats formats_;
  uint32_t num_exchanges_ = 0;
  PlanBuilder builder_;
  std::vector<int32_t> host_expert_idx_, host_location_;
  HostRouting host_routing_;  // of these two
  int64_t most_tokens_ = 0;
  std::vector<int64_t> row_counts_, selection_counts_;  // [R]
  std::vector<WireSelection> recv_selections_;
  std::vector<PlanHeader> send_headers_, recv_headers_;                // [R]
  std::vector<int64_t> header_offsets_, send_offsets_, recv_offsets_;  // [R + 1] bytes
};

}  // namespace tokenferry
