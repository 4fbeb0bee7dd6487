// How many rows an exchange moves, counted in the ways people count them, and the bandwidths that follow.
// bench/README.md defines every figure.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/plan/exchange_plan.h"
#include "comm/plan/exchange_traffic.h"
#include "comm/transport/topology.h"
#include "core/moe/placement.h"

namespace tokenferry {

// What one rank's tokens choose. The lists are in the order of EncodeCounts.
struct RowCounts {
  int64_t num_missing = 0;                     // selections that are -1
  std::vector<int64_t> selections_per_rank;    // [R]
  std::vector<int64_t> rows_per_rank;          // [R] (token, rank) pairs
  std::vector<int64_t> rows_per_host;          // [hosts] (token, host) pairs
  std::vector<int64_t> selections_per_expert;  // [E]
};
RowCounts CountRows(const HostRouting& routing, const Placement& placement, const Topology& topology);

// As numbers to gather from all ranks, and back.
std::vector<int64_t> EncodeCounts(const RowCounts& counts);
RowCounts DecodeCounts(const std::vector<int64_t>& numbers, const Topology& topology, int num_experts);

// Rows of all ranks together.
RowBases SumBases(const std::vector<RowCounts>& per_rank, const Topology& topology);

struct RowSkew {
  int64_t busiest_rank_rows = 0;        // max over ranks of max(sent, received) of basis `rank`
  int64_t busiest_rank_selections = 0;  // the same of basis `selection`
  double rank_imbalance = 1;            // received selections: busiest rank / mean
  double expert_imbalance = 1;          // selections: busiest expert / mean
  double pair_imbalance = 1;            // basis `rank`: largest (source, destination) block / mean
  double padding_waste = 0;  // 1 - 1 / pair_imbalance: share of padding if all blocks had the largest one's size
};
RowSkew MeasureSkew(const std::vector<RowCounts>& per_rank);

// nccl-tests: algbw = bytes of the busiest rank / seconds, busbw = algbw * (R - 1) / R. In 10^9 bytes/s; 0 for no time.
double Gbps(double num_bytes, double seconds);
double BusBandwidth(double algbw, int num_ranks);

// Expected number of distinct groups, of `num_groups` equal ones, that `top_k` of `num_experts` experts chosen
// uniformly fall into: M (1 - C(E - E/M, k) / C(E, k)).
double ExpectedGroups(int num_experts, int top_k, int num_groups);

}  // namespace tokenferry
