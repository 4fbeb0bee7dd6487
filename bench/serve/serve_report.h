// What a load on a server says: for people, for machines in the fields of vLLM's benchmark, and as a picture.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/serve/serve_bench.h"

namespace tokenferry {

// Of a list of times, in milliseconds; percentiles are interpolated between neighbours, as numpy does.
struct LatencySummary {
  double mean = 0, median = 0, std = 0;
  std::vector<std::pair<int, double>> percentiles;
};
LatencySummary SummarizeLatency(const std::vector<double>& seconds, const std::vector<int>& percentiles);

// A request counts as good when none of its times is above what is given here, in milliseconds.
struct Goodput {
  std::optional<double> ttft_ms, tpot_ms, e2el_ms;
};
// Of "ttft:500", "tpot:50", "e2el:3000".
absl::StatusOr<Goodput> ParseGoodput(const std::vector<std::string>& limits);

struct ServeReport {
  int64_t completed = 0, failed = 0;
  int64_t total_input_tokens = 0, total_output_tokens = 0;  // of completed requests, like what follows
  double duration = 0;                                      // seconds
  double request_throughput = 0, output_throughput = 0, total_token_throughput = 0;  // per second
  std::optional<double> request_goodput;
  double max_output_tokens_per_s = 0;  // most events with text in one second
  int max_concurrent_requests = 0;
  // By name, as vLLM's: ttft, tpot (the time after the first token, by the tokens after it), itl, e2el (until the last
  // token).
  std::vector<std::pair<std::string, std::vector<double>>> latencies;  // seconds
  std::vector<std::pair<std::string, LatencySummary>> summaries;
  std::vector<std::pair<std::string, int>> errors;  // messages of failed requests, the most frequent first
};
ServeReport MakeReport(const ServeLoadResult& result, const Goodput& goodput, const std::vector<int>& percentiles);

std::string ReportTable(const ServeReport& report);
// vLLM's names; `date`: "20261128-135959".
std::string ReportJson(const ServeReport& report, const ServeLoadOptions& options, const ServeLoadResult& result,
                       const std::string& date);
// Times by how rare they are.
std::string ReportPlot(const ServeReport& report, const std::string& title);

}  // namespace tokenferry
