#include "tests/bench/bench_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "bench/alltoall/alltoall_report.h"
#include "bench/moe/moe_bench.h"
#include "core/device/cpu_device.h"

namespace tokenferry {
namespace {

struct TestRank {
  explicit TestRank(Transport& transport)
      : device(CreateCpuDevice({.isa = BestIsa(SupportedIsas())})),
        topology(Topology::Of(transport)),
        context{transport, *device, topology, BestIsa(SupportedIsas()), 1} {}
  std::unique_ptr<Device> device;
  Topology topology;
  BenchContext context;
};

void CheckSummary(const nlohmann::json& summary) {
  const double least = summary.at("min_us"), median = summary.at("median_us"), p95 = summary.at("p95_us"),
               most = summary.at("max_us");
  EXPECT_GE(least, 0);
  EXPECT_LE(least, median);
  EXPECT_LE(median, p95);
  EXPECT_LE(p95, most);
}

void CheckResult(const nlohmann::json& result, int num_ranks) {
  SCOPED_TRACE(result.dump());
  EXPECT_EQ(result.at("ranks"), num_ranks);
  for (const char* phase : {"plan", "dispatch", "expert_read", "combine", "round_trip"}) {
    CheckSummary(result.at("phases").at(phase));
  }
  EXPECT_TRUE(result.at("verified"));
  EXPECT_GT(result["phases"]["round_trip"]["min_us"], 0);
  const int64_t tokens = result.at("tokens"), hidden = result.at("hidden"), top_k = result.at("top_k");
  const std::string dtype = result.at("dtype");
  const int64_t row_bytes = dtype == "bf16"  ? 2 * hidden
                            : dtype == "f32" ? 4 * hidden
                                             : hidden + (hidden + 127) / 128 * 4;
  const int64_t output_bytes = hidden * (result.at("combine_dtype") == "bf16" ? 2 : 4);
  const bool silent = result.at("traffic") == "silent-rank" && num_ranks > 1;
  const int64_t all_tokens = tokens * (num_ranks - (silent ? 1 : 0));
  const auto& bytes = result.at("bytes").at("dispatch");
  EXPECT_EQ(bytes.at("selection"), all_tokens * top_k * row_bytes);
  EXPECT_LE(bytes.at("rank"), bytes.at("selection"));
  EXPECT_LE(bytes.at("node"), bytes.at("rank"));
  EXPECT_EQ(bytes.at("node"), all_tokens * row_bytes);  // one host
  EXPECT_EQ(bytes.at("wire"), 0);
  EXPECT_EQ(result["bytes"]["combine"].at("selection"), all_tokens * top_k * output_bytes);
  EXPECT_GT(result.at("plan_share"), 0);
  EXPECT_LT(result.at("plan_share"), 1);
  EXPECT_EQ(result.at("missing_selections"), 0);
  EXPECT_GE(result.at("imbalance").at("expert"), 1);
  EXPECT_GE(result.at("padding_waste"), 0);
  EXPECT_LT(result.at("padding_waste"), 1);
}

// The CSV file has the figures of the JSON report in columns that are named for them, and the baselines in lines.
void CheckCsv(const std::string& csv, const nlohmann::json& json, size_t num_points) {
  std::vector<std::string> lines = absl::StrSplit(csv, '\n', absl::SkipEmpty());
  const std::vector<std::string> names = absl::StrSplit(lines[0], ',');
  const size_t num_results = json.at("results").size();
  ASSERT_EQ(lines.size(), 1 + 2 * num_results + 3 * num_points);  // mpi_row_per_rank stands with every path
  size_t result = 0;
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::vector<std::string> fields = absl::StrSplit(lines[i], ',');
    ASSERT_EQ(fields.size(), names.size()) << lines[i];
    const auto field = [&](absl::string_view name) {
      return fields[std::find(names.begin(), names.end(), name) - names.begin()];
    };
    if (!absl::StrContains("peer alltoallv allgather two_level auto", field("path"))) continue;  // a baseline
    for (size_t c = 0; c < names.size(); ++c) {
      const nlohmann::json::json_pointer at(absl::StrCat("/", absl::StrReplaceAll(names[c], {{".", "/"}})));
      const nlohmann::json& r = json["results"][result];
      ASSERT_EQ(fields[c].empty(), !r.contains(at)) << names[c];
      if (!fields[c].empty() && r.at(at).is_number()) {
        EXPECT_EQ(nlohmann::json::parse(fields[c]).get<double>(), r.at(at).get<double>()) << names[c];
      }
    }
    ++result;
  }
  EXPECT_EQ(result, num_results);
}

}  // namespace

void RunSmallAllToAllBench(Transport& transport) {
  TestRank rank(transport);
  AllToAllBenchOptions options;
  options.tokens = {7};
  options.memory_read_bytes = 1 << 16;
  options.hidden = {33};
  options.experts = {8};
  options.top_k = {3};
  options.dtypes = {DType::kBF16, DType::kF32, DType::kF8E4M3, DType::kI8};
  options.combine_dtypes = {DType::kF32, DType::kBF16};
  options.paths = {ExchangePath::kAllToAllV, ExchangePath::kAuto};
  options.placements = {"random:5"};
  options.traffics.clear();
  for (const char* text : {"uniform", "zipf:1", "hot:1", "grouped:4:2", "silent-rank"}) {
    options.traffics.push_back(*ParseTraffic(text));
  }
  options.warmup = 0;
  options.iters = 2;
  const auto report = RunAllToAllBench(rank.context, options);
  ASSERT_TRUE(report.ok()) << report.status();
  const auto json = nlohmann::json::parse(ReportJson(*report));
  EXPECT_EQ(json.at("machine").at("ranks"), transport.num_ranks());
  ASSERT_EQ(json.at("results").size(), 4u * 2 * 2 * 5);
  const bool mpi = transport.ToString().find("mpi") != std::string::npos;
  for (const auto& result : json["results"]) {
    CheckResult(result, transport.num_ranks());
    EXPECT_EQ(result.at("baselines").at("mpi_row_per_rank").contains("unavailable"), !mpi);
    CheckSummary(result.at("baselines").at("memcpy").at("round_trip"));
    if (!mpi) continue;
    for (const char* name : {"mpi_alltoallv", "mpi_row_per_rank", "mpi_row_per_expert"}) {
      CheckSummary(result.at("baselines").at(name).at("round_trip"));
    }
  }
  const std::string table = ReportTable(*report, PerRankTimes::kShow);
  EXPECT_NE(table.find("silent-rank"), std::string::npos);
  for (const absl::string_view line : absl::StrSplit(table, '\n')) EXPECT_LE(line.size(), 120u) << line;
  CheckCsv(ReportCsv(*report), json, report->points.size());
  EXPECT_NE(ReportSvg(*report).find("alltoallv, bf16/f32, uniform"), std::string::npos);
}

void RunWideAllToAllBench(Transport& transport) {
  TestRank rank(transport);
  AllToAllBenchOptions options;
  options.tokens = {64};
  options.memory_read_bytes = 1 << 16;
  options.hidden = {2048};
  options.experts = {32};
  options.warmup = 0;
  options.iters = 1;
  const auto report = RunAllToAllBench(rank.context, options);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->points.size(), 1u);
}

void RunSmallMoeBench(Transport& transport) {
  TestRank rank(transport);
  MoeBenchOptions options;
  options.tokens = {0, 5};
  options.hidden = {32};
  options.intermediate = {48};
  options.experts = {7};
  options.top_k = {3};
  options.weight_dtypes = {DType::kBF16, DType::kF8E4M3, DType::kF32};
  options.warmup = 0;
  options.iters = 2;
  for (const Compute compute : {Compute::kBF16, Compute::kF32}) {
    options.compute = compute;
    const auto report = RunMoeBench(rank.context, options);
    ASSERT_TRUE(report.ok()) << report.status();
    const auto json = nlohmann::json::parse(MoeJson(*report));
    ASSERT_EQ(json.at("results").size(), 6u);
    for (const auto& result : json["results"]) {
      for (const char* phase : {"route", "plan", "dispatch", "experts", "combine", "layer"}) {
        CheckSummary(result.at("phases").at(phase));
      }
    }
    for (const auto& result : json["results"]) {
      for (const char* rate : {"tokens_per_second", "expert_gflops", "weight_gbps", "of_bound"}) {
        EXPECT_EQ(result.contains(rate), result.at("tokens").get<int>() > 0) << rate;
      }
    }
    const std::string table = MoeTable(*report);
    for (const char* unit : {"(us)", "(1/s)", "(GFLOP/s)", "(GB/s)", "(%)", "weights fp8"}) {
      EXPECT_TRUE(absl::StrContains(table, unit)) << unit;
    }
    int num_empty = 0;
    for (const absl::string_view line : absl::StrSplit(table, '\n')) {
      EXPECT_LE(line.size(), 120u) << line;
      if (absl::StartsWith(line, "      0 auto>")) num_empty += absl::EndsWith(line, "-         -       -     -");
    }
    EXPECT_EQ(num_empty, 3) << table;
    for (const MoeResult& m : report->results) {
      EXPECT_EQ(m.flops, 6.0 * 32 * 48 * 3 * static_cast<double>(m.shape.max_tokens * transport.num_ranks()));
    }
  }
  options.top_k = {8};
  EXPECT_EQ(RunMoeBench(rank.context, options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace tokenferry
