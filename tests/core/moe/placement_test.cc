#include "core/moe/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

namespace tokenferry {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Table = std::vector<std::vector<int>>;

TEST(PlacementTest, LinearSpreadsExpertsInOrder) {
  const Placement p = Placement::Linear(7, 3);
  EXPECT_EQ(p.num_experts(), 7);
  EXPECT_EQ(p.num_ranks(), 3);
  EXPECT_THAT(p.local_experts(RankId(0)), ElementsAre(0, 1, 2));
  EXPECT_THAT(p.local_experts(RankId(1)), ElementsAre(3, 4));
  EXPECT_THAT(p.local_experts(RankId(2)), ElementsAre(5, 6));
  const auto location = p.Choose(ExpertId(4), RankId(0), 12345);
  EXPECT_EQ(location.rank, RankId(1));
  EXPECT_EQ(location.slot, SlotId(1));
}

TEST(PlacementTest, MoreRanksThanExpertsLeaveRanksEmpty) {
  const Placement p = Placement::Linear(2, 5);
  for (int rank = 0; rank < 5; ++rank) EXPECT_EQ(p.num_local_slots(RankId(rank)), rank < 2 ? 1 : 0);
  EXPECT_EQ(Placement::Linear(0, 3).num_experts(), 0);
}

TEST(PlacementTest, ReplicasAreUsedInTurn) {
  const auto p = Placement::FromTable(2, {{0, 1}, {}, {1}});
  ASSERT_TRUE(p.ok()) << p.status();
  EXPECT_EQ(p->locations(ExpertId(0)).size(), 1u);
  EXPECT_EQ(p->locations(ExpertId(1)).size(), 2u);
  EXPECT_THAT(p->local_experts(RankId(1)), IsEmpty());
  int num_on_rank_2 = 0;
  for (int64_t token = 0; token < 10; ++token) {
    EXPECT_EQ(p->Choose(ExpertId(0), RankId(1), token).rank, RankId(0));
    num_on_rank_2 += p->Choose(ExpertId(1), RankId(1), token).rank == RankId(2) ? 1 : 0;
  }
  EXPECT_EQ(num_on_rank_2, 5);
}

TEST(PlacementTest, ReplicasOnTheTokensOwnHostComeFirst) {
  auto p = *Placement::FromTable(2, {{0, 1}, {1}, {1}, {1}, {}});
  const uint64_t digest = p.Digest();
  const auto ranks_of = [&](int expert, int source) {
    std::vector<int> ranks;
    for (int64_t token = 0; token < 4; ++token) {
      ranks.push_back(p.Choose(ExpertId(expert), RankId(source), token).rank.value);
    }
    return ranks;
  };
  EXPECT_THAT(ranks_of(1, 2), ElementsAre(0, 1, 2, 3));
  p.SetHosts({7, 5, 5, 7, 9});
  EXPECT_NE(p.Digest(), digest);
  EXPECT_THAT(ranks_of(1, 2), ElementsAre(1, 2, 1, 2));
  EXPECT_THAT(ranks_of(1, 3), ElementsAre(0, 3, 0, 3));
  EXPECT_THAT(ranks_of(1, 4), ElementsAre(0, 1, 2, 3));  // none there
  EXPECT_THAT(ranks_of(0, 1), ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(p.num_locations(), 5);
  EXPECT_EQ(p.location(p.first_location(ExpertId(1)) + 2).rank, RankId(2));
}

TEST(PlacementTest, BadTablesAreRefused) {
  const struct {
    int num_experts;
    Table table;
    const char* message;
  } cases[] = {{3, {{0, 1}}, "expert 2 is on no rank"}, {2, {{0, 1}, {2}}, "slot 0 of rank 1 holds expert 2"},
               {2, {{0, -1, 1}}, "holds expert -1"},    {2, {{0}, {1, 0, 1}}, "expert 1 stands twice on rank 1"},
               {1, {}, "expert 0 is on no rank"},       {-1, {{}}, "-1 experts"}};
  for (const auto& c : cases) {
    const auto p = Placement::FromTable(c.num_experts, c.table);
    EXPECT_EQ(p.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(p.status().message()), HasSubstr(c.message));
  }
}

TEST(PlacementTest, DigestTellsTablesApart) {
  const std::vector<Table> tables = {{{0, 1}, {2}},   {{0}, {1, 2}}, {{1, 0}, {2}}, {{0, 1, 2}, {}},
                                     {{}, {0, 1, 2}}, {{0, 1, 2}},   {{2}, {0, 1}}, {{0, 1}, {2, 0}}};
  for (size_t i = 0; i < tables.size(); ++i) {
    for (size_t j = 0; j < tables.size(); ++j) {
      const auto a = Placement::FromTable(3, tables[i]), b = Placement::FromTable(3, tables[j]);
      EXPECT_EQ(a->Digest() == b->Digest(), i == j) << i << " " << j;
    }
  }
}

class PlacementFileTest : public ::testing::Test {
 protected:
  void TearDown() override { std::remove(path_.c_str()); }
  absl::StatusOr<Placement> Parse(const std::string& text, int num_experts = 3, int num_ranks = 2) {
    std::ofstream(path_, std::ios::binary) << text;
    return Placement::FromFile(path_, num_experts, num_ranks);
  }
  void ExpectError(const std::string& text, const std::string& message) {
    const auto p = Parse(text);
    ASSERT_FALSE(p.ok()) << text;
    EXPECT_EQ(p.status().code(), absl::StatusCode::kInvalidArgument) << p.status();
    EXPECT_THAT(std::string(p.status().message()), HasSubstr(path_));
    EXPECT_THAT(std::string(p.status().message()), HasSubstr(message));
    EXPECT_LT(p.status().message().size(), path_.size() + 300);
  }
  const std::string path_ = ::testing::TempDir() + "/placement_test." + std::to_string(getpid()) + ".json";
};

TEST_F(PlacementFileTest, ReadsATable) {
  const auto p = Parse(R"({"experts_per_rank": [[2, 0], [1, 0]]})");
  ASSERT_TRUE(p.ok()) << p.status();
  EXPECT_THAT(p->local_experts(RankId(0)), ElementsAre(2, 0));
  EXPECT_THAT(p->local_experts(RankId(1)), ElementsAre(1, 0));
}

TEST_F(PlacementFileTest, BadFilesAreRefused) {
  for (const char* text : {"{", "nothing", "{\"experts_per_rank\": [[0,1],[2]]"}) ExpectError(text, "is not JSON");
  for (const char* text : {"[]", "{}", R"({"experts_per_rank": null})"})
    ExpectError(text, text[0] == '[' ? "must be an object" : "lacks \"experts_per_rank\"");
  for (const char* text : {R"({"experts_per_rank": 3})", R"({"experts_per_rank": {}})"}) {
    ExpectError(text, ":1:22: experts_per_rank: must be a list");
  }
  ExpectError("\xFF\xFE\x00{}", "UTF-16");
  ExpectError("", "is empty");
  ExpectError(R"({"experts_per_rank": [[0, 1], [2]], "experts_per_rank": [[0, 1], [2]]})", "twice");
  ExpectError(R"({"experts_per_rank": [[0, 1], 2]})", ":1:31: experts_per_rank[1]: must be a list, not 2");
  ExpectError(R"({"experts_per_rank": [[0, 1, 2]]})", ":1:22: experts_per_rank: has 1 rows for 2 ranks");
  ExpectError(R"({"experts_per_rank": [[0, 1], [2], []]})", "3 rows for 2 ranks");
  ExpectError(R"({"experts_per_rank": [[0, 1], [3]]})", ":1:32: experts_per_rank[1][0]: is expert 3, but the experts");
  for (const char* number : {"-1", "1.5", "2.0", "1e0", "\"1\"", "null", "true", "[1]", "2147483648", "4294967296",
                             "4294967297", "18446744073709551615", "18446744073709551617", "1e400", "-4294967295"}) {
    ExpectError(absl::StrCat(R"({"experts_per_rank": [[0, )", number, R"(], [2]]})"), "");
  }
  ExpectError(absl::StrCat(R"({"experts_per_rank": [[0, ")", std::string(100000, 'x'), R"("], [2]]})"),
              "experts_per_rank[0][1]: must be an integer");
  ExpectError(std::string(200000, '['), "nested deeper");
}

TEST_F(PlacementFileTest, MissingFilesAndFoldersAreErrors) {
  EXPECT_EQ(Placement::FromFile(path_ + ".none", 3, 2).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Placement::FromFile(::testing::TempDir(), 3, 2).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tokenferry
