// Overflow policies against plain references written from the papers' formulas: one token, one column, one slot at a
// time, without the order of claims that the implementation is built on.
#include "experts/overflow/overflow.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/core/kernels/kernel_test_util.h"

namespace tokenferry {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(ExpertCapacity, RoundsUp) {
  EXPECT_EQ(ExpertCapacity(1.0, 2, 16, 8), 4);
  EXPECT_EQ(ExpertCapacity(1.25, 2, 16, 8), 5);
  EXPECT_EQ(ExpertCapacity(1.1, 2, 16, 8), 5);
  EXPECT_EQ(ExpertCapacity(1.0, 1, 1, 256), 1);
  EXPECT_EQ(ExpertCapacity(2.0, 8, 0, 256), 0);
  EXPECT_EQ(ExpertCapacity(1.5, 8, int64_t{1} << 30, 256), (int64_t{1} << 30) / 32 * 3 / 2);
  EXPECT_EQ(ExpertCapacity(1024, 32, int64_t{1} << 40, 1), 2147483647);
}

struct Shape {
  int num_ranks, num_experts, top_k;
  int64_t num_tokens;
};

// Distinct experts per token, some -1; skewed, so that something overflows; weights with many ties.
GlobalRouting RandomRouting(const Shape& shape, std::mt19937& random) {
  GlobalRouting g;
  g.top_k = shape.top_k;
  g.token_offsets.assign(shape.num_ranks + 1, shape.num_tokens);
  g.token_offsets[0] = 0;
  for (int r = 1; r < shape.num_ranks; ++r) g.token_offsets[r] = random() % (shape.num_tokens + 1);
  std::sort(g.token_offsets.begin(), g.token_offsets.end());
  for (int64_t t = 0; t < shape.num_tokens; ++t) {
    std::vector<int32_t> experts(shape.num_experts);
    for (int e = 0; e < shape.num_experts; ++e) experts[e] = e;
    for (int k = 0; k < shape.top_k; ++k) {
      const size_t left = experts.size(), at = std::min<size_t>(random() % left, random() % left);
      const bool none = random() % 9 == 0;
      g.expert_idx.push_back(none ? -1 : experts[at]);
      g.weight.push_back(none ? 0.0f : static_cast<float>(1 + random() % 7) / 8);
      experts.erase(experts.begin() + at);
    }
    for (int e = 0; e < shape.num_experts; ++e) {
      const bool masked = random() % 5 == 0;
      g.choice.push_back(masked ? -std::numeric_limits<float>::infinity() : static_cast<float>(random() % 16) - 4);
    }
  }
  return g;
}

// Every expert once, at a random rank; a third of them at a second rank too.
Placement RandomTable(const Shape& shape, std::mt19937& random) {
  std::vector<std::set<int>> table(shape.num_ranks);
  for (int e = 0; e < shape.num_experts; ++e) {
    for (uint32_t n = random() % 3 == 0 ? 2 : 1; n > 0; --n) table[random() % shape.num_ranks].insert(e);
  }
  std::vector<std::vector<int>> rows;
  for (const auto& row : table) rows.emplace_back(row.begin(), row.end());
  return *Placement::FromTable(shape.num_experts, rows);
}

// kept[t * K + k] after GShard's formulas: for each k a one-hot mask [T, E], the running count of its column plus the
// totals of the masks before it, kept where that is below the capacity.
std::vector<bool> GShardKept(const GlobalRouting& g, int num_experts, int64_t capacity) {
  std::vector<bool> kept(g.expert_idx.size());
  std::vector<int64_t> before(num_experts);
  for (int k = 0; k < g.top_k; ++k) {
    std::vector<int64_t> count(num_experts);
    for (int64_t t = 0; t < g.num_tokens(); ++t) {
      const int32_t e = g.expert_idx[t * g.top_k + k];
      if (e < 0) continue;
      kept[t * g.top_k + k] = before[e] + count[e] < capacity;
      ++count[e];
    }
    for (int e = 0; e < num_experts; ++e) before[e] += count[e];
  }
  return kept;
}

// Of the flattened list: those with fewer than `capacity` of the same bin before them. Quadratic.
std::vector<bool> TokenMajorKept(const std::vector<int32_t>& bins, int64_t capacity) {
  std::vector<bool> kept(bins.size());
  for (size_t i = 0; i < bins.size(); ++i) {
    kept[i] = bins[i] >= 0 && std::count(bins.begin(), bins.begin() + i, bins[i]) < capacity;
  }
  return kept;
}

// Megatron's: in each column, those with fewer than `capacity` better entries. Quadratic.
std::vector<bool> ProbabilityKept(const GlobalRouting& g, const std::vector<int32_t>& bins, int64_t capacity) {
  std::vector<bool> kept(bins.size());
  for (size_t i = 0; i < bins.size(); ++i) {
    int64_t better = 0;
    for (size_t j = 0; j < bins.size(); ++j) {
      if (bins[j] != bins[i]) continue;
      better += g.weight[j] > g.weight[i] || (g.weight[j] == g.weight[i] && j < i) ? 1 : 0;
    }
    kept[i] = bins[i] >= 0 && better < capacity;
  }
  return kept;
}

void ExpectKept(const GlobalRouting& before, const GlobalRouting& after, const std::vector<bool>& kept,
                Renormalise renormalise) {
  for (int64_t t = 0; t < before.num_tokens(); ++t) {
    float all = 0, left = 0;
    for (int64_t i = t * before.top_k; i < (t + 1) * before.top_k; ++i) {
      all += before.weight[i];
      if (kept[i]) left += before.weight[i];
    }
    for (int64_t i = t * before.top_k; i < (t + 1) * before.top_k; ++i) {
      ASSERT_EQ(after.expert_idx[i], kept[i] ? before.expert_idx[i] : -1) << "selection " << i;
      float want = kept[i] ? before.weight[i] : 0.0f;
      if (renormalise == Renormalise::kYes && kept[i] && left != all) want = want / left * all;
      ASSERT_EQ(after.weight[i], want) << "selection " << i;
    }
  }
}

class Policies : public testing::TestWithParam<int> {};  // ranks

const int64_t kFactors[] = {10, 50, 100, 130, 400};  // percent

TEST_P(Policies, DropWhatThePlainReferencesDrop) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  const Shape shapes[] = {{1, 8, 1, 60},    {1, 7, 2, 41}, {1, 13, 8, 30}, {1, 40, 32, 12},
                          {1, 1024, 8, 50}, {1, 5, 5, 0},  {1, 3, 2, 1}};
  for (Shape shape : shapes) {
    shape.num_ranks = GetParam();
    const GlobalRouting before = RandomRouting(shape, random);
    const Placement placement = RandomTable(shape, random);
    for (const int64_t percent : kFactors) {
      OverflowPolicy policy{.kind = Overflow::kCapacity, .capacity_factor = percent / 100.0};
      const int64_t capacity =  // with integers, not the function under test
          (percent * shape.top_k * shape.num_tokens + 100 * shape.num_experts - 1) / (100 * shape.num_experts);
      EXPECT_EQ(ExpertCapacity(policy.capacity_factor, shape.top_k, shape.num_tokens, shape.num_experts), capacity);
      for (const Renormalise renormalise : {Renormalise::kNo, Renormalise::kYes}) {
        policy.renormalise = renormalise;
        const auto run = [&](DropBy by, PositionOrder order) {
          policy.drop_by = by;
          policy.order = order;
          GlobalRouting after = before;
          EXPECT_EQ(ApplyOverflow(policy, capacity, placement, after), absl::OkStatus());
          return after;
        };
        ExpectKept(before, run(DropBy::kPosition, PositionOrder::kSlotMajor),
                   GShardKept(before, shape.num_experts, capacity), renormalise);
        ExpectKept(before, run(DropBy::kPosition, PositionOrder::kTokenMajor),
                   TokenMajorKept(before.expert_idx, capacity), renormalise);
        ExpectKept(before, run(DropBy::kProbability, PositionOrder::kSlotMajor),
                   ProbabilityKept(before, before.expert_idx, capacity), renormalise);
      }
    }
  }
}

TEST_P(Policies, RankBudgetCountsWhatARankReceives) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 10; ++round) {
    const Shape shape{GetParam(), 3 + static_cast<int>(random() % 20), 1 + static_cast<int>(random() % 3),
                      static_cast<int64_t>(random() % 60)};
    const GlobalRouting before = RandomRouting(shape, random);
    const Placement placement = RandomTable(shape, random);
    std::vector<int32_t> ranks(before.expert_idx.size(), -1);
    for (size_t i = 0; i < ranks.size(); ++i) {
      if (before.expert_idx[i] < 0) continue;
      const auto token = static_cast<int64_t>(i) / shape.top_k;
      const auto home = std::upper_bound(before.token_offsets.begin(), before.token_offsets.end(), token) - 1;
      const RankId source(static_cast<int>(home - before.token_offsets.begin()));
      ranks[i] = placement.Choose(ExpertId(before.expert_idx[i]), source, token - *home).rank.value;
    }
    const int64_t budget = ExpertCapacity(.8, shape.top_k, shape.num_tokens, shape.num_ranks);
    OverflowPolicy policy{.kind = Overflow::kRankBudget, .order = PositionOrder::kTokenMajor};
    GlobalRouting after = before;
    ASSERT_EQ(ApplyOverflow(policy, budget, placement, after), absl::OkStatus());
    ExpectKept(before, after, TokenMajorKept(ranks, budget), Renormalise::kNo);
    policy.drop_by = DropBy::kProbability;
    after = before;
    ASSERT_EQ(ApplyOverflow(policy, budget, placement, after), absl::OkStatus());
    ExpectKept(before, after, ProbabilityKept(before, ranks, budget), Renormalise::kNo);
  }
}

// kReroute as its contract says it, with a map of occupied places and repeated searches for the best candidate.
struct PlainReroute {
  const GlobalRouting& before;
  const Placement& placement;
  int64_t capacity;
  GlobalRouting after = before;
  std::map<std::pair<int, int>, int64_t> taken = {};

  int64_t LocalToken(int64_t t) const {
    int64_t start = 0;
    for (int64_t offset : before.token_offsets) start = offset <= t ? offset : start;
    return t - start;
  }
  bool TryAt(int e, int l) {
    const auto at = placement.locations(ExpertId(e))[l];
    int64_t& n = taken[{at.rank.value, at.slot.value}];
    if (n >= capacity) return false;
    ++n;
    return true;
  }
  bool TryExpert(int e, int64_t i) {
    const int num = static_cast<int>(placement.locations(ExpertId(e)).size());
    const int own = static_cast<int>(LocalToken(i / before.top_k) % num);
    after.expert_idx[i] = e;
    after.location[i] = -1;
    if (TryAt(e, own)) return true;
    for (int l = 0; l < num; ++l) {
      after.location[i] = l;
      if (l != own && TryAt(e, l)) return true;
    }
    return false;
  }
  void Run() {
    std::vector<int64_t> homeless;
    after.location.assign(before.expert_idx.size(), -1);
    for (int k = 0; k < before.top_k; ++k) {
      for (int64_t t = 0; t < before.num_tokens(); ++t) {
        const int64_t i = t * before.top_k + k;
        const int e = before.expert_idx[i];
        if (e < 0) continue;
        const int num = static_cast<int>(placement.locations(ExpertId(e)).size());
        if (!TryAt(e, static_cast<int>(LocalToken(t) % num))) homeless.push_back(i);
      }
    }
    std::map<int64_t, std::set<int>> used;
    for (int64_t i = 0; i < before.num_selections(); ++i) used[i / before.top_k].insert(before.expert_idx[i]);
    for (const int64_t i : homeless) Place(i, used[i / before.top_k]);
  }
  void Place(int64_t i, std::set<int>& used) {
    if (TryExpert(before.expert_idx[i], i)) return;
    const float* choice = &before.choice[i / before.top_k * placement.num_experts()];
    std::set<int> tried = used;
    while (true) {
      int best = -1;
      for (int e = 0; e < placement.num_experts(); ++e) {
        if (tried.count(e) || std::isinf(choice[e])) continue;
        if (best < 0 || choice[e] > choice[best]) best = e;
      }
      if (best < 0) break;
      if (TryExpert(best, i)) {
        used.insert(best);
        return;
      }
      tried.insert(best);
    }
    after.expert_idx[i] = -1;
    after.location[i] = -1;
    after.weight[i] = 0;
  }
};

TEST_P(Policies, RerouteFindsTheNextBestExpertWithRoom) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  int64_t num_moved = 0, num_dropped = 0;
  for (int round = 0; round < 30; ++round) {
    const Shape shape{GetParam(), 4 + static_cast<int>(random() % 20), 1 + static_cast<int>(random() % 4),
                      static_cast<int64_t>(random() % 80)};
    const GlobalRouting before = RandomRouting(shape, random);
    const Placement placement = RandomTable(shape, random);
    const double factor = round % 3 == 0 ? .5 : 1.0;
    const int64_t capacity = ExpertCapacity(factor, shape.top_k, shape.num_tokens, shape.num_experts);
    GlobalRouting after = before;
    ASSERT_EQ(ApplyOverflow({.kind = Overflow::kReroute}, capacity, placement, after), absl::OkStatus());
    PlainReroute want{before, placement, capacity};
    want.Run();
    ASSERT_EQ(after.expert_idx, want.after.expert_idx);
    ASSERT_EQ(after.weight, want.after.weight);
    OverflowCounts counts(shape.num_experts);
    for (int r = 0; r < shape.num_ranks; ++r) CountOverflow(before, after, RankId(r), counts);
    std::vector<int64_t> dropped(shape.num_experts), moved(shape.num_experts), replica(shape.num_experts);
    int64_t lost_tokens = 0;
    for (int64_t t = 0; t < shape.num_tokens; ++t) {
      int had = 0, has = 0;
      std::set<int> experts;
      for (int64_t i = t * shape.top_k; i < (t + 1) * shape.top_k; ++i) {
        const int was = before.expert_idx[i], is = after.expert_idx[i];
        if (is >= 0) {
          EXPECT_TRUE(experts.insert(is).second) << "token " << t << " has expert " << is << " twice";
        }
        if (was < 0) continue;
        ++had, has += is >= 0;
        if (is < 0) ++dropped[was];
        if (is >= 0 && is != was) ++moved[was];
        if (is == was && after.location[i] >= 0) ++replica[was];
        if (is >= 0) {
          ASSERT_EQ(after.location[i], want.after.location[i]);
        }
      }
      lost_tokens += had > 0 && has == 0;
    }
    EXPECT_EQ(counts.dropped, dropped);
    EXPECT_EQ(counts.rerouted, moved);
    EXPECT_EQ(counts.to_replica, replica);
    EXPECT_EQ(counts.num_lost_tokens, lost_tokens);
    for (const int64_t n : moved) num_moved += n;
    for (const int64_t n : dropped) num_dropped += n;
  }
  EXPECT_GT(num_moved, 0);
  EXPECT_GT(num_dropped, 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, Policies, testing::Values(1, 2, 3, 5));

TEST(Overflow, CountsWhatWasLost) {
  GlobalRouting before;
  before.top_k = 2;
  before.token_offsets = {0, 1, 3};
  before.expert_idx = {0, 1, 0, 1, 1, -1};
  before.weight = {.75f, .25f, .5f, .5f, 1, 0};
  GlobalRouting after = before;
  ASSERT_EQ(ApplyOverflow({.kind = Overflow::kCapacity}, 1, Placement::Linear(2, 2), after), absl::OkStatus());
  EXPECT_EQ(after.expert_idx, (std::vector<int32_t>{0, -1, -1, -1, 1, -1}));  // slot-major: token 2's first choice
  OverflowCounts home(2), other(2);
  CountOverflow(before, after, RankId(0), home);
  CountOverflow(before, after, RankId(1), other);
  EXPECT_EQ(home.dropped, (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(home.lost_weight, (std::vector<double>{0, .25}));
  EXPECT_EQ(home.num_lost_tokens, 0);
  EXPECT_EQ(other.dropped, (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(other.lost_weight, (std::vector<double>{.5, .5}));
  EXPECT_EQ(other.num_lost_tokens, 1);
}

TEST(Overflow, TrapNamesTheFullestExpert) {
  GlobalRouting g;
  g.top_k = 1;
  g.token_offsets = {0, 5};
  g.expert_idx = {2, 2, 2, 0, 0};
  g.weight = {1, 1, 1, 1, 1};
  const Placement placement = Placement::Linear(4, 1);
  EXPECT_EQ(ApplyOverflow({.kind = Overflow::kTrap}, 3, placement, g), absl::OkStatus());
  const absl::Status status = ApplyOverflow({.kind = Overflow::kTrap}, 1, placement, g);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("expert 2 is selected 3 times, its capacity is 1"),
                                                   HasSubstr("2 experts are beyond"), HasSubstr("top-1 of 4")));
}

}  // namespace
}  // namespace tokenferry
