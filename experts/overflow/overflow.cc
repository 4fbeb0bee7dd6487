#include "experts/overflow/overflow.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/check.h"

namespace tokenferry {
namespace {

constexpr uint32_t kSignBit = 0x80000000u;

// Larger for larger x, equal for both zeros.
uint32_t OrderedBits(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x + 0.0f);
  return bits & kSignBit ? ~bits : bits | kSignBit;
}

// All selections (t * K + k) with an expert, first come first.
std::vector<int64_t> ClaimOrder(const OverflowPolicy& policy, const GlobalRouting& routing) {
  const int64_t num_tokens = routing.num_tokens(), top_k = routing.top_k;
  std::vector<int64_t> order;
  order.reserve(routing.num_selections());
  const auto add = [&](int64_t t, int64_t k) {
    if (routing.expert_idx[t * top_k + k] >= 0) order.push_back(t * top_k + k);
  };
  if (policy.drop_by == DropBy::kPosition && policy.order == PositionOrder::kSlotMajor) {
    for (int64_t k = 0; k < top_k; ++k) {
      for (int64_t t = 0; t < num_tokens; ++t) add(t, k);
    }
    return order;
  }
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int64_t k = 0; k < top_k; ++k) add(t, k);
  }
  if (policy.drop_by == DropBy::kPosition) return order;
  std::vector<std::pair<uint32_t, int64_t>> keyed;
  keyed.reserve(order.size());
  for (const int64_t i : order) keyed.emplace_back(~OrderedBits(routing.weight[i]), i);
  std::sort(keyed.begin(), keyed.end());
  for (size_t i = 0; i < order.size(); ++i) order[i] = keyed[i].second;
  return order;
}

// Index within its rank's tokens of every token: what Placement::Choose goes by.
struct LocalToken {
  RankId rank;
  int64_t idx = 0;  // within its rank's
};
std::vector<LocalToken> LocalTokens(const GlobalRouting& routing) {
  std::vector<LocalToken> local(routing.num_tokens());
  for (size_t r = 0; r + 1 < routing.token_offsets.size(); ++r) {
    for (int64_t t = routing.token_offsets[r]; t < routing.token_offsets[r + 1]; ++t) {
      local[t] = {RankId(static_cast<int>(r)), t - routing.token_offsets[r]};
    }
  }
  return local;
}

void Drop(GlobalRouting& routing, int64_t selection) {
  routing.expert_idx[selection] = -1;
  routing.weight[selection] = 0.0f;
}

// Keeps the first `room` selections of every bin.
template <class BinOf>
void DropBeyond(const std::vector<int64_t>& order, int num_bins, int64_t room, const BinOf& bin_of,
                GlobalRouting& routing) {
  std::vector<int64_t> taken(num_bins);
  for (const int64_t i : order) {
    if (taken[bin_of(i)]++ >= room) Drop(routing, i);
  }
}

absl::Status Trap(int64_t capacity, int num_experts, const GlobalRouting& routing) {
  std::vector<int64_t> counts(num_experts);
  for (const int32_t e : routing.expert_idx) {
    if (e >= 0) ++counts[e];
  }
  const auto most = std::max_element(counts.begin(), counts.end());
  if (most == counts.end() || *most <= capacity) return absl::OkStatus();
  const auto num_over = std::count_if(counts.begin(), counts.end(), [&](int64_t n) { return n > capacity; });
  return absl::FailedPreconditionError(
      absl::StrCat("expert ", most - counts.begin(), " is selected ", *most, " times, its capacity is ", capacity, " (",
                   routing.num_tokens(), " tokens of all ranks, top-", routing.top_k, " of ", num_experts, " experts; ",
                   num_over, " experts are beyond it); raise the capacity factor, or choose a policy other than trap"));
}

// Room of every slot of every rank, and who finds a place in it.
class Rerouter {
 public:
  Rerouter(int64_t capacity, const Placement& placement, GlobalRouting& routing)
      : placement_(placement), routing_(routing), local_token_(LocalTokens(routing)) {
    for (int r = 0; r < placement.num_ranks(); ++r) {
      room_.emplace_back(placement.num_local_slots(RankId(r)), capacity);
    }
    routing.location.assign(routing.num_selections(), -1);
  }

  // Returns the selections whose own slot is full, in order.
  std::vector<int64_t> PlaceAtOwnSlot(const std::vector<int64_t>& order) {
    std::vector<int64_t> left;
    for (const int64_t i : order) {
      const ExpertId expert(routing_.expert_idx[i]);
      if (!Take(placement_.locations(expert)[OwnLocation(expert, i)])) left.push_back(i);
    }
    return left;
  }

  void PlaceElsewhere(const std::vector<int64_t>& left, const GlobalRouting& before) {
    for (const int64_t i : left) {
      if (!TakeAnyOf(ExpertId(routing_.expert_idx[i]), i) && !TakeOtherExpert(before, i)) Drop(routing_, i);
    }
  }

 private:
  int32_t OwnLocation(ExpertId expert, int64_t selection) const {
    const LocalToken& token = local_token_[selection / routing_.top_k];
    return placement_.ChooseIndex(expert, token.rank, token.idx);
  }

  bool Take(Placement::Location at) {
    int64_t& room = room_[at.rank.value][at.slot.value];
    return room > 0 ? (--room, true) : false;
  }

  // The selection's place at `expert`: its own replica, else the first with room.
  bool TakeAnyOf(ExpertId expert, int64_t selection) {
    const auto& locations = placement_.locations(expert);
    const int32_t own = OwnLocation(expert, selection);
    if (Take(locations[own])) return Settle(expert, selection, -1);
    for (size_t l = 0; l < locations.size(); ++l) {
      if (Take(locations[l])) return Settle(expert, selection, static_cast<int32_t>(l));
    }
    return false;
  }

  bool Settle(ExpertId expert, int64_t selection, int32_t location) {
    routing_.expert_idx[selection] = expert.value;
    routing_.location[selection] = location;
    return true;
  }

  bool TakeOtherExpert(const GlobalRouting& before, int64_t selection) {
    const int64_t t = selection / routing_.top_k, num_experts = placement_.num_experts();
    const float* choice = routing_.choice.data() + t * num_experts;
    const auto selected = [&](const GlobalRouting& in, int32_t e) {
      const auto row = in.expert_idx.begin() + t * in.top_k;
      return std::find(row, row + in.top_k, e) != row + in.top_k;
    };
    std::vector<std::pair<uint32_t, int32_t>> candidates;
    for (int32_t e = 0; e < num_experts; ++e) {
      if (choice[e] == -std::numeric_limits<float>::infinity()) continue;
      if (!selected(before, e) && !selected(routing_, e)) candidates.emplace_back(~OrderedBits(choice[e]), e);
    }
    std::sort(candidates.begin(), candidates.end());
    return std::any_of(candidates.begin(), candidates.end(),
                       [&](const auto& c) { return TakeAnyOf(ExpertId(c.second), selection); });
  }

  const Placement& placement_;
  GlobalRouting& routing_;
  std::vector<LocalToken> local_token_;
  std::vector<std::vector<int64_t>> room_;  // [R][slots]
};

void Reroute(const std::vector<int64_t>& order, int64_t capacity, const Placement& placement, GlobalRouting& routing) {
  TF_CHECK_EQ(static_cast<int64_t>(routing.choice.size()), routing.num_tokens() * placement.num_experts());
  Rerouter rerouter(capacity, placement, routing);
  const std::vector<int64_t> left = rerouter.PlaceAtOwnSlot(order);
  if (left.empty()) return;
  GlobalRouting before;
  before.top_k = routing.top_k;
  before.expert_idx = routing.expert_idx;
  rerouter.PlaceElsewhere(left, before);
}

// Of tokens that lost something: `before` has the weights they had.
void RenormaliseSurvivors(const std::vector<float>& before, GlobalRouting& routing) {
  const int64_t top_k = routing.top_k;
  for (int64_t t = 0; t < routing.num_tokens(); ++t) {
    float all = 0.0f, left = 0.0f;
    bool changed = false;
    for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) {
      all += before[i];
      left += routing.weight[i];
      changed |= before[i] != routing.weight[i];
    }
    if (!changed || left == 0.0f) continue;
    for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) routing.weight[i] = routing.weight[i] / left * all;
  }
}

}  // namespace

int64_t ExpertCapacity(double factor, int top_k, int64_t num_tokens, int num_bins) {
  TF_CHECK_GT(num_bins, 0);
  const double capacity = std::ceil(factor * top_k * static_cast<double>(num_tokens) / num_bins);
  return static_cast<int64_t>(std::min<double>(capacity, std::numeric_limits<int32_t>::max()));
}

absl::Status ApplyOverflow(const OverflowPolicy& policy, int64_t capacity, const Placement& placement,
                           GlobalRouting& routing) {
  if (policy.kind == Overflow::kDropless) return absl::OkStatus();
  TF_CHECK_EQ(static_cast<int64_t>(routing.expert_idx.size()), routing.num_selections());
  TF_CHECK_EQ(static_cast<int64_t>(routing.weight.size()), routing.num_selections());
  for (const int32_t e : routing.expert_idx) TF_CHECK_LT(e, placement.num_experts());
  if (policy.kind == Overflow::kTrap) return Trap(capacity, placement.num_experts(), routing);
  const std::vector<float> weight_before = routing.weight;
  const std::vector<int64_t> order = ClaimOrder(policy, routing);
  if (policy.kind == Overflow::kCapacity) {
    const auto expert_of = [&](int64_t i) { return routing.expert_idx[i]; };
    DropBeyond(order, placement.num_experts(), capacity, expert_of, routing);
  } else if (policy.kind == Overflow::kRankBudget) {
    const std::vector<LocalToken> local_token = LocalTokens(routing);
    const auto rank_of = [&](int64_t i) {
      const LocalToken& token = local_token[i / routing.top_k];
      return placement.Choose(ExpertId(routing.expert_idx[i]), token.rank, token.idx).rank.value;
    };
    DropBeyond(order, placement.num_ranks(), capacity, rank_of, routing);
  } else {
    Reroute(order, capacity, placement, routing);
  }
  if (policy.renormalise == Renormalise::kYes) RenormaliseSurvivors(weight_before, routing);
  return absl::OkStatus();
}

OverflowCounts& OverflowCounts::operator+=(const OverflowCounts& other) {
  const auto add = [](auto& sums, const auto& terms) {
    TF_CHECK_EQ(sums.size(), terms.size());
    for (size_t e = 0; e < sums.size(); ++e) sums[e] += terms[e];
  };
  add(dropped, other.dropped);
  add(rerouted, other.rerouted);
  add(to_replica, other.to_replica);
  add(lost_weight, other.lost_weight);
  num_lost_tokens += other.num_lost_tokens;
  return *this;
}

void CountOverflow(const GlobalRouting& before, const GlobalRouting& after, RankId rank, OverflowCounts& counts) {
  const int64_t top_k = before.top_k;
  for (int64_t t = before.token_offsets[rank.value]; t < before.token_offsets[rank.value + 1]; ++t) {
    int num_before = 0, num_after = 0;
    for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) {
      const int32_t was = before.expert_idx[i], is = after.expert_idx[i];
      if (was < 0) continue;
      ++num_before;
      num_after += is >= 0 ? 1 : 0;
      if (is < 0) {
        ++counts.dropped[was];
        counts.lost_weight[was] += before.weight[i];
      } else if (is != was) {
        ++counts.rerouted[was];
      } else if (!after.location.empty() && after.location[i] >= 0) {
        ++counts.to_replica[was];
      }
    }
    counts.num_lost_tokens += num_before > 0 && num_after == 0 ? 1 : 0;
  }
}

}  // namespace tokenferry
