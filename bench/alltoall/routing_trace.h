// Recorded routings: which experts the tokens of a real model chose. JSON lines: first
//   {"format": "tokenferry-routing-1", "num_experts": E, "top_k": K, "source": "..."}
// then one line per step and MoE layer, {"step": s, "layer": l, "expert_idx": [T * K numbers]}, tokens of rank 0 first;
// -1 = none. tokenferry generate --record-routing writes them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"

namespace tokenferry {

struct RoutingTrace {
  int num_experts = 0;
  int top_k = 0;
  std::string source;
  struct Record {
    int64_t step = 0;
    int layer = 0;  // MoE layers from 0
    std::vector<int32_t> expert_idx;
  };
  std::vector<Record> records;
  std::vector<int32_t> expert_idx;  // [num_rows, K] of all records; ReadRoutingTrace fills it
  int64_t num_rows() const { return top_k == 0 ? 0 : static_cast<int64_t>(expert_idx.size()) / top_k; }
};

// Errors name the file, the line and what is wrong. A trace without rows is refused.
absl::StatusOr<RoutingTrace> ReadRoutingTrace(const std::string& path);
std::string RoutingTraceText(const RoutingTrace& trace);  // of the file, from the records

}  // namespace tokenferry
