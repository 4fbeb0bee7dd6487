#include "launch/reports/run_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "comm/transport/collectives.h"
#include "core/host/memory_info.h"
#include "core/io/report_figures.h"
#include "core/mib.h"
#include "launch/reports/json_fields.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
T Sum(const std::vector<T>& values) {
  return std::accumulate(values.begin(), values.end(), T{});
}

// What left for other ranks.
int64_t Remote(const std::vector<int64_t>& bytes_per_rank, RankId self) {
  return Sum(bytes_per_rank) - bytes_per_rank[self.value];
}

absl::StatusOr<RankReport> MakeReport(RankContext& context, ModelSession& session) {
  RankReport r;
  const RankId self = context.transport.rank();
  TF_ASSIGN_OR_RETURN(MoeStats moe, session.engine->moe_stats());
  TF_ASSIGN_OR_RETURN(const ProcessMemory memory, ReadProcessMemory());
  TF_ASSIGN_OR_RETURN(const ExchangeStats exchange, session.engine->exchange_stats());
  r.host = context.transport.host(self);
  r.num_experts = session.files->placement.num_local_slots(self);
  for (const auto& layer : moe.rows_per_slot) r.rows_per_layer.push_back(Sum(layer));
  r.rows = Sum(r.rows_per_layer);
  r.dispatch_bytes = Remote(exchange.dispatch_bytes_per_rank, self);
  r.combine_bytes = Remote(exchange.combine_bytes_per_rank, self);
  r.exchange = MakeExchangeReport(session.engine->exchange_path(), exchange, moe.num_calls,
                                  Topology::Of(context.transport), self);
  r.overflow = std::move(moe.overflow);
  const auto waits = context.transport.wait_seconds_per_rank();
  r.wait_seconds.assign(waits.begin(), waits.end());
  r.weight_bytes = session.weights.stats.bytes_kept;
  r.cache_bytes = session.engine->cache_bytes();
  r.declared_bytes = static_cast<int64_t>(context.device.peak_allocated_bytes()) + exchange.peak_peer_bytes;
  r.base_bytes = session.resident_before_load;
  r.resident_bytes = memory.resident_bytes;
  r.peak_bytes = memory.peak_resident_bytes;
  r.load_bytes = session.weights.stats.bytes_read;
  r.load_seconds = session.load_seconds;
  return r;
}

// What a layer has not counted is left out, so that a run without overflow is not pages of zeros.
struct OverflowCounters {
  const char* key;
  std::vector<int64_t> OverflowCounts::*counters;
};
constexpr OverflowCounters kOverflowCounters[] = {{"dropped_per_expert", &OverflowCounts::dropped},
                                                  {"rerouted_per_expert", &OverflowCounts::rerouted},
                                                  {"to_replica_per_expert", &OverflowCounts::to_replica}};

constexpr std::tuple kRankFields{std::pair{"host", &RankReport::host},
                                 std::pair{"experts_per_layer", &RankReport::num_experts},
                                 std::pair{"expert_rows", &RankReport::rows},
                                 std::pair{"expert_rows_per_layer", &RankReport::rows_per_layer},
                                 std::pair{"dispatch_bytes", &RankReport::dispatch_bytes},
                                 std::pair{"combine_bytes", &RankReport::combine_bytes},
                                 std::pair{"overflow_per_layer", &RankReport::overflow},
                                 std::pair{"wait_seconds_per_rank", &RankReport::wait_seconds},
                                 std::pair{"exchange", &RankReport::exchange},
                                 std::pair{"weight_bytes", &RankReport::weight_bytes},
                                 std::pair{"cache_bytes", &RankReport::cache_bytes},
                                 std::pair{"declared_bytes", &RankReport::declared_bytes},
                                 std::pair{"base_bytes", &RankReport::base_bytes},
                                 std::pair{"resident_bytes", &RankReport::resident_bytes},
                                 std::pair{"peak_resident_bytes", &RankReport::peak_bytes},
                                 std::pair{"load_bytes", &RankReport::load_bytes},
                                 std::pair{"load_seconds", &RankReport::load_seconds}};

double PerSecond(int64_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; }

struct RankLine {
  int64_t rank;
  const RankReport& report;
};
using RankColumn = FigureColumn<RankLine>;

// Of the tables: of runs (kFirst) and of memory (kSecond). Those without a key are of kRankFields.
const std::vector<RankColumn>& RankReportColumns() {
  static const auto* const columns = [] {
    auto* all = new std::vector<RankColumn>{{.value = [](const RankLine& l) -> Cell { return l.rank; },
                                             .table = Table::kEvery,
                                             .heading = "rank",
                                             .width = -5}};
    const auto add = [all](Table table, const char* heading, const char* unit, int width, int decimals,
                           std::function<Cell(const RankReport&)> value, const char* key = "") {
      all->push_back({.key = key,
                      .value = [value = std::move(value)](const RankLine& l) { return value(l.report); },
                      .table = table,
                      .heading = heading,
                      .unit = unit,
                      .width = width,
                      .decimals = decimals,
                      .scale = absl::StartsWith(unit, "MiB") ? kMibPerByte : 1});
    };
    using R = RankReport;
    add(Table::kFirst, "experts", "", 9, 0, [](const R& r) -> Cell { return int64_t{r.num_experts}; });
    add(Table::kFirst, "expert rows", "", 13, 0, [](const R& r) -> Cell { return r.rows; });
    add(Table::kFirst, "dispatched", "MiB", 12, 1, [](const R& r) -> Cell { return r.dispatch_bytes; });
    add(Table::kFirst, "combined", "MiB", 12, 1, [](const R& r) -> Cell { return r.combine_bytes; });
    add(Table::kFirst, "waited", "s", 10, 3, [](const R& r) -> Cell { return Sum(r.wait_seconds); });
    add(Table::kSecond, "load", "s", 9, 3, [](const R& r) -> Cell { return r.load_seconds; });
    add(Table::kSecond, "loaded", "MiB/s", 11, 1,
        [](const R& r) -> Cell { return PerSecond(r.load_bytes, r.load_seconds); });
    add(Table::kEvery, "weights", "MiB", 11, 1, [](const R& r) -> Cell { return r.weight_bytes; });
    add(Table::kSecond, "cache", "MiB", 11, 1, [](const R& r) -> Cell { return r.cache_bytes; });
    add(Table::kSecond, "declared", "MiB", 11, 1, [](const R& r) -> Cell { return r.declared_bytes; });
    add(Table::kSecond, "resident", "MiB", 11, 1, [](const R& r) -> Cell { return r.resident_bytes; });
    add(Table::kSecond, "program", "MiB", 11, 1, [](const R& r) -> Cell { return r.base_bytes; });
    // What the run added to the resident memory, of what it declared: weights, cache, buffers.
    add(
        Table::kSecond, "of declared", "", 12, 3,
        [](const R& r) -> Cell {
          return static_cast<double>(r.resident_bytes - r.base_bytes) / static_cast<double>(r.declared_bytes);
        },
        "/memory_ratio");
    add(Table::kEvery, "peak", "MiB", 11, 1, [](const R& r) -> Cell { return r.peak_bytes; });
    return all;
  }();
  return *columns;
}

std::string RankTable(Table table, const std::vector<RankReport>& ranks) {
  std::vector<RankLine> lines;
  for (const RankReport& r : ranks) lines.push_back({std::ssize(lines), r});
  return TableText(RankReportColumns(), table, lines);
}

// Empty when no policy had to do anything.
std::string OverflowLine(const std::vector<RankReport>& ranks) {
  int64_t dropped = 0, rerouted = 0, to_replica = 0, lost_tokens = 0;
  double lost_weight = 0;
  for (const RankReport& r : ranks) {
    for (const OverflowCounts& c : r.overflow) {
      dropped += Sum(c.dropped), rerouted += Sum(c.rerouted), to_replica += Sum(c.to_replica);
      lost_weight += Sum(c.lost_weight), lost_tokens += c.num_lost_tokens;
    }
  }
  if (dropped + rerouted + to_replica == 0) return "";
  return absl::StrFormat(
      "\noverflow, all layers: %d selections dropped with routing weight %.3f, %d rerouted, %d sent to a replica, %d "
      "times a token lost all\n",
      dropped, lost_weight, rerouted, to_replica, lost_tokens);
}

}  // namespace

// Where nlohmann's library looks for them: beside the structs.
static void to_json(Json& json, const OverflowCounts& c) {
  const auto any = [](const auto& values) {
    return std::any_of(values.begin(), values.end(), [](auto v) { return v != 0; });
  };
  json = Json::object();
  for (const auto& [key, counters] : kOverflowCounters) {
    if (any(c.*counters)) json[key] = c.*counters;
  }
  if (any(c.lost_weight)) json["lost_weight_per_expert"] = c.lost_weight;
  if (c.num_lost_tokens != 0) json["lost_tokens"] = c.num_lost_tokens;
}

static void from_json(const Json& json, OverflowCounts& c) {
  for (const auto& [key, counters] : kOverflowCounters) {
    if (json.contains(key)) json.at(key).get_to(c.*counters);
  }
  if (json.contains("lost_weight_per_expert")) json.at("lost_weight_per_expert").get_to(c.lost_weight);
  c.num_lost_tokens = json.value("lost_tokens", int64_t{0});
}

static void to_json(Json& json, const RankReport& report) { PutFields(json, report, kRankFields); }
static void from_json(const Json& json, RankReport& report) { TakeFields(json, report, kRankFields); }

absl::StatusOr<RunReport> CollectReport(RankContext& context, ModelSession& session) {
  RunReport report;
  report.engine = session.engine->stats();
  report.instruction_set = std::string(IsaName(context.isa));
  auto mine = MakeReport(context, session);
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, {"report"}, mine.status()));
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                      Gather(context.transport, {"report"}, RankId(0), Json(*mine).dump()));
  for (const std::string& text : all) {
    const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) return absl::DataLossError("report: a rank's report does not parse");
    report.ranks.push_back(json.get<RankReport>());
  }
  return report;
}

double RunReport::prefill_tokens_per_second() const { return PerSecond(engine.prefill_tokens, engine.prefill_seconds); }
double RunReport::decode_tokens_per_second() const { return PerSecond(engine.decode_tokens, engine.decode_seconds); }

double RunReport::balancedness() const {
  double mean = 0, busiest = 0;
  for (size_t l = 0; !ranks.empty() && l < ranks[0].rows_per_layer.size(); ++l) {
    int64_t sum = 0, most = 0;
    for (const RankReport& r : ranks) sum += r.rows_per_layer[l], most = std::max(most, r.rows_per_layer[l]);
    mean += static_cast<double>(sum) / static_cast<double>(ranks.size());
    busiest += static_cast<double>(most);
  }
  return busiest > 0 ? mean / busiest : 1;
}

std::string RunReport::Table() const {
  std::string out = absl::StrFormat("prefill  %6d tokens  %8.1f tokens/s\ndecode   %6d tokens  %8.1f tokens/s\n",
                                    engine.prefill_tokens, prefill_tokens_per_second(), engine.decode_tokens,
                                    decode_tokens_per_second());
  absl::StrAppendFormat(&out, "ranks %d on %s, balancedness %.3f\n\n", ranks.size(), instruction_set, balancedness());
  absl::StrAppend(&out, RankTable(Table::kFirst, ranks));
  std::vector<ExchangeReport> exchanges;
  for (const RankReport& r : ranks) exchanges.push_back(r.exchange);
  absl::StrAppend(&out, OverflowLine(ranks), "\n", ExchangeTable(exchanges));
  return out;
}

std::string RunReport::MemoryTable() const { return RankTable(Table::kSecond, ranks); }

nlohmann::ordered_json RunReport::Json() const {
  nlohmann::ordered_json per_rank = nlohmann::ordered_json::array();
  for (const RankReport& r : ranks) {
    per_rank.push_back(r);
    per_rank.back().update(FiguresJson(RankReportColumns(), RankLine{0, r}));
  }
  return {{"instruction_set", instruction_set},      {"steps", engine.num_steps},
          {"prefill_tokens", engine.prefill_tokens}, {"prefill_tokens_per_second", prefill_tokens_per_second()},
          {"decode_tokens", engine.decode_tokens},   {"decode_tokens_per_second", decode_tokens_per_second()},
          {"balancedness", balancedness()},          {"ranks", per_rank}};
}

}  // namespace tokenferry
