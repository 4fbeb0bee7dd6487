#include "comm/two_level_state.h"

#include <utility>

namespace tokenferry {

// Exact: outputs go back in the order of their sources' selections; what stays on the host is read where it lies.
void TwoLevelState::PlanOutputs(const TwoLevelRoutes& routes, const SendPlan& send, int64_t outputs_per_rank) {
  const int me = routes.me.value;
  const auto output_idx = [&](int rank, int64_t i) { return static_cast<int32_t>(rank * outputs_per_rank + i); };
  for (int s : routes.my_sources()) {
    if (s == me) continue;
    for (size_t d = 0; d < routes.ranks.size(); ++d) {
      const ToldPlan& theirs = told[d];
      for (int64_t i = theirs.selection_offsets[s]; i < theirs.selection_offsets[s + 1]; ++i) {
        back_output.push_back(output_idx(routes.ranks[d], theirs.selections[i].output));
      }
      back.send[s + 1] += theirs.selection_offsets[s + 1] - theirs.selection_offsets[s];
    }
  }
  std::vector<int32_t> location(send.selections.size());  // of each selection of the plan
  for (size_t d = 0; d < routes.ranks.size(); ++d) {
    const ToldPlan& theirs = told[d];
    const int64_t first = send.selection_offsets[routes.ranks[d]];
    for (int64_t i = theirs.selection_offsets[me]; i < theirs.selection_offsets[me + 1]; ++i) {
      location[first + i - theirs.selection_offsets[me]] = output_idx(routes.ranks[d], theirs.selections[i].output);
    }
  }
  int64_t next = num_own_outputs;
  for (int h : routes.others_by_server) {
    const int64_t begin = next;
    for (RankId d : routes.hosts[h].ranks) {
      for (int64_t x = send.selection_offsets[d.value]; x < send.selection_offsets[d.value + 1]; ++x) {
        location[x] = output_idx(me, next++);
      }
    }
    back.recv[routes.server_per_host[h] + 1] = next - begin;
  }
  back.Sum();
  for (int32_t x : send.combine_selection) combine_output.push_back(location[x]);
}

// Node: a sum per row, here and at home.
absl::Status TwoLevelState::PlanSums(const TwoLevelRoutes& routes, const SendPlan& send, int64_t outputs_per_rank) {
  const int me = routes.me.value;
  auto host_sums = BuildHostSums(routes, told, row_counts, outputs_per_rank);
  if (!host_sums.ok()) return host_sums.status();
  sums = *std::move(host_sums);
  for (int s : routes.my_sources()) {
    if (s != me) back.send[s + 1] = row_counts[s];
    for (const ToldPlan& theirs : told) {
      weights.recv[s + 1] += theirs.selection_offsets[s + 1] - theirs.selection_offsets[s];
    }
  }
  for (size_t h = 0; h < routes.hosts.size(); ++h) {
    const int server = routes.server_per_host[h];
    if (server != me) back.recv[server + 1] = static_cast<int64_t>(host.row_token[h].size());
    for (RankId d : routes.hosts[h].ranks) {
      weights.send[server + 1] += send.selection_offsets[d.value + 1] - send.selection_offsets[d.value];
    }
  }
  back.Sum();
  weights.Sum();
  // Positions count own selections last, but weights arrive by rank.
  const int64_t num_before = weights.recv[me], num_own = weights.recv[me + 1] - num_before;
  const int64_t num_others = weights.recv.back() - num_own;
  for (int32_t& p : sums.position) {
    if (p >= num_others) {
      p = static_cast<int32_t>(p - num_others + num_before);
    } else if (p >= num_before) {
      p = static_cast<int32_t>(p + num_own);
    }
  }
  PlanHomeSums(routes, send.num_tokens);
  return absl::OkStatus();
}

// Each token's sums, by host: those that arrive, then those of this host.
void TwoLevelState::PlanHomeSums(const TwoLevelRoutes& routes, int64_t num_tokens) {
  const int me = routes.me.value;
  home_offsets.assign(num_tokens + 1, 0);
  for (const std::vector<int32_t>& tokens : host.row_token) {
    for (int32_t t : tokens) ++home_offsets[t + 1];
  }
  std::partial_sum(home_offsets.begin(), home_offsets.end(), home_offsets.begin());
  home_row.resize(home_offsets.back());
  home_k.assign(home_offsets.back(), 0);
  std::vector<int64_t> next(home_offsets.begin(), home_offsets.end() - 1);
  for (size_t h = 0; h < routes.hosts.size(); ++h) {
    const int server = routes.server_per_host[h];
    int64_t row = server == me ? back.recv.back() : back.recv[server];
    for (int32_t t : host.row_token[h]) home_row[next[t]++] = static_cast<int32_t>(row++);
  }
}

}  // namespace tokenferry
