// What the exchange of a rank did, for the closing table: who waited for whom, and bytes in the ways people count them.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "comm/exchange/exchange.h"
#include "comm/transport/topology.h"

namespace tokenferry {

struct ExchangeReport {
  std::string path;
  int64_t num_exchanges = 0, num_layer_calls = 0;  // several exchanges a call under a budget
  int64_t row_bytes = 0, output_bytes = 0;         // of one row and one output as they travel
  RowBases bases;                    // in rows; times row_bytes for the dispatch, output_bytes for the combine
  LinkBytes dispatch, combine;       // sent
  std::vector<double> wait_seconds;  // [R], ExchangeStats::wait_seconds_per_rank
};

// path: Engine::exchange_path.
ExchangeReport MakeExchangeReport(std::string path, const ExchangeStats& stats, int64_t num_layer_calls,
                                  const Topology& topology, RankId self);

void to_json(nlohmann::ordered_json& json, const ExchangeReport& report);
void from_json(const nlohmann::ordered_json& json, ExchangeReport& report);

// All ranks together, by rank; ends with the matrix of waits.
std::string ExchangeTable(const std::vector<ExchangeReport>& ranks);

}  // namespace tokenferry
