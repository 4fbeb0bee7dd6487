// Dispatch and combine: token rows to the ranks that own their experts, expert outputs back home.
//
// The plan says what moves (comm/exchange_plan.h, a value built without I/O but for one count swap and one index swap);
// the exchange executes it on a transport. Path: alltoallv, one packed message per peer, one row per (token,
// destination rank) whatever number of that rank's experts the token has chosen.
#pragma once

#include <memory>
#include <vector>

#include "comm/exchange_plan.h"
#include "comm/transport.h"
#include "core/moe_types.h"
#include "core/placement.h"

namespace tokenferry {

struct ExchangeOptions {
  int64_t hidden = 0;
  DType row_dtype = DType::kF32;  // of dispatched rows: kF32, or kBF16 (each element rounded once, local rows too)
};

// Since creation, this rank. Rows and bytes count what leaves for each rank, this one included.
struct ExchangeStats {
  int64_t num_exchanges = 0;
  int64_t num_tokens = 0;                        // tokens routed at home
  int64_t num_selections = 0;                    // (token, expert) pairs of them
  std::vector<int64_t> dispatch_rows_per_rank;   // [R] rows sent, one per (token, rank)
  std::vector<int64_t> dispatch_bytes_per_rank;  // [R]
  std::vector<int64_t> combine_bytes_per_rank;   // [R] expert outputs sent back
  double plan_seconds = 0, dispatch_seconds = 0, combine_seconds = 0;
};

// One per rank; all ranks make the same calls in the same order. Buffers grow to the largest exchange seen and are
// kept.
class Exchange {
 public:
  virtual ~Exchange() = default;

  // Collective. `routing` is of this rank's T >= 0 tokens (device memory); synchronizes the stream.
  virtual absl::StatusOr<ExchangePlan> Plan(Stream& stream, const CallSite& site, const Routing& routing,
                                            const Placement& placement) = 0;

  // Collective. `hidden` [T, H] f32, device memory. The result is valid until the next Dispatch.
  virtual absl::StatusOr<ExpertRows> Dispatch(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                                              MatrixView<const float> hidden) = 0;

  // Collective. `expert_out` [num_selections, H] f32 in ExpertRows' order. out[t] = the sum over the token's
  // selections, in increasing logical expert index, starting from 0, of fma(weight, expert output, sum): f32, [T, H],
  // every row is written (a token with no selection gets zeros). `weight` is the Routing's.
  virtual absl::Status Combine(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                               MatrixView<const float> expert_out, MatrixView<const float> weight,
                               MatrixView<float> out) = 0;

  virtual const ExchangeStats& stats() const = 0;
};

absl::StatusOr<std::unique_ptr<Exchange>> CreateAllToAllVExchange(Transport& transport, Device& device,
                                                                  const ExchangeOptions& options);

}  // namespace tokenferry
