#include "comm/two_level_plan.h"

#include <algorithm>
#include <limits>

#include "comm/exchange.h"

namespace tokenferry {
namespace {

int ServerOn(const Topology::Host& host, const Topology& topology, RankId source) {
  if (host.name == topology.hosts[topology.host_idx_per_rank[source.value]].name) return source.value;
  return host.ranks[topology.local_idx_per_rank[source.value] % host.ranks.size()].value;
}

// [n] the position in the host's block of each selection of SendPlan that is for this host, -1 for others.
std::vector<int32_t> BlockPositions(const SendPlan& plan, const Topology::Host& host) {
  std::vector<int32_t> positions(plan.selections.size(), -1);
  int32_t next = 0;
  for (RankId d : host.ranks) {
    for (int64_t x = plan.selection_offsets[d.value]; x < plan.selection_offsets[d.value + 1]; ++x)
      positions[x] = next++;
  }
  return positions;
}

void AddReduction(const SendPlan& plan, const Topology::Host& host, HostMessage& message) {
  const std::vector<int32_t> block = BlockPositions(plan, host);
  std::vector<int32_t> positions;
  for (const int32_t t : message.row_token) {
    const size_t before = positions.size();
    for (int64_t i = plan.combine_offsets[t]; i < plan.combine_offsets[t + 1]; ++i) {
      const int32_t position = block[plan.combine_selection[i]];
      if (position < 0) continue;
      positions.push_back(position);
      message.weight_token.push_back(t);
      message.weight_k.push_back(plan.combine_k[i]);
    }
    message.lists.push_back(static_cast<int32_t>(positions.size() - before));
  }
  message.lists.insert(message.lists.end(), positions.begin(), positions.end());
}

}  // namespace

TwoLevelRoutes TwoLevelRoutes::Make(const Topology& topology, RankId me) {
  TwoLevelRoutes routes{.me = me, .hosts = topology.hosts};
  for (const Topology::Host& host : topology.hosts) routes.server_per_host.push_back(ServerOn(host, topology, me));
  const Topology::Host& mine = topology.hosts[topology.host_idx_per_rank[me.value]];
  routes.local_idx = topology.local_idx_per_rank[me.value];
  routes.sources.resize(mine.ranks.size());
  for (RankId r : mine.ranks) routes.ranks.push_back(r.value);
  for (int s = 0; s < topology.num_ranks(); ++s) {
    const int server = ServerOn(mine, topology, RankId(s));
    routes.sources[topology.local_idx_per_rank[server]].push_back(s);
  }
  return routes;
}

HostMessage BuildHostMessage(const SendPlan& plan, const Topology::Host& host, Reduction reduction) {
  HostMessage message;
  std::vector<int32_t> row_of_token(plan.num_tokens, -1);
  for (RankId d : host.ranks) {
    for (int64_t i = plan.row_offsets[d.value]; i < plan.row_offsets[d.value + 1]; ++i)
      row_of_token[plan.row_token[i]] = 0;
  }
  for (int64_t t = 0; t < plan.num_tokens; ++t) {
    if (row_of_token[t] < 0) continue;
    row_of_token[t] = static_cast<int32_t>(message.row_token.size());
    message.row_token.push_back(static_cast<int32_t>(t));
  }
  message.counts.push_back(static_cast<int32_t>(message.row_token.size()));
  for (RankId d : host.ranks) {
    const auto count = [&](const std::vector<int64_t>& offsets) {
      return static_cast<int32_t>(offsets[d.value + 1] - offsets[d.value]);
    };
    message.counts.push_back(count(plan.row_offsets));
    message.counts.push_back(count(plan.selection_offsets));
    for (int64_t i = plan.row_offsets[d.value]; i < plan.row_offsets[d.value + 1]; ++i) {
      message.lists.push_back(row_of_token[plan.row_token[i]]);
    }
  }
  if (reduction == Reduction::kNode) AddReduction(plan, host, message);
  return message;
}

int64_t ServedSource::num_forwards() const {
  int64_t n = 0;
  for (int d = 0; d < num_ranks(); ++d) n += rows_for(d);
  return n;
}

int64_t ServedSource::num_selections() const {
  int64_t n = 0;
  for (int d = 0; d < num_ranks(); ++d) n += selections_for(d);
  return n;
}

int64_t ServedSource::num_lists(Reduction reduction) const {
  return num_forwards() + (reduction == Reduction::kNode ? num_rows() + num_selections() : 0);
}

absl::Status ValidateCounts(const ServedSource& served) {
  bool good = std::all_of(served.counts.begin(), served.counts.end(), [](int32_t n) { return n >= 0; }) &&
              served.num_selections() <= std::numeric_limits<int32_t>::max() &&
              served.num_rows() <= served.num_forwards();
  for (int d = 0; d < served.num_ranks(); ++d) {
    good = good && served.rows_for(d) <= served.num_rows() && served.rows_for(d) <= served.selections_for(d);
  }
  if (good) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("plan from rank ", served.source, ": announces ", served.num_rows(),
                                          " rows for this host, forwarded ", served.num_forwards(), " times, with ",
                                          served.num_selections(), " selections"));
}

absl::Status ValidateLists(const ServedSource& served, Reduction reduction) {
  const auto within = [&](absl::Span<const int32_t> values, int64_t end, const char* what) {
    for (const int32_t value : values) {
      if (value >= 0 && value < end) continue;
      return absl::DataLossError(
          absl::StrCat("plan from rank ", served.source, ": its ", what, " names ", value, " of ", end));
    }
    return absl::OkStatus();
  };
  TF_RETURN_IF_ERROR(within(served.forwards(), served.num_rows(), "list of rows to forward"));
  if (reduction == Reduction::kExact) return absl::OkStatus();
  TF_RETURN_IF_ERROR(within(served.positions(), served.num_selections(), "list of selections to sum"));
  int64_t num_selections = 0;
  for (const int32_t n : served.selections_per_row()) {
    if (n < 0) num_selections = std::numeric_limits<int32_t>::min();
    num_selections += n;
  }
  if (num_selections == served.num_selections()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("plan from rank ", served.source, ": the selections of its rows do not make ",
                                          served.num_selections()));
}

}  // namespace tokenferry
