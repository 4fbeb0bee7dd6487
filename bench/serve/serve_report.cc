#include "bench/serve/serve_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "bench/measure/svg_plot.h"
#include "core/io/json_writer.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

// Between the two neighbours of place p / 100 (n - 1) of n sorted values.
double Percentile(const std::vector<double>& sorted, double p) {
  if (sorted.empty()) return 0;
  const double at = p / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (at - static_cast<double>(below));
}

// None: it had one token, so there is none after the first.
std::optional<double> TimePerToken(const RequestOutcome& o) {
  if (o.output_tokens < 2) return std::nullopt;
  return (o.latency_seconds - o.ttft_seconds) / static_cast<double>(o.output_tokens - 1);
}

bool IsGood(const RequestOutcome& o, const Goodput& limits) {
  const auto within = [](double seconds, const std::optional<double>& ms) { return !ms || seconds * 1e3 <= *ms; };
  return within(o.ttft_seconds, limits.ttft_ms) && within(TimePerToken(o).value_or(0), limits.tpot_ms) &&
         within(o.latency_seconds, limits.e2el_ms);
}

double MostPerSecond(const ServeLoadResult& result) {
  std::map<int64_t, int64_t> events_per_second;
  for (const RequestOutcome& o : result.outcomes) {
    if (!o.status.ok()) continue;
    double at = o.start_seconds + o.ttft_seconds;
    ++events_per_second[static_cast<int64_t>(at)];
    for (const double gap : o.itl_seconds) ++events_per_second[static_cast<int64_t>(at += gap)];
  }
  int64_t most = 0;
  for (const auto& [second, count] : events_per_second) most = std::max(most, count);
  return static_cast<double>(most);
}

}  // namespace

LatencySummary SummarizeLatency(const std::vector<double>& seconds, const std::vector<int>& percentiles) {
  std::vector<double> ms;
  for (const double s : seconds) ms.push_back(s * 1e3);
  std::sort(ms.begin(), ms.end());
  LatencySummary summary;
  for (const int p : percentiles) summary.percentiles.emplace_back(p, Percentile(ms, p));
  if (ms.empty()) return summary;
  const auto n = static_cast<double>(ms.size());
  summary.mean = std::accumulate(ms.begin(), ms.end(), 0.0) / n;
  summary.median = Percentile(ms, 50);
  double squares = 0;
  for (const double v : ms) squares += (v - summary.mean) * (v - summary.mean);
  summary.std = std::sqrt(squares / n);
  return summary;
}

absl::StatusOr<Goodput> ParseGoodput(const std::vector<std::string>& limits) {
  Goodput goodput;
  for (const std::string& limit : limits) {
    const std::vector<std::string> parts = absl::StrSplit(limit, ':');
    std::optional<double>* const field = parts[0] == "ttft"   ? &goodput.ttft_ms
                                         : parts[0] == "tpot" ? &goodput.tpot_ms
                                         : parts[0] == "e2el" ? &goodput.e2el_ms
                                                              : nullptr;
    double ms = 0;
    if (field == nullptr || parts.size() != 2 || !absl::SimpleAtod(parts[1], &ms) || !(ms > 0) || std::isinf(ms)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", limit, "' must be ttft, tpot or e2el, a colon and milliseconds above 0, as in ttft:500"));
    }
    *field = ms;
  }
  return goodput;
}

ServeReport MakeReport(const ServeLoadResult& result, const Goodput& goodput, const std::vector<int>& percentiles) {
  ServeReport report{.duration = result.duration_seconds, .max_concurrent_requests = result.most_concurrent};
  std::vector<double> ttft, tpot, itl, e2el;
  std::map<std::string, int> errors;
  int64_t num_good = 0;
  for (const RequestOutcome& o : result.outcomes) {
    if (!o.status.ok()) {
      report.failed += 1;
      ++errors[std::string(o.status.message())];
      continue;
    }
    report.completed += 1;
    report.total_input_tokens += o.input_tokens;
    report.total_output_tokens += o.output_tokens;
    num_good += IsGood(o, goodput) ? 1 : 0;
    ttft.push_back(o.ttft_seconds);
    if (const auto per_token = TimePerToken(o)) tpot.push_back(*per_token);
    itl.insert(itl.end(), o.itl_seconds.begin(), o.itl_seconds.end());
    e2el.push_back(o.latency_seconds);
  }
  const auto rate = [&](int64_t count) {
    return report.duration > 0 ? static_cast<double>(count) / report.duration : 0;
  };
  report.request_throughput = rate(report.completed);
  report.output_throughput = rate(report.total_output_tokens);
  report.total_token_throughput = rate(report.total_input_tokens + report.total_output_tokens);
  if (goodput.ttft_ms || goodput.tpot_ms || goodput.e2el_ms) report.request_goodput = rate(num_good);
  report.max_output_tokens_per_s = MostPerSecond(result);
  report.latencies = {{"ttft", ttft}, {"tpot", tpot}, {"itl", itl}, {"e2el", e2el}};
  for (const auto& [name, seconds] : report.latencies) {
    report.summaries.emplace_back(name, SummarizeLatency(seconds, percentiles));
  }
  report.errors.assign(errors.begin(), errors.end());
  std::stable_sort(report.errors.begin(), report.errors.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return report;
}

std::string ReportTable(const ServeReport& report) {
  std::string text = absl::StrFormat(
      "requests      %8d completed, %d failed, in %.2f s; at most %d at a time\n"
      "tokens        %8d in, %d out\n"
      "requests/s    %8.2f\n",
      report.completed, report.failed, report.duration, report.max_concurrent_requests, report.total_input_tokens,
      report.total_output_tokens, report.request_throughput);
  if (report.request_goodput) absl::StrAppendFormat(&text, "goodput       %8.2f requests/s\n", *report.request_goodput);
  absl::StrAppendFormat(&text, "tokens/s      %8.1f out (most in a second: %.0f), %.1f in and out\n\n",
                        report.output_throughput, report.max_output_tokens_per_s, report.total_token_throughput);
  absl::StrAppendFormat(&text, "%-6s %10s %10s %10s", "ms", "mean", "median", "std");
  for (const auto& [p, value] : report.summaries.front().second.percentiles) {
    absl::StrAppendFormat(&text, " %10s", absl::StrCat("p", p));
  }
  text += "\n";
  for (const auto& [name, summary] : report.summaries) {
    absl::StrAppendFormat(&text, "%-6s %10.2f %10.2f %10.2f", name, summary.mean, summary.median, summary.std);
    for (const auto& [p, value] : summary.percentiles) absl::StrAppendFormat(&text, " %10.2f", value);
    text += "\n";
  }
  constexpr size_t kMostErrors = 5;
  for (size_t i = 0; i < std::min(kMostErrors, report.errors.size()); ++i) {
    absl::StrAppendFormat(&text, "%s%d failed: %s\n", i == 0 ? "\n" : "", report.errors[i].second,
                          report.errors[i].first);
  }
  if (report.errors.size() > kMostErrors) {
    absl::StrAppendFormat(&text, ".. and for %d other reasons\n", report.errors.size() - kMostErrors);
  }
  return text;
}

std::string ReportJson(const ServeReport& report, const ServeLoadOptions& options, const ServeLoadResult& result,
                       const std::string& date) {
  Json json = {{"date", date},
               {"backend", options.api == ServeApi::kChat ? "openai-chat" : "openai"},
               {"model_id", options.model},
               {"num_prompts", result.outcomes.size()}};
  json["request_rate"] = options.request_rate > 0 ? Json(options.request_rate) : Json("inf");
  json["max_concurrency"] = options.max_concurrency > 0 ? Json(options.max_concurrency) : Json();
  json["duration"] = report.duration;
  json["completed"] = report.completed;
  json["failed"] = report.failed;
  json["total_input_tokens"] = report.total_input_tokens;
  json["total_output_tokens"] = report.total_output_tokens;
  json["request_throughput"] = report.request_throughput;
  json["request_goodput"] = report.request_goodput ? Json(*report.request_goodput) : Json();
  json["output_throughput"] = report.output_throughput;
  json["total_token_throughput"] = report.total_token_throughput;
  json["max_output_tokens_per_s"] = report.max_output_tokens_per_s;
  json["max_concurrent_requests"] = report.max_concurrent_requests;
  for (const auto& [name, summary] : report.summaries) {
    json[absl::StrCat("mean_", name, "_ms")] = summary.mean;
    json[absl::StrCat("median_", name, "_ms")] = summary.median;
    json[absl::StrCat("std_", name, "_ms")] = summary.std;
    for (const auto& [p, value] : summary.percentiles) json[absl::StrCat("p", p, "_", name, "_ms")] = value;
  }
  for (const char* list : {"input_lens", "output_lens", "start_times", "ttfts", "itls", "generated_texts", "errors"}) {
    json[list] = Json::array();
  }
  for (const RequestOutcome& o : result.outcomes) {
    json["input_lens"].push_back(o.input_tokens);
    json["output_lens"].push_back(o.output_tokens);
    json["start_times"].push_back(o.start_seconds);
    json["ttfts"].push_back(o.ttft_seconds);
    json["itls"].push_back(o.itl_seconds);
    json["generated_texts"].push_back(o.text);
    json["errors"].push_back(std::string(o.status.message()));
  }
  return FormatJson(json) + "\n";
}

std::string ReportPlot(const ServeReport& report, const std::string& title) {
  LogLogPlot plot{.title = title, .x_label = "one in x takes longer", .y_label = "ms"};
  for (const auto& [name, seconds] : report.latencies) {
    PlotSeries series{name, {}};
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    // Evenly in x: half of all, a quarter, .., one. The fastest half would only stretch the axis.
    const auto n = static_cast<double>(sorted.size());
    for (double rarity = 2; rarity <= n; rarity *= 2) {
      series.points.emplace_back(rarity, Percentile(sorted, 100 * (1 - 1 / rarity)) * 1e3);
    }
    if (n > 0) series.points.emplace_back(n, sorted.back() * 1e3);
    plot.series.push_back(std::move(series));
  }
  return RenderSvg(plot);
}

}  // namespace tokenferry
