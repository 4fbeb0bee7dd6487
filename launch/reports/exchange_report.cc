#include "launch/reports/exchange_report.h"

#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "absl/strings/str_format.h"
#include "core/mib.h"
#include "launch/reports/json_fields.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::tuple kLinkFields{std::pair{"self", &LinkBytes::self}, std::pair{"host", &LinkBytes::host},
                                 std::pair{"network", &LinkBytes::network}};
constexpr std::tuple kBasisFields{std::pair{"selection", &RowBases::selection}, std::pair{"rank", &RowBases::rank},
                                  std::pair{"node", &RowBases::node}, std::pair{"wire", &RowBases::wire}};
constexpr std::tuple kExchangeFields{std::pair{"path", &ExchangeReport::path},
                                     std::pair{"exchanges", &ExchangeReport::num_exchanges},
                                     std::pair{"layer_calls", &ExchangeReport::num_layer_calls},
                                     std::pair{"row_bytes", &ExchangeReport::row_bytes},
                                     std::pair{"output_bytes", &ExchangeReport::output_bytes},
                                     std::pair{"rows_per_basis", &ExchangeReport::bases},
                                     std::pair{"dispatch_bytes_per_link", &ExchangeReport::dispatch},
                                     std::pair{"combine_bytes_per_link", &ExchangeReport::combine},
                                     std::pair{"wait_seconds_per_rank", &ExchangeReport::wait_seconds}};

}  // namespace

// Where nlohmann's library looks for them: beside the structs.
static void to_json(Json& json, const LinkBytes& bytes) { PutFields(json, bytes, kLinkFields); }
static void from_json(const Json& json, LinkBytes& bytes) { TakeFields(json, bytes, kLinkFields); }
static void to_json(Json& json, const RowBases& bases) { PutFields(json, bases, kBasisFields); }
static void from_json(const Json& json, RowBases& bases) { TakeFields(json, bases, kBasisFields); }

void to_json(Json& json, const ExchangeReport& report) { PutFields(json, report, kExchangeFields); }
void from_json(const Json& json, ExchangeReport& report) { TakeFields(json, report, kExchangeFields); }

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
