#include "bench/alltoall/bytes.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace tokenferry {
namespace {

int64_t Sum(const std::vector<int64_t>& values) { return std::accumulate(values.begin(), values.end(), int64_t{0}); }

double MaxOverMean(const std::vector<int64_t>& values) {
  const int64_t sum = Sum(values);
  if (sum == 0) return 1;
  return static_cast<double>(*std::max_element(values.begin(), values.end())) * static_cast<double>(values.size()) /
         static_cast<double>(sum);
}

// The largest, over ranks, of what it sends and what it receives.
int64_t Busiest(const std::vector<RowCounts>& per_rank, std::vector<int64_t> RowCounts::*list) {
  int64_t busiest = 0;
  std::vector<int64_t> received(per_rank.size());
  for (const RowCounts& counts : per_rank) {
    busiest = std::max(busiest, Sum(counts.*list));
    for (size_t r = 0; r < received.size(); ++r) received[r] += (counts.*list)[r];
  }
  return std::max(busiest, *std::max_element(received.begin(), received.end()));
}

}  // namespace

RowCounts CountRows(const HostRouting& routing, const Placement& placement, const Topology& topology) {
  RowCounts counts;
  counts.selections_per_rank.resize(topology.num_ranks());
  counts.rows_per_rank.resize(topology.num_ranks());
  counts.rows_per_host.resize(topology.num_hosts());
  counts.selections_per_expert.resize(placement.num_experts());
  std::vector<int64_t> last_of_rank(topology.num_ranks(), -1), last_of_host(topology.num_hosts(), -1);
  for (int64_t t = 0; t < routing.num_tokens; ++t) {
    for (int k = 0; k < routing.top_k; ++k) {
      const int32_t expert = routing.expert_idx[t * routing.top_k + k];
      if (expert < 0) {
        ++counts.num_missing;
        continue;
      }
      const int rank = placement.Choose(ExpertId(expert), routing.rank, t).rank.value;
      const int host = topology.host_idx_per_rank[rank];
      ++counts.selections_per_expert[expert];
      ++counts.selections_per_rank[rank];
      if (std::exchange(last_of_rank[rank], t) != t) ++counts.rows_per_rank[rank];
      if (std::exchange(last_of_host[host], t) != t) ++counts.rows_per_host[host];
    }
  }
  return counts;
}

std::vector<int64_t> EncodeCounts(const RowCounts& counts) {
  std::vector<int64_t> numbers = {counts.num_missing};
  for (const auto* list :
       {&counts.selections_per_rank, &counts.rows_per_rank, &counts.rows_per_host, &counts.selections_per_expert}) {
    numbers.insert(numbers.end(), list->begin(), list->end());
  }
  return numbers;
}

RowCounts DecodeCounts(const std::vector<int64_t>& numbers, const Topology& topology, int num_experts) {
  RowCounts counts;
  auto next = numbers.begin();
  counts.num_missing = *next++;
  const auto take = [&](std::vector<int64_t>& list, int size) {
    list.assign(next, next + size);
    next += size;
  };
  take(counts.selections_per_rank, topology.num_ranks());
  take(counts.rows_per_rank, topology.num_ranks());
  take(counts.rows_per_host, topology.num_hosts());
  take(counts.selections_per_expert, num_experts);
  return counts;
}

RowBases SumBases(const std::vector<RowCounts>& per_rank, const Topology& topology) {
  RowBases bases;
  for (size_t r = 0; r < per_rank.size(); ++r) {
    bases.selection += Sum(per_rank[r].selections_per_rank);
    bases.rank += Sum(per_rank[r].rows_per_rank);
    bases.node += Sum(per_rank[r].rows_per_host);
    bases.wire += Sum(per_rank[r].rows_per_host) - per_rank[r].rows_per_host[topology.host_idx_per_rank[r]];
  }
  return bases;
}

RowSkew MeasureSkew(const std::vector<RowCounts>& per_rank) {
  RowSkew skew;
  skew.busiest_rank_rows = Busiest(per_rank, &RowCounts::rows_per_rank);
  skew.busiest_rank_selections = Busiest(per_rank, &RowCounts::selections_per_rank);
  std::vector<int64_t> pairs, received(per_rank.size()), experts(per_rank[0].selections_per_expert.size());
  for (const RowCounts& counts : per_rank) {
    pairs.insert(pairs.end(), counts.rows_per_rank.begin(), counts.rows_per_rank.end());
    for (size_t r = 0; r < received.size(); ++r) received[r] += counts.selections_per_rank[r];
    for (size_t e = 0; e < experts.size(); ++e) experts[e] += counts.selections_per_expert[e];
  }
  skew.rank_imbalance = MaxOverMean(received);
  skew.expert_imbalance = MaxOverMean(experts);
  skew.pair_imbalance = MaxOverMean(pairs);
  skew.padding_waste = 1 - 1 / skew.pair_imbalance;
  return skew;
}

double Gbps(double num_bytes, double seconds) { return seconds > 0 ? num_bytes / seconds * 1e-9 : 0; }

double BusBandwidth(double algbw, int num_ranks) { return algbw * (num_ranks - 1) / num_ranks; }

double ExpectedGroups(int num_experts, int top_k, int num_groups) {
  // C(E - E/M, k) / C(E, k), factor by factor.
  double none = 1;
  const double others = num_experts - static_cast<double>(num_experts) / num_groups;
  for (int i = 0; i < top_k; ++i) none *= std::max(0.0, others - i) / (num_experts - i);
  return num_groups * (1 - none);
}

}  // namespace tokenferry
