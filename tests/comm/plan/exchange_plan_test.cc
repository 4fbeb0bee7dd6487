// The plan on its own: no transport, the swap is made by hand.
#include "comm/plan/exchange_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace tokenferry {
namespace {

using testing::AllOf;
using testing::HasSubstr;

struct Group {
  std::vector<std::vector<int32_t>> experts;  // per rank, [T, K]
  std::vector<SendPlan> send;
  std::vector<RecvPlan> recv;
};

absl::StatusOr<SendPlan> BuildSendPlan(const HostRouting& routing, const Placement& placement) {
  SendPlan plan;
  TF_RETURN_IF_ERROR(PlanBuilder().BuildSend(routing, placement, plan));
  return plan;
}

absl::StatusOr<RecvPlan> BuildRecvPlan(const std::vector<int64_t>& row_counts,
                                       const std::vector<int64_t>& selection_counts,
                                       const std::vector<WireSelection>& selections, int num_local_slots) {
  RecvPlan plan;
  TF_RETURN_IF_ERROR(PlanBuilder().BuildRecv(row_counts, selection_counts, selections, num_local_slots, plan));
  return plan;
}

// What Exchange::Plan does, with vectors in place of a transport.
Group PlanAll(const Placement& placement, int top_k, std::vector<std::vector<int32_t>> experts) {
  Group g{std::move(experts), {}, {}};
  const int num_ranks = placement.num_ranks();
  for (const auto& e : g.experts) {
    auto plan = BuildSendPlan({e, top_k == 0 ? 0 : static_cast<int64_t>(e.size()) / top_k, top_k}, placement);
    EXPECT_TRUE(plan.ok()) << plan.status();
    g.send.push_back(*std::move(plan));
  }
  for (int dst = 0; dst < num_ranks; ++dst) {
    std::vector<int64_t> rows, counts;
    std::vector<WireSelection> selections;
    for (const SendPlan& s : g.send) {
      rows.push_back(s.row_offsets[dst + 1] - s.row_offsets[dst]);
      counts.push_back(s.selection_offsets[dst + 1] - s.selection_offsets[dst]);
      selections.insert(selections.end(), s.selections.begin() + s.selection_offsets[dst],
                        s.selections.begin() + s.selection_offsets[dst + 1]);
    }
    auto plan = BuildRecvPlan(rows, counts, selections, placement.num_local_slots(RankId(dst)));
    EXPECT_TRUE(plan.ok()) << plan.status();
    g.recv.push_back(*std::move(plan));
  }
  return g;
}

// Who a selection is: source rank, token, k.
using Key = std::tuple<int, int64_t, int>;

void CheckHome(const Group& g, const Placement& placement, int top_k, int rank) {
  const SendPlan& s = g.send[rank];
  const auto& experts = g.experts[rank];
  std::set<std::pair<int64_t, int>> seen;
  for (int dst = 0; dst < placement.num_ranks(); ++dst) {
    for (int64_t row = s.row_offsets[dst]; row + 1 < s.row_offsets[dst + 1]; ++row) {
      EXPECT_LT(s.row_token[row], s.row_token[row + 1]);  // one row per token, by token
    }
    for (int64_t i = s.selection_offsets[dst]; i < s.selection_offsets[dst + 1]; ++i) {
      const int64_t token = s.row_token[s.row_offsets[dst] + s.selections[i].row_idx];
      EXPECT_TRUE(seen.insert({token, s.selection_k[i]}).second);
      EXPECT_EQ(s.selection_expert[i], experts[token * top_k + s.selection_k[i]]);
      const auto location = placement.Choose(ExpertId(s.selection_expert[i]), RankId(rank), token);
      EXPECT_EQ(location.rank.value, dst);
      EXPECT_EQ(location.slot.value, s.selections[i].slot);
    }
  }
  const auto none = std::count(experts.begin(), experts.end(), -1);
  EXPECT_EQ(seen.size(), experts.size() - none);
  // The inverse: each selection once, at its own token, by expert.
  std::set<int32_t> summed;
  for (int64_t t = 0; t < s.num_tokens; ++t) {
    int last_expert = -1;
    for (int64_t i = s.combine_offsets[t]; i < s.combine_offsets[t + 1]; ++i) {
      const int32_t selection = s.combine_selection[i];
      EXPECT_TRUE(summed.insert(selection).second);
      EXPECT_EQ(s.combine_k[i], s.selection_k[selection]);
      EXPECT_EQ(experts[t * top_k + s.combine_k[i]], s.selection_expert[selection]);
      EXPECT_GE(s.selection_expert[selection], last_expert);
      last_expert = s.selection_expert[selection];
    }
  }
  EXPECT_EQ(summed.size(), s.selections.size());
}

void CheckExpertSide(const Group& g, const Placement& placement, int dst) {
  const RecvPlan& p = g.recv[dst];
  std::vector<Key> at_expert(p.row_idx.size(), Key{-1, -1, -1});
  for (int src = 0; src < placement.num_ranks(); ++src) {
    const SendPlan& s = g.send[src];
    for (int64_t i = 0; i < s.selection_offsets[dst + 1] - s.selection_offsets[dst]; ++i) {
      const WireSelection wire = s.selections[s.selection_offsets[dst] + i];
      const int32_t position = p.return_selection[p.selection_offsets[src] + i];
      EXPECT_EQ(std::get<0>(at_expert[position]), -1);  // a permutation
      at_expert[position] = {src, s.row_token[s.row_offsets[dst] + wire.row_idx],
                             s.selection_k[s.selection_offsets[dst] + i]};
      EXPECT_EQ(p.row_idx[position], p.row_offsets[src] + wire.row_idx);
      EXPECT_GE(position, p.slot_offsets[wire.slot]);
      EXPECT_LT(position, p.slot_offsets[wire.slot + 1]);
    }
  }
  for (size_t slot = 0; slot + 1 < p.slot_offsets.size(); ++slot) {
    for (int64_t i = p.slot_offsets[slot]; i + 1 < p.slot_offsets[slot + 1]; ++i) {
      EXPECT_LT(at_expert[i], at_expert[i + 1]);  // (source rank, token, k)
    }
  }
}

std::vector<std::vector<int32_t>> RandomExperts(std::mt19937& random, int num_ranks, int num_experts, int top_k) {
  std::vector<std::vector<int32_t>> out(num_ranks);
  std::vector<int32_t> all(num_experts);
  std::iota(all.begin(), all.end(), 0);
  for (auto& rank : out) {
    const int num_tokens = random() % 4 == 0 ? 0 : static_cast<int>(random() % 40);
    for (int t = 0; t < num_tokens; ++t) {
      std::shuffle(all.begin(), all.end(), random);
      const bool nothing = random() % 10 == 0;
      for (int k = 0; k < top_k; ++k) {
        rank.push_back(nothing || k >= num_experts || random() % 8 == 0 ? -1 : all[k]);
      }
    }
  }
  return out;
}

TEST(ExchangePlan, RandomRoutingsAndPlacements) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 150; ++round) {
    const int num_ranks = 1 + static_cast<int>(random() % 8), num_experts = 1 + static_cast<int>(random() % 20);
    const int top_k = 1 + static_cast<int>(random() % 8);
    std::vector<std::vector<int>> table(num_ranks);
    for (int e = 0; e < num_experts; ++e) {
      const int home = static_cast<int>(random() % num_ranks);
      for (int r = 0; r < num_ranks; ++r) {
        if (r == home || random() % 6 == 0) table[r].push_back(e);
      }
    }
    for (auto& row : table) std::shuffle(row.begin(), row.end(), random);
    auto placement = Placement::FromTable(num_experts, table);
    ASSERT_TRUE(placement.ok()) << placement.status();
    const Group g = PlanAll(*placement, top_k, RandomExperts(random, num_ranks, num_experts, top_k));
    for (int r = 0; r < num_ranks; ++r) {
      CheckHome(g, *placement, top_k, r);
      CheckExpertSide(g, *placement, r);
    }
    if (HasFailure()) return;
  }
}

TEST(ExchangePlan, OneRowPerTokenAndRank) {
  const Placement placement = Placement::Linear(4, 2);  // rank 0: experts 0 1, rank 1: 2 3
  const Group g = PlanAll(placement, 3, {{3, 0, 1, -1, -1, -1, 2, 3, -1}, {}});
  EXPECT_EQ(g.send[0].row_offsets, (std::vector<int64_t>{0, 1, 3}));
  EXPECT_EQ(g.send[0].row_token, (std::vector<int32_t>{0, 0, 2}));
  EXPECT_EQ(g.send[0].selections, (std::vector<WireSelection>{{0, 0}, {0, 1}, {0, 1}, {1, 0}, {1, 1}}));
  EXPECT_EQ(g.send[0].combine_offsets, (std::vector<int64_t>{0, 3, 3, 5}));
  EXPECT_EQ(g.send[0].combine_selection, (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(g.recv[1].slot_offsets, (std::vector<int64_t>{0, 1, 3}));
  EXPECT_EQ(g.recv[1].row_idx, (std::vector<int32_t>{1, 0, 1}));
  const std::string text = ExchangePlan{RankId(0), g.send[0], g.recv[0]}.ToString();
  EXPECT_THAT(text, AllOf(HasSubstr("rank 0 of 2: 3 tokens, sends 3 rows with 5 selections"),
                          HasSubstr("rank 1: to 2 rows, 3 selections; from 0 rows, 0 selections")));
}

TEST(ExchangePlan, NoTokensAndNoSlots) {
  const Group g = PlanAll(Placement::Linear(1, 3), 2, {{}, {0, -1}, {}});
  EXPECT_EQ(g.recv[0].row_idx.size(), 1u);
  EXPECT_EQ(g.recv[2].slot_offsets, (std::vector<int64_t>{0}));
  EXPECT_EQ(g.send[0].combine_offsets, (std::vector<int64_t>{0}));
}

TEST(ExchangePlan, NamesABadExpert) {
  const std::vector<int32_t> experts = {0, 1, 2, 7};
  const auto plan = BuildSendPlan({experts, 2, 2}, Placement::Linear(4, 2));
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("token 1 selects expert 7 at position 1"));
  const std::vector<int32_t> below = {-2};
  EXPECT_FALSE(BuildSendPlan({below, 1, 1}, Placement::Linear(4, 2)).ok());
}

// What a broken or different peer might send.
TEST(ExchangePlan, NamesThePeerWhoseMessageIsWrong) {
  const auto build = [](std::vector<int64_t> rows, std::vector<int64_t> counts, std::vector<WireSelection> selections) {
    return BuildRecvPlan(rows, counts, selections, 2).status();
  };
  EXPECT_EQ(build({1, 2}, {1, 3}, {{0, 0}, {0, 0}, {0, 1}, {1, 1}}), absl::OkStatus());
  const std::vector<std::pair<absl::Status, std::string>> bad = {
      {build({1, 2}, {1, 3}, {{0, 0}, {0, 0}, {0, 2}, {1, 1}}), "rank 1: its selection 1 names slot 2"},
      {build({1, 2}, {1, 3}, {{0, 0}, {0, 0}, {0, -1}, {1, 1}}), "names slot -1"},
      {build({1, 2}, {1, 3}, {{0, 0}, {0, 0}, {1, 0}, {2, 1}}), "rank 1: its selection 2 names row 2"},
      {build({1, 2}, {1, 3}, {{0, 0}, {0, 0}, {0, 0}, {0, 1}}), "rank 1: 2 rows announced, but selections for 1"},
      {build({1, 2}, {1, 3}, {{0, 0}, {0, 0}, {1, 0}, {0, 1}}), "names row 0 after row 1"},
      {build({1, 1}, {1, 1}, {{-1, 0}, {0, 0}}), "rank 0: its selection 0 names row -1"},
      {build({1, 1}, {2, 1}, {{-1, 0}, {0, 0}, {0, 0}}), "rank 0: its selection 0 names row -1"},
      {build({0, -1}, {0, 0}, {}), "rank 1: announces -1 rows"},
      {build({2, 0}, {1, 0}, {}), "rank 0: announces 2 rows with 1 selections"},
      {build({0, 0}, {3, 0}, {}), "rank 0: announces 0 rows with 3 selections"},
      {build({1, 1}, {int64_t{1} << 40, 1}, {}), "rank 0: announces 1 rows"},
      {build({1, 1}, {(int64_t{1} << 31) - 1, 1}, {}), "one exchange takes"},
  };
  for (const auto& [status, text] : bad) EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

TEST(ExchangePlan, AReplicaThatWasChosenIsUsed) {
  const Placement placement = *Placement::FromTable(2, {{0}, {1, 0}, {0}});  // expert 0: places 0, 1, 2
  const std::vector<int32_t> experts = {0, 0, 0, 0, 1, -1}, location = {2, -1, 1, 0, -1, 5};
  const auto plan = BuildSendPlan({experts, 6, 1, location}, placement);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->row_token, (std::vector<int32_t>{3, 1, 2, 4, 0}));  // token 1 goes where Choose says: place 1
  EXPECT_EQ(plan->row_offsets, (std::vector<int64_t>{0, 1, 4, 5}));
  EXPECT_EQ(plan->selections[1].slot, 1);
  EXPECT_EQ(plan->selections[3].slot, 0);
  const std::vector<int32_t> wrong = {0, 0, 3, 0, 0, 0};
  const auto error = BuildSendPlan({experts, 6, 1, wrong}, placement);
  EXPECT_EQ(error.status().message(), "routing: token 2 wants location 3 of expert 0, which has 3");
}

}  // namespace
}  // namespace tokenferry
