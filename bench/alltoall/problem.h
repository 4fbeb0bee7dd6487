// One point of a benchmark of the exchange: what its tokens hold and choose, in device memory, and what must come out.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/alltoall/traffic.h"
#include "comm/plan/exchange_plan.h"
#include "comm/transport/transport.h"
#include "core/moe/moe_types.h"
#include "core/moe/placement.h"

namespace tokenferry {

struct BenchPoint {
  int64_t tokens = 0;  // of every rank (see TrafficSpec::kSilentRank)
  int64_t hidden = 0;
  int num_experts = 0;
  int top_k = 0;
  DType dtype = DType::kBF16;         // of dispatched rows: kBF16, kF32, kF8E4M3 or kI8
  DType combine_dtype = DType::kF32;  // of expert outputs: kF32 or kBF16
  std::string placement = "linear";   // or random:SEED, or a JSON file
  TrafficSpec traffic;
  uint64_t seed = 1;
  // Of the rows that the exchange and the baselines are given, and that the experts read.
  DType given_dtype() const { return dtype == DType::kF32 ? DType::kF32 : DType::kBF16; }
  std::string ToString() const;
};

// linear: experts in order over the ranks. random:SEED: the same, of a random order of the experts. Else a file.
absl::StatusOr<Placement> MakePlacement(const std::string& text, int num_experts, int num_ranks);

// This rank's part of a point.
class BenchProblem {
 public:
  // `trace` as in MakeTraffic. The placement is for all ranks of the transport.
  static absl::StatusOr<std::unique_ptr<BenchProblem>> Create(const Transport& transport, Device& device,
                                                              const BenchPoint& point, Placement placement,
                                                              const RoutingTrace* trace);

  const BenchPoint& point() const { return point_; }
  const Placement& placement() const { return placement_; }
  RankId rank() const { return rank_; }
  int64_t num_tokens() const { return num_tokens_; }
  const HostTraffic& traffic() const { return traffic_; }
  HostRouting host_routing() const { return {traffic_.expert_idx, num_tokens_, point_.top_k, {}, rank_}; }
  // Device memory.
  const Routing& routing() const { return routing_; }
  ConstFloatMatrix hidden() const { return hidden_; }  // [T, H] of given_dtype(), rounded from HiddenValue
  MatrixView<float> out() const { return out_; }       // [T, H], for results

  // Element of the hidden rows: in [-1, 1), a hash of the global token index and the column.
  float HiddenValue(int64_t token, int64_t column) const;
  // ExpertFactor of each of this rank's slots.
  std::vector<float> SlotFactors() const;

  // `rows` [T, H] host memory against the plain meaning: token t gets the sum over its choices, in increasing expert
  // index, starting from 0, of fma(weight, y, sum), y being ExpertFactor(expert) * x rounded to combine_dtype, and x
  // the hidden value rounded to given_dtype and, where `dtype` is quantised, quantised, widened and rounded again.
  // kExact: the same bits. kRounded: of a baseline, whose rows, outputs and sums are given_dtype's: each was rounded to
  // it, and sums are in any order. host_per_rank [R], of a Topology: sums as Reduction::kNode makes them, on each host
  // first; empty: in one. DataLoss naming the first wrong element and how many there are.
  enum class Match : uint8_t { kExact, kRounded };
  absl::Status CheckRows(const std::vector<float>& rows, Match match, absl::Span<const int> host_per_rank = {}) const;

 private:
  BenchProblem(const BenchPoint& point, Placement placement, RankId rank)
      : point_(point), placement_(std::move(placement)), rank_(rank) {}
  absl::Status Upload(Device& device);
  std::vector<float> GivenRow(int64_t token) const;  // HiddenValue rounded to given_dtype
  std::vector<float> ReadRow(int64_t token) const;   // what experts read
  std::vector<int> HostOfChoices(int64_t token, absl::Span<const int> host_per_rank) const;  // [K]; empty: all 0

  BenchPoint point_;
  Placement placement_;
  RankId rank_;
  int64_t num_tokens_ = 0;
  int64_t first_token_ = 0;
  HostTraffic traffic_;
  Routing routing_;
  FloatMatrix hidden_;
  MatrixView<float> out_;
  Buffer expert_idx_, weight_, hidden_memory_, out_memory_;
};

}  // namespace tokenferry
