// Times one path of the exchange between hosts, and compares what it sends over the wire with its formula.
//   exchange_traffic PATH exact|node TOKENS HIDDEN EXPERTS TOP_K ITERS
// bf16 rows, uniform routing, linear placement, experts that do nothing. Rank 0 prints one JSON object:
// round trip: plan, dispatch and combine, of the slowest rank; bytes: sent by all hosts through eth0, and expected:
// rows of 2 H bytes and outputs of 4 H bytes that leave a host, 8 bytes per selection,
// and 4 for its weight with reduction node. plan, dispatch, combine: means.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

#include "absl/strings/numbers.h"
#include "comm/transport/collectives.h"
#include "comm/transport/mpi_session.h"
#include "comm/transport/mpi_transport.h"
#include "comm/tuning/cost_model.h"
#include "comm/tuning/exchange_choice.h"
#include "core/device/cpu_device.h"
#include "core/host/clock.h"

namespace tokenferry {
namespace {

struct Settings {
  ExchangePath path = ExchangePath::kAllToAllV;
  Reduction reduction = Reduction::kExact;
  int64_t tokens = 0, hidden = 0;
  int experts = 0, top_k = 0, iters = 0;
};

// Sent through eth0 of this network namespace; 0 without one.
int64_t SentBytes() {
  std::ifstream file("/proc/net/dev");
  for (std::string line; std::getline(file, line);) {
    const size_t at = line.find("eth0:");
    long long received = 0, sent = 0;
    if (at != std::string::npos &&
        std::sscanf(line.c_str() + at + 5, "%lld %*s %*s %*s %*s %*s %*s %*s %lld", &received, &sent) == 2) {
      return sent;
    }
  }
  return 0;
}

// What this rank causes on the wire in one exchange.
int64_t ExpectedBytes(const Settings& s, const std::vector<int32_t>& experts, const Placement& placement,
                      const Topology& topology, int me) {
  int64_t rank_rows = 0, host_rows = 0, selections = 0;
  for (int64_t t = 0; t < s.tokens; ++t) {
    std::vector<int> ranks, hosts;
    for (int k = 0; k < s.top_k; ++k) {
      const int r = placement.Choose(ExpertId(experts[t * s.top_k + k]), RankId(me), t).rank.value;
      if (topology.same_host(RankId(r), RankId(me))) continue;
      ++selections;
      ranks.push_back(r);
      hosts.push_back(topology.host_idx_per_rank[r]);
    }
    const auto distinct = [](std::vector<int>& v) {
      std::sort(v.begin(), v.end());
      return std::unique(v.begin(), v.end()) - v.begin();
    };
    rank_rows += distinct(ranks);
    host_rows += distinct(hosts);
  }
  const int64_t out = 4 * s.hidden, row = 2 * s.hidden, plan = 8 * selections;
  if (s.path != ExchangePath::kTwoLevel) return rank_rows * row + selections * out + plan;
  if (s.reduction == Reduction::kExact) return host_rows * row + selections * out + plan;
  return host_rows * (row + out) + plan + 4 * selections;
}

absl::StatusOr<int64_t> Total(Transport& transport, int64_t mine, bool largest) {
  TF_ASSIGN_OR_RETURN(const auto all, AllGather(transport, {"total"}, absl::StrCat(mine)));
  int64_t total = 0;
  for (const std::string& text : all) {
    int64_t n = 0;
    if (!absl::SimpleAtoi(text, &n)) return absl::DataLossError(text);
    total = largest ? std::max(total, n) : total + n;
  }
  return total;
}

absl::Status Run(Transport& transport, const Settings& s) {
  const int me = transport.rank().value;
  auto device = CreateCpuDevice({.num_threads = 1, .isa = BestIsa(SupportedIsas())});
  TF_ASSIGN_OR_RETURN(auto stream, device->CreateStream());
  TF_ASSIGN_OR_RETURN(auto exchange, CreateExchange(transport, *device,
                                                    {.hidden = s.hidden,
                                                     .wire_dtype = DType::kBF16,
                                                     .path = s.path,
                                                     .reduction = s.reduction,
                                                     .max_tokens = s.tokens,
                                                     .max_top_k = s.top_k}));
  const Placement placement = Placement::Linear(s.experts, transport.num_ranks());
  const Topology topology = Topology::Of(transport);
  std::mt19937 random(me + 1);
  std::vector<int32_t> all(s.experts), experts;
  for (int e = 0; e < s.experts; ++e) all[e] = e;
  for (int64_t t = 0; t < s.tokens; ++t) {
    for (int k = 0; k < s.top_k; ++k) std::swap(all[k], all[k + random() % (s.experts - k)]);
    experts.insert(experts.end(), all.begin(), all.begin() + s.top_k);
  }
  TF_ASSIGN_OR_RETURN(Buffer idx, device->Allocate(experts.size() * 4, MemoryKind::kDevice, "experts"));
  TF_ASSIGN_OR_RETURN(Buffer weight, device->Allocate(experts.size() * 4, MemoryKind::kDevice, "weights"));
  TF_ASSIGN_OR_RETURN(Buffer hidden, device->Allocate(s.tokens * s.hidden * 4, MemoryKind::kDevice, "hidden"));
  stream->CopyToDevice(idx.data(), experts.data(), idx.num_bytes());
  stream->Fill(weight.data(), 0, weight.num_bytes());
  stream->Fill(hidden.data(), 0, hidden.num_bytes());
  const Routing routing{MakeMatrix<int32_t>(idx.data(), s.tokens, s.top_k),
                        MakeMatrix<float>(weight.data(), s.tokens, s.top_k)};
  const auto rows = MakeMatrix<float>(hidden.data(), s.tokens, s.hidden);
  std::vector<int64_t> micros;
  int64_t sent = 0;
  ExchangeStats before;
  for (int i = -1; i < s.iters; ++i) {  // the first one warms up
    const CallSite site{"traffic", 0, i};
    TF_RETURN_IF_ERROR(Barrier(transport, site));
    if (i == 0) {
      sent = -SentBytes();
      TF_ASSIGN_OR_RETURN(before, exchange->stats(*stream));
    }
    const int64_t start = SteadyNanos();
    TF_RETURN_IF_ERROR(exchange->Plan(*stream, site, routing, placement));
    TF_ASSIGN_OR_RETURN(const ExpertRows arrived, exchange->Dispatch(*stream, site, rows));
    TF_ASSIGN_OR_RETURN(const FloatMatrix out, exchange->ExpertOut());
    if (i < 0 && arrived.max_selections > 0) stream->Fill(out.data, 0, arrived.max_selections * s.hidden * 4);
    TF_RETURN_IF_ERROR(exchange->Combine(*stream, site, routing.weight, rows));
    TF_RETURN_IF_ERROR(stream->Synchronize());
    TF_ASSIGN_OR_RETURN(const int64_t us, Total(transport, (SteadyNanos() - start) / 1000, true));
    if (i >= 0) micros.push_back(us);
  }
  TF_RETURN_IF_ERROR(Barrier(transport, {"end"}));
  const bool speaks_for_host = topology.local_idx_per_rank[me] == 0;
  TF_ASSIGN_OR_RETURN(sent, Total(transport, speaks_for_host ? sent + SentBytes() : 0, false));
  TF_ASSIGN_OR_RETURN(const int64_t expected,
                      Total(transport, ExpectedBytes(s, experts, placement, topology, me), false));
  TF_ASSIGN_OR_RETURN(const ExchangeStats stats, exchange->stats(*stream));
  constexpr double ExchangeStats::*kPhases[] = {&ExchangeStats::plan_seconds, &ExchangeStats::dispatch_seconds,
                                                &ExchangeStats::combine_seconds};
  int64_t phase_us[3];
  for (int i = 0; i < 3; ++i) {
    const double ExchangeStats::*phase = kPhases[i];
    const double seconds = stats.*phase - before.*phase;
    TF_ASSIGN_OR_RETURN(phase_us[i], Total(transport, static_cast<int64_t>(seconds * 1e6 / s.iters), true));
  }
  if (me != 0) return absl::OkStatus();
  std::sort(micros.begin(), micros.end());
  std::printf(
      "{\"path\": \"%s\", \"reduction\": \"%s\", \"hosts\": %d, \"ranks\": %d, \"tokens\": %lld, \"median_us\": %lld, "
      "\"min_us\": %lld, \"plan_us\": %lld, \"dispatch_us\": %lld, \"combine_us\": %lld, \"sent_bytes\": %lld, "
      "\"expected_bytes\": %lld}\n",
      ExchangePathName(exchange->path()), s.reduction == Reduction::kNode ? "node" : "exact", topology.num_hosts(),
      topology.num_ranks(), static_cast<long long>(s.tokens), static_cast<long long>(micros[micros.size() / 2]),
      static_cast<long long>(micros[0]), static_cast<long long>(phase_us[0]), static_cast<long long>(phase_us[1]),
      static_cast<long long>(phase_us[2]), static_cast<long long>(sent / s.iters), static_cast<long long>(expected));
  return absl::OkStatus();
}

bool Parse(char** argv, Settings& s) {
  bool known = false;
  for (const PathName& entry : kPathNames) {
    if (std::strcmp(argv[1], entry.name) != 0) continue;
    s.path = entry.path;
    known = true;
  }
  s.reduction = std::strcmp(argv[2], "node") == 0 ? Reduction::kNode : Reduction::kExact;
  return known && absl::SimpleAtoi(argv[3], &s.tokens) && absl::SimpleAtoi(argv[4], &s.hidden) &&
         absl::SimpleAtoi(argv[5], &s.experts) && absl::SimpleAtoi(argv[6], &s.top_k) &&
         absl::SimpleAtoi(argv[7], &s.iters) && s.tokens > 0 && s.hidden > 0 && s.top_k > 0 && s.top_k <= s.experts &&
         s.iters > 0;
}

int Main(const Settings& settings) {
  auto session = MpiSession::Start(OnSigterm::kRequestStop);
  if (!session.ok()) return 2;
  auto transport = CreateMpiTransport({.timeout = absl::Seconds(60)});
  const absl::Status status = transport.ok() ? Run(**transport, settings) : transport.status();
  if (status.ok()) return 0;
  std::fprintf(stderr, "exchange_traffic: %s\n", status.ToString().c_str());
  if (transport.ok()) (*transport)->Abort(status);
  return 1;
}

}  // namespace
}  // namespace tokenferry

int main(int argc, char** argv) {
  tokenferry::Settings settings;
  if (argc != 8 || !tokenferry::Parse(argv, settings)) {
    std::fprintf(stderr, "usage: exchange_traffic PATH exact|node TOKENS HIDDEN EXPERTS TOP_K ITERS\n");
    return 2;
  }
  return tokenferry::Main(settings);
}
