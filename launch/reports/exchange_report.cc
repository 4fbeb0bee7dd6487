#include "launch/reports/exchange_report.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "core/mib.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const LinkBytes& bytes) { return {{"self", bytes.self}, {"host", bytes.host}, {"network", bytes.network}}; }

LinkBytes LinkBytesFromJson(const Json& json) {
  return {json.at("self").get<int64_t>(), json.at("host").get<int64_t>(), json.at("network").get<int64_t>()};
}

}  // namespace

ExchangeReport MakeExchangeReport(std::string path, const ExchangeStats& stats, int64_t num_layer_calls,
                                  const Topology& topology, RankId self) {
  return {.path = std::move(path),
          .num_exchanges = stats.num_exchanges,
          .num_layer_calls = num_layer_calls,
          .row_bytes = stats.row_bytes,
          .output_bytes = stats.output_bytes,
          .bases = stats.bases,
          .dispatch = BytesPerLink(stats.dispatch_bytes_per_rank, topology, self),
          .combine = BytesPerLink(stats.combine_bytes_per_rank, topology, self),
          .wait_seconds = stats.wait_seconds_per_rank};
}

Json ToJson(const ExchangeReport& r) {
  return {{"path", r.path},
          {"exchanges", r.num_exchanges},
          {"layer_calls", r.num_layer_calls},
          {"row_bytes", r.row_bytes},
          {"output_bytes", r.output_bytes},
          {"rows_per_basis",
           {{"selection", r.bases.selection}, {"rank", r.bases.rank}, {"node", r.bases.node}, {"wire", r.bases.wire}}},
          {"dispatch_bytes_per_link", ToJson(r.dispatch)},
          {"combine_bytes_per_link", ToJson(r.combine)},
          {"wait_seconds_per_rank", r.wait_seconds}};
}

ExchangeReport ExchangeReportFromJson(const Json& json) {
  ExchangeReport r;
  json.at("path").get_to(r.path);
  json.at("exchanges").get_to(r.num_exchanges);
  json.at("layer_calls").get_to(r.num_layer_calls);
  json.at("row_bytes").get_to(r.row_bytes);
  json.at("output_bytes").get_to(r.output_bytes);
  const Json& bases = json.at("rows_per_basis");
  bases.at("selection").get_to(r.bases.selection);
  bases.at("rank").get_to(r.bases.rank);
  bases.at("node").get_to(r.bases.node);
  bases.at("wire").get_to(r.bases.wire);
  r.dispatch = LinkBytesFromJson(json.at("dispatch_bytes_per_link"));
  r.combine = LinkBytesFromJson(json.at("combine_bytes_per_link"));
  json.at("wait_seconds_per_rank").get_to(r.wait_seconds);
  return r;
}

std::string ExchangeTable(const std::vector<ExchangeReport>& ranks) {
  if (ranks.empty()) return "";
  RowBases bases;
  LinkBytes dispatch, combine;
  for (const ExchangeReport& r : ranks) {
    bases += r.bases;
    dispatch += r.dispatch;
    combine += r.combine;
  }
  const ExchangeReport& first = ranks[0];  // paths and counts are the same on every rank
  std::string out =
      absl::StrFormat("exchange: path %s, %d exchanges in %d layer calls; MiB sent by link, and by basis\n", first.path,
                      first.num_exchanges, first.num_layer_calls);
  absl::StrAppendFormat(&out, "%-9s %9s %9s %9s  %10s %9s %9s %9s\n", "", "self", "host", "network", "selection",
                        "rank", "node", "wire");
  const auto line = [&](const char* name, const LinkBytes& sent, int64_t num_bytes) {
    absl::StrAppendFormat(&out, "%-9s %9.2f %9.2f %9.2f  %10.2f %9.2f %9.2f %9.2f\n", name, Mib(sent.self),
                          Mib(sent.host), Mib(sent.network), Mib(bases.selection * num_bytes),
                          Mib(bases.rank * num_bytes), Mib(bases.node * num_bytes), Mib(bases.wire * num_bytes));
  };
  line("dispatch", dispatch, first.row_bytes);
  line("combine", combine, first.output_bytes);
  absl::StrAppend(&out, "\nseconds waited in exchanges, by rank (lines) for rank (columns)\n", "    ");
  for (size_t i = 0; i < ranks.size(); ++i) absl::StrAppendFormat(&out, " %8d", i);
  for (size_t i = 0; i < ranks.size(); ++i) {
    absl::StrAppendFormat(&out, "\n%-4d", i);
    for (double seconds : ranks[i].wait_seconds) absl::StrAppendFormat(&out, " %8.3f", seconds);
  }
  return absl::StrCat(out, "\n");
}

}  // namespace tokenferry
