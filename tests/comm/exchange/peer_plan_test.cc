// The pure plan of path peer: two ranks, with what each wrote given as plain arrays.
#include "comm/exchange/peer/peer_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tokenferry {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Experts 0 and 1 on rank 0, 2 on rank 1. Rank 0 has two tokens, {2, 0} and {1, -1}; rank 1 has three: {2, -1}, none at
// all, and {1, 2}.
class PeerPlan : public testing::Test {
 protected:
  PeerPlan() : placement_(*Placement::FromTable(3, {{0, 1}, {2}})) {
    const std::vector<int32_t> experts[] = {{2, 0, 1, -1}, {2, -1, -1, -1, 1, 2}};
    for (int src = 0; src < 2; ++src) {
      const HostRouting routing{experts[src], static_cast<int64_t>(experts[src].size()) / 2, 2, {}, RankId(src)};
      EXPECT_EQ(builder_.BuildSend(routing, placement_, send_[src]), absl::OkStatus());
      headers_.num_tokens[src] = send_[src].num_tokens;
      for (int dst = 0; dst < 2; ++dst) {
        PlanHeader& header = headers_.by_pair[src * 2 + dst];
        header.num_rows = send_[src].row_offsets[dst + 1] - send_[src].row_offsets[dst];
        header.num_selections = send_[src].selection_offsets[dst + 1] - send_[src].selection_offsets[dst];
      }
    }
    for (int dst = 0; dst < 2; ++dst) {
      std::vector<int64_t> rows, counts;
      std::vector<WireSelection> selections;
      for (int src = 0; src < 2; ++src) {
        rows.push_back(headers_.of(src, dst).num_rows);
        counts.push_back(headers_.of(src, dst).num_selections);
        const auto begin = send_[src].selections.begin() + headers_.FirstSelection(src, dst);
        selections.insert(selections.end(), begin, begin + counts.back());
      }
      EXPECT_EQ(builder_.BuildRecv(rows, counts, selections, placement_.num_local_slots(RankId(dst)), recv_[dst]),
                absl::OkStatus());
    }
  }

  // The tokens of the rows that each rank has for `me`.
  std::vector<absl::Span<const int32_t>> RowTokens(int me) const {
    std::vector<absl::Span<const int32_t>> tokens;
    for (int src = 0; src < 2; ++src) {
      tokens.push_back(
          absl::MakeConstSpan(send_[src].row_token).subspan(headers_.FirstRow(src, me), headers_.of(src, me).num_rows));
    }
    return tokens;
  }
  // Which of each rank's outputs belong to the selections of `me`.
  std::vector<absl::Span<const int32_t>> Returns(int me) const {
    std::vector<absl::Span<const int32_t>> returns;
    for (int r = 0; r < 2; ++r) {
      returns.push_back(absl::MakeConstSpan(recv_[r].return_selection)
                            .subspan(headers_.FirstArrival(me, r), headers_.of(me, r).num_selections));
    }
    return returns;
  }

  const Placement placement_;
  PlanBuilder builder_;
  PeerHeaders headers_{2};
  SendPlan send_[2];
  RecvPlan recv_[2];
  std::vector<int32_t> scratch_, location_;
};

TEST_F(PeerPlan, NeedsWhatTheBusiestRankNeeds) {
  const auto needed = NeededCapacity(headers_);
  ASSERT_TRUE(needed.ok()) << needed.status();
  EXPECT_EQ(needed->tokens, 3);           // of rank 1
  EXPECT_EQ(needed->send_rows, 3);        // rank 0: token 0 to both, token 1 to itself; rank 1: three too
  EXPECT_EQ(needed->send_selections, 3);  // of both
  EXPECT_EQ(needed->recv_selections, 3);  // of both
}

TEST_F(PeerPlan, RowsLieWhereTheirTokensAre) {
  constexpr int64_t kRowsPerRank = 10;
  // Rank 0: slot 0 has rank 0's token 0; slot 1 has rank 0's token 1, then rank 1's token 2.
  ASSERT_EQ(LocateRows(headers_, RowTokens(0), recv_[0], kRowsPerRank, scratch_, location_), absl::OkStatus());
  EXPECT_THAT(location_, ElementsAre(0, 1, 12));
  // Rank 1, one slot: rank 0's token 0, rank 1's tokens 0 and 2.
  ASSERT_EQ(LocateRows(headers_, RowTokens(1), recv_[1], kRowsPerRank, scratch_, location_), absl::OkStatus());
  EXPECT_THAT(location_, ElementsAre(0, 10, 12));
}

TEST_F(PeerPlan, OutputsLieWhereTheirExpertsWroteThem) {
  constexpr int64_t kOutputsPerRank = 100;
  // Token 0 sums experts 0 (rank 0's output 0) and 2 (rank 1's output 0); token 1 has expert 1, rank 0's output 1.
  ASSERT_EQ(LocateOutputs(headers_, Returns(0), send_[0], kOutputsPerRank, scratch_, location_), absl::OkStatus());
  EXPECT_THAT(location_, ElementsAre(0, 100, 1));
  // Token 0 has expert 2, rank 1's output 1; token 2 sums expert 1, rank 0's output 2, and expert 2, rank 1's output 2.
  ASSERT_EQ(LocateOutputs(headers_, Returns(1), send_[1], kOutputsPerRank, scratch_, location_), absl::OkStatus());
  EXPECT_THAT(location_, ElementsAre(101, 2, 102));
}

TEST_F(PeerPlan, NamesTheRankThatWroteWhatCannotBe) {
  const std::vector<int32_t> no_such_token = {3};
  auto tokens = RowTokens(0);
  tokens[1] = no_such_token;
  const absl::Status rows = LocateRows(headers_, tokens, recv_[0], 10, scratch_, location_);
  EXPECT_EQ(rows.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(rows.message()), HasSubstr("rank 1: row 0 is token 3 of 3"));

  for (const int32_t no_such_output : {-1, 3}) {
    const std::vector<int32_t> bad(headers_.of(0, 1).num_selections, no_such_output);
    auto returns = Returns(0);
    returns[1] = bad;
    const absl::Status outputs = LocateOutputs(headers_, returns, send_[0], 100, scratch_, location_);
    EXPECT_EQ(outputs.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(outputs.message()), HasSubstr("rank 1 says"));
  }

  headers_.by_pair[1].num_selections = -4;  // of rank 0, for rank 1
  const absl::Status counts = NeededCapacity(headers_).status();
  EXPECT_EQ(counts.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(counts.message()), HasSubstr("rank 0: count -4"));
}

TEST(PeerPlanAlone, NobodyHasTokens) {
  const PeerHeaders headers(3);
  const auto needed = NeededCapacity(headers);
  ASSERT_TRUE(needed.ok()) << needed.status();
  EXPECT_TRUE(PeerCapacity{}.Holds(*needed));
  RecvPlan recv;
  std::vector<int32_t> scratch, location = {7};
  EXPECT_EQ(LocateRows(headers, std::vector<absl::Span<const int32_t>>(3), recv, 8, scratch, location),
            absl::OkStatus());
  EXPECT_TRUE(location.empty());
}

}  // namespace
}  // namespace tokenferry
