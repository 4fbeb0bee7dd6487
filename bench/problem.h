// One point of a benchmark of the exchange: what its tokens hold and choose, in device memory, and what must come out.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/traffic.h"
#include "comm/exchange_plan.h"
#include "comm/transport.h"
#include "core/moe_types.h"
#include "core/placement.h"

namespace tokenferry {

struct BenchPoint {
  int64_t tokens = 0;  // of every rank (see TrafficSpec::kSilentRank)
  int64_t hidden = 0;
  int num_experts = 0;
  int top_k = 0;
  DType dtype = DType::kBF16;        // of dispatched rows: kBF16 or kF32
  std::string placement = "linear";  // or random:SEED, or a JSON file
  TrafficSpec traffic;
  uint64_t seed = 1;
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
  HostRouting host_routing() const { return {traffic_.expert_idx, num_tokens_, point_.top_k}; }
  // Device memory.
  const Routing& routing() const { return routing_; }
  MatrixView<const float> hidden() const { return hidden_; }  // [T, H]
  MatrixView<float> out() const { return out_; }              // [T, H], for results

  // Element of the hidden rows: in [-1, 1), a hash of the global token index and the column.
  float HiddenValue(int64_t token, int64_t column) const;
  // ExpertFactor of each of this rank's slots.
  std::vector<float> SlotFactors() const;

  // `rows` [T, H] host memory against the plain meaning: token t gets the sum over its choices, in increasing expert
  // index, starting from 0, of fma(weight, ExpertFactor(expert) * x, sum), x being the hidden value rounded to the
  // row dtype. kExact: the same bits. kRounded: rows, outputs and sums of `dtype` were each rounded to it, and sums are
  // in any order. DataLoss naming the first wrong element and how many there are.
  enum class Match : uint8_t { kExact, kRounded };
  absl::Status CheckRows(const std::vector<float>& rows, Match match) const;

 private:
  BenchProblem(const BenchPoint& point, Placement placement, RankId rank)
      : point_(point), placement_(std::move(placement)), rank_(rank) {}
  absl::Status Upload(Device& device);

  BenchPoint point_;
  Placement placement_;
  RankId rank_;
  int64_t num_tokens_ = 0;
  int64_t first_token_ = 0;
  HostTraffic traffic_;
  Routing routing_;
  MatrixView<float> hidden_, out_;
  Buffer expert_idx_, weight_, hidden_memory_, out_memory_;
};

}  // namespace tokenferry
