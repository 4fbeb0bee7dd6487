#include "comm/exchange/two_level/two_level_plan.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "comm/peer/peer_flags.h"
#include "core/round_up.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxTwoLevelBytes = int64_t{1} << 36;  // of addresses per rank

int ServerOn(const Topology::Host& host, const Topology& topology, RankId source) {
  if (host.name == topology.hosts[topology.host_idx_per_rank[source.value]].name) return source.value;
  return host.ranks[topology.local_idx_per_rank[source.value] % host.ranks.size()].value;
}

}  // namespace

TwoLevelRoutes TwoLevelRoutes::Make(const Topology& topology, RankId me) {
  TwoLevelRoutes routes{.me = me, .hosts = topology.hosts, .my_host = topology.host_idx_per_rank[me.value]};
  for (const Topology::Host& host : topology.hosts) routes.server_per_host.push_back(ServerOn(host, topology, me));
  for (int h = 0; h < topology.num_hosts(); ++h) {
    if (h != routes.my_host) routes.others_by_server.push_back(h);
  }
  std::sort(routes.others_by_server.begin(), routes.others_by_server.end(),
            [&](int a, int b) { return routes.server_per_host[a] < routes.server_per_host[b]; });
  const Topology::Host& mine = topology.hosts[routes.my_host];
  routes.local_idx = topology.local_idx_per_rank[me.value];
  routes.sources.resize(mine.ranks.size());
  for (RankId r : mine.ranks) routes.ranks.push_back(r.value);
  for (int s = 0; s < topology.num_ranks(); ++s) {
    if (topology.same_host(RankId(s), me)) continue;
    routes.sources[topology.local_idx_per_rank[ServerOn(mine, topology, RankId(s))]].push_back(s);
  }
  for (size_t m = 0; m < routes.ranks.size(); ++m) routes.sources[m].push_back(routes.ranks[m]);
  return routes;
}

void BuildHostPlan(const SendPlan& send, absl::Span<const Topology::Host> hosts, HostPlan& plan) {
  plan.told.num_tokens = send.num_tokens;
  plan.told.selection_offsets = send.selection_offsets;
  plan.told.selections = send.selections;
  plan.told.row_offsets.assign(send.row_offsets.size(), 0);
  plan.row_token.resize(hosts.size());
  std::vector<int32_t>& row_of_token = plan.row_of_token;
  for (size_t h = 0; h < hosts.size(); ++h) {
    const Topology::Host& host = hosts[h];
    std::vector<int32_t>& row_token = plan.row_token[h];
    row_token.clear();
    row_of_token.assign(send.num_tokens, -1);
    for (RankId d : host.ranks) {
      for (int64_t i = send.row_offsets[d.value]; i < send.row_offsets[d.value + 1]; ++i) {
        row_of_token[send.row_token[i]] = 0;
      }
    }
    for (int64_t t = 0; t < send.num_tokens; ++t) {
      if (row_of_token[t] < 0) continue;
      row_of_token[t] = static_cast<int32_t>(row_token.size());
      row_token.push_back(static_cast<int32_t>(t));
    }
    for (RankId d : host.ranks) {
      plan.told.row_offsets[d.value + 1] = static_cast<int64_t>(row_token.size());
      for (int64_t x = send.selection_offsets[d.value]; x < send.selection_offsets[d.value + 1]; ++x) {
        int32_t& row = plan.told.selections[x].row_idx;
        row = row_of_token[send.row_token[send.row_offsets[d.value] + row]];
      }
    }
  }
  std::partial_sum(plan.told.row_offsets.begin(), plan.told.row_offsets.end(), plan.told.row_offsets.begin());
}

int64_t TwoLevelRoutes::NumSentAway(const SendPlan& send) const {
  int64_t n = send.selection_offsets.back();
  for (int r : ranks) n -= send.selection_offsets[r + 1] - send.selection_offsets[r];
  return n;
}

absl::StatusOr<TwoLevelLayout> MakeTwoLevelLayout(int num_ranks, int64_t row_bytes, int64_t out_bytes) {
  TwoLevelLayout layout;
  // Both matrices begin their next part after as many bytes.
  const int64_t unit = std::lcm(std::lcm(row_bytes, out_bytes), kPage);
  const int64_t limit = std::min(kMaxTwoLevelBytes, kMaxItems / num_ranks * std::min(row_bytes, out_bytes));
  layout.bytes_per_rank = std::max(unit, limit / unit * unit);
  layout.rows_per_rank = layout.bytes_per_rank / row_bytes;
  layout.outputs_per_rank = layout.bytes_per_rank / out_bytes;
  const int64_t fixed = PeerFlags::kBytesPerRank + 2 * PublishedPlan::NumBytes(num_ranks, 0) + 4 * kPage;
  const int64_t per_item = row_bytes + out_bytes + 2 * static_cast<int64_t>(sizeof(PublishedSelection));
  layout.max_items = std::min((layout.bytes_per_rank - fixed) / per_item, kMaxItems);
  if (layout.max_items < 1 || layout.rows_per_rank > kMaxItems / num_ranks ||
      layout.outputs_per_rank > kMaxItems / num_ranks) {
    return absl::ResourceExhaustedError(
        absl::StrCat("peer memory: rows of ", row_bytes, " bytes and outputs of ", out_bytes, " of ", num_ranks,
                     " ranks cannot be told apart with 32 bits; choose path alltoallv"));
  }
  int64_t end = PeerFlags::kBytesPerRank;
  const auto take = [&end](int64_t num_bytes) {
    const int64_t begin = RoundUp(end, kPage);
    end = begin + num_bytes;
    return begin;
  };
  for (int64_t& at : layout.published) at = take(PublishedPlan::NumBytes(num_ranks, layout.max_items));
  layout.rows = take(layout.max_items * row_bytes);
  layout.outputs = take(layout.max_items * out_bytes);
  return layout;
}

int64_t PublishedPlan::NumBytes(int num_ranks, int64_t num_selections) {
  return static_cast<int64_t>(sizeof(int64_t)) * (num_ranks + 2) +
         num_selections * static_cast<int64_t>(sizeof(PublishedSelection));
}

void PublishedPlan::Write(int64_t num_served_rows, const RecvPlan& recv, absl::Span<const WireSelection> arrived,
                          absl::Span<const int> slot_expert, char* out) {
  auto* words = reinterpret_cast<int64_t*>(out);
  *words++ = num_served_rows;
  words = std::copy(recv.selection_offsets.begin(), recv.selection_offsets.end(), words);
  auto* selections = reinterpret_cast<PublishedSelection*>(words);
  for (size_t i = 0; i < arrived.size(); ++i) {
    selections[i] = {arrived[i].row_idx, slot_expert[arrived[i].slot], recv.return_selection[i]};
  }
}

absl::StatusOr<PublishedPlan> PublishedPlan::Read(const char* in, int rank, int num_ranks,
                                                  const TwoLevelLayout& layout) {
  const auto* words = reinterpret_cast<const int64_t*>(in);
  PublishedPlan plan{.num_rows = words[0], .selection_offsets = {words + 1, static_cast<size_t>(num_ranks) + 1}};
  const auto& offsets = plan.selection_offsets;
  if (plan.num_rows < 0 || plan.num_rows > layout.max_items || offsets[0] != 0 || offsets.back() > layout.max_items ||
      !std::is_sorted(offsets.begin(), offsets.end())) {
    return absl::DataLossError(absl::StrCat("plan of rank ", rank, ": it serves ", plan.num_rows, " rows and has ",
                                            offsets.back(), " selections"));
  }
  plan.selections = {reinterpret_cast<const PublishedSelection*>(words + num_ranks + 2),
                     static_cast<size_t>(offsets.back())};
  for (const PublishedSelection& s : plan.selections) {
    if (s.row >= 0 && s.output >= 0 && s.output < offsets.back()) continue;
    return absl::DataLossError(absl::StrCat("plan of rank ", rank, ": a selection of row ", s.row, " is its output ",
                                            s.output, " of ", offsets.back()));
  }
  return plan;
}

absl::Status BuildHostSums(const TwoLevelRoutes& routes, absl::Span<const PublishedPlan> published,
                           absl::Span<const int64_t> row_counts, int64_t outputs_per_rank, HostSums& sums) {
  sums.offsets.assign(1, 0);
  for (int s : routes.my_sources()) sums.offsets.resize(sums.offsets.size() + row_counts[s], 0);
  int64_t first_row = 0;
  for (int s : routes.my_sources()) {
    for (size_t d = 0; d < published.size(); ++d) {
      for (int64_t i = published[d].selection_offsets[s]; i < published[d].selection_offsets[s + 1]; ++i) {
        if (published[d].selections[i].row >= row_counts[s]) {
          return absl::DataLossError(absl::StrCat("plan of rank ", routes.ranks[d], ": a selection of row ",
                                                  published[d].selections[i].row, " of rank ", s, ", which has ",
                                                  row_counts[s]));
        }
        ++sums.offsets[first_row + published[d].selections[i].row + 1];
      }
    }
    first_row += row_counts[s];
  }
  std::partial_sum(sums.offsets.begin(), sums.offsets.end(), sums.offsets.begin());
  sums.terms.resize(sums.offsets.back());
  sums.next.assign(sums.offsets.begin(), sums.offsets.end() - 1);
  int32_t position = 0;
  first_row = 0;
  for (int s : routes.my_sources()) {
    for (size_t d = 0; d < published.size(); ++d) {
      const int64_t first_output = routes.ranks[d] * outputs_per_rank;
      for (int64_t i = published[d].selection_offsets[s]; i < published[d].selection_offsets[s + 1]; ++i) {
        const PublishedSelection& x = published[d].selections[i];
        const HostTerm term{x.expert, static_cast<int32_t>(first_output + x.output), position++};
        // Insertion: a row has few.
        int64_t at = sums.next[first_row + x.row]++;
        for (; at > sums.offsets[first_row + x.row] && sums.terms[at - 1].expert > term.expert; --at) {
          sums.terms[at] = sums.terms[at - 1];
        }
        sums.terms[at] = term;
      }
    }
    first_row += row_counts[s];
  }
  sums.output.clear();
  sums.position.clear();
  for (const HostTerm& term : sums.terms) {
    sums.output.push_back(term.output);
    sums.position.push_back(term.position);
  }
  return absl::OkStatus();
}

}  // namespace tokenferry
