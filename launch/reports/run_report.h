// The closing table of a run: speed, and what each rank did and holds.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "launch/reports/exchange_report.h"
#include "launch/session/model_session.h"

namespace tokenferry {

struct RankReport {
  std::string host;
  int64_t num_experts = 0;  // local slots per MoE layer
  int64_t rows = 0;         // selections computed here, all layers
  std::vector<int64_t> rows_per_layer;
  int64_t dispatch_bytes = 0;            // sent to other ranks
  int64_t combine_bytes = 0;             // sent back to other ranks
  std::vector<OverflowCounts> overflow;  // [MoE layer] tokens at home
  std::vector<double> wait_seconds;      // for each rank, all communication
  ExchangeReport exchange;
  int64_t weight_bytes = 0, cache_bytes = 0;
  int64_t declared_bytes = 0;  // the device's buffers at their peak, weights and cache included
  int64_t base_bytes = 0;      // resident before the weights were read: program and libraries
  int64_t resident_bytes = 0, peak_bytes = 0;
  int64_t load_bytes = 0;
  double load_seconds = 0;
};

struct RunReport {
  std::vector<RankReport> ranks;  // rank 0 only
  EngineStats engine;             // rank 0's
  std::string instruction_set;

  double prefill_tokens_per_second() const;
  double decode_tokens_per_second() const;
  // Mean rows per rank over the busiest rank's, layers added up: 1 when all ranks are equally busy.
  double balancedness() const;
  std::string Table() const;
  std::string MemoryTable() const;  // loading and memory, by rank
  nlohmann::ordered_json Json() const;
};

// Collective.
absl::StatusOr<RunReport> CollectReport(RankContext& context, ModelSession& session);

}  // namespace tokenferry
