#include "comm/exchange/two_level/two_level_state.h"

#include <algorithm>
#include <utility>

#include "comm/transport/transport.h"

namespace tokenferry {

void TwoLevelState::Clear(int num_ranks) {
  for (MessageOffsets* offsets : {&rows, &back, &weights}) offsets->Clear(num_ranks);
  published.clear();
  row_counts.clear();
  wire_token.clear();
  combine_output.clear();
}

// Exact: outputs go back in the order of their rows; what stays on the host is read where it lies.
void TwoLevelState::PlanRows(const TwoLevelRoutes& routes, const RecvPlan& recv) {
  for (int h : routes.others_by_server) {
    const std::vector<int32_t>& tokens = host.row_token[h];
    wire_token.insert(wire_token.end(), tokens.begin(), tokens.end());
    rows.send[routes.server_per_host[h] + 1] = static_cast<int64_t>(tokens.size());
  }
  for (size_t s = 0; s + 1 < recv.row_offsets.size(); ++s) {
    row_counts.push_back(recv.row_offsets[s + 1] - recv.row_offsets[s]);
  }
  for (int s : routes.my_sources()) {
    if (s != routes.me.value) rows.recv[s + 1] = row_counts[s];
  }
  rows.Sum();
  num_own_outputs = recv.selection_offsets.back();
}

absl::Status TwoLevelState::LocateRows(const TwoLevelRoutes& routes, const RecvPlan& recv, int64_t rows_per_rank) {
  row_location.resize(recv.row_idx.size());
  for (size_t m = 0; m < routes.ranks.size(); ++m) {
    int64_t begin = 0;  // of a source's rows among those that its server has
    for (int s : routes.sources[m]) {
      const int64_t shift = routes.ranks[m] * rows_per_rank + begin - recv.row_offsets[s];
      for (int64_t i = recv.selection_offsets[s]; i < recv.selection_offsets[s + 1]; ++i) {
        const int32_t at = recv.return_selection[i];
        row_location[at] = static_cast<int32_t>(recv.row_idx[at] + shift);
      }
      begin += row_counts[s];
    }
    if (begin == published[m].num_rows) continue;
    return absl::DataLossError(absl::StrCat("rank ", routes.ranks[m], " serves ", published[m].num_rows,
                                            " rows, but its sources have announced ", begin, " to rank ",
                                            routes.me.value));
  }
  return absl::OkStatus();
}

absl::Status TwoLevelState::PlanOutputs(const TwoLevelRoutes& routes, const SendPlan& send, int64_t outputs_per_rank,
                                        int64_t out_bytes) {
  TF_RETURN_IF_ERROR(BuildHostSums(routes, published, row_counts, outputs_per_rank, sums));
  for (int s : routes.my_sources()) {
    if (s == routes.me.value) continue;
    for (const PublishedPlan& theirs : published) {
      back.send[s + 1] += theirs.selection_offsets[s + 1] - theirs.selection_offsets[s];
    }
  }
  for (int h : routes.others_by_server) {
    for (RankId d : routes.hosts[h].ranks) {
      back.recv[routes.server_per_host[h] + 1] += send.selection_offsets[d.value + 1] - send.selection_offsets[d.value];
    }
  }
  back.Sum();
  PlanReturns(routes, send, outputs_per_rank, out_bytes);
  return absl::OkStatus();
}

// Where each output is found that home sums. A host's come in the order of HostSums: token, expert, selection.
void TwoLevelState::PlanReturns(const TwoLevelRoutes& routes, const SendPlan& send, int64_t outputs_per_rank,
                                int64_t out_bytes) {
  const int me = routes.me.value, num_hosts = static_cast<int>(routes.hosts.size());
  const auto output_idx = [&](int rank, int64_t i) { return static_cast<int32_t>(rank * outputs_per_rank + i); };
  location_.resize(send.selections.size());
  host_of_.resize(send.selections.size());
  next_.resize(num_hosts);
  for (int h = 0; h < num_hosts; ++h) {
    next_[h] = num_own_outputs + back.recv[routes.server_per_host[h]];
    for (RankId d : routes.hosts[h].ranks) {
      std::fill(host_of_.begin() + send.selection_offsets[d.value],
                host_of_.begin() + send.selection_offsets[d.value + 1], h);
    }
  }
  for (size_t d = 0; d < routes.ranks.size(); ++d) {
    const PublishedPlan& theirs = published[d];
    const int64_t first = send.selection_offsets[routes.ranks[d]];
    for (int64_t i = theirs.selection_offsets[me]; i < theirs.selection_offsets[me + 1]; ++i) {
      location_[first + i - theirs.selection_offsets[me]] = output_idx(routes.ranks[d], theirs.selections[i].output);
    }
  }
  token_per_output_.resize(num_hosts);
  for (std::vector<int32_t>& tokens : token_per_output_) tokens.clear();
  for (int64_t t = 0; t < send.num_tokens; ++t) {
    of_token_.assign(send.combine_selection.begin() + send.combine_offsets[t],
                     send.combine_selection.begin() + send.combine_offsets[t + 1]);
    // Home sums the outputs of one expert by position in the top-k; here they are by rank first.
    std::sort(of_token_.begin(), of_token_.end(), [&](int32_t a, int32_t b) {
      return std::pair(send.selection_expert[a], a) < std::pair(send.selection_expert[b], b);
    });
    for (int32_t x : of_token_) {
      const int h = host_of_[x];
      if (h == routes.my_host) continue;
      location_[x] = output_idx(me, next_[h]++);
      token_per_output_[h].push_back(static_cast<int32_t>(t));
    }
  }
  for (int32_t x : send.combine_selection) combine_output.push_back(location_[x]);
  FindReadyTokens(routes, token_per_output_, send.num_tokens, out_bytes);
}

void TwoLevelState::FindReadyTokens(const TwoLevelRoutes& routes,
                                    const std::vector<std::vector<int32_t>>& token_per_item, int64_t num_tokens,
                                    int64_t item_bytes) {
  for (int p = 0; p < num_back_parts; ++p) {
    tokens_ready[p] = num_tokens;
    for (int h : routes.others_by_server) {
      const auto n = static_cast<int64_t>(token_per_item[h].size());
      const int64_t end = RowsOfPart(n, item_bytes, p, num_back_parts).end;
      if (end < n) tokens_ready[p] = std::min<int64_t>(tokens_ready[p], token_per_item[h][end]);
    }
  }
}

// Node: a sum per row, here and at home.
absl::Status TwoLevelState::PlanSums(const TwoLevelRoutes& routes, const SendPlan& send, int64_t outputs_per_rank,
                                     int64_t out_bytes) {
  const int me = routes.me.value;
  TF_RETURN_IF_ERROR(BuildHostSums(routes, published, row_counts, outputs_per_rank, sums));
  for (int s : routes.my_sources()) {
    if (s != me) back.send[s + 1] = row_counts[s];
    for (const PublishedPlan& theirs : published) {
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
  FindReadyTokens(routes, host.row_token, send.num_tokens, out_bytes);
  return absl::OkStatus();
}

void TwoLevelState::PlanWeights(const TwoLevelRoutes& routes, const SendPlan& send, int64_t stride) {
  token_of_.resize(send.selections.size());
  for (int64_t t = 0; t < send.num_tokens; ++t) {
    for (int64_t i = send.combine_offsets[t]; i < send.combine_offsets[t + 1]; ++i) {
      token_of_[send.combine_selection[i]] = static_cast<int32_t>(t);
    }
  }
  weight_idx.resize(send.selections.size());
  next_ = weights.send;  // of each server's message
  for (size_t h = 0; h < routes.hosts.size(); ++h) {
    int64_t& at = next_[routes.server_per_host[h]];
    for (RankId d : routes.hosts[h].ranks) {
      for (int64_t x = send.selection_offsets[d.value]; x < send.selection_offsets[d.value + 1]; ++x) {
        weight_idx[at++] = static_cast<int32_t>(token_of_[x] * stride + send.selection_k[x]);
      }
    }
  }
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
  next_.assign(home_offsets.begin(), home_offsets.end() - 1);
  for (size_t h = 0; h < routes.hosts.size(); ++h) {
    const int server = routes.server_per_host[h];
    int64_t row = server == me ? back.recv.back() : back.recv[server];
    for (int32_t t : host.row_token[h]) home_row[next_[t]++] = static_cast<int32_t>(row++);
  }
}

}  // namespace tokenferry
