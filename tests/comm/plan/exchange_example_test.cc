// The worked example of docs/exchange-example.md: its arrays are those of this plan.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "comm/plan/exchange_plan.h"

namespace tokenferry {
namespace {

constexpr int kRanks = 3, kTopK = 2;
// Experts of each token of each rank, by falling weight.
const std::vector<std::vector<int32_t>> kExpertIdx = {{1, 4, 0, 1}, {5, 4, 2, 0}, {4, 3}};

template <class T>
std::string Line(const char* name, const std::vector<T>& values) {
  return absl::StrCat("  ", name, std::string(18 - std::string(name).size(), ' '), absl::StrJoin(values, " "), "\n");
}

std::string Line(const char* name, const std::vector<WireSelection>& selections) {
  std::vector<std::string> texts;
  for (const WireSelection& s : selections) texts.push_back(absl::StrCat("(", s.row_idx, ",", s.slot, ")"));
  return Line(name, texts);
}

std::string Describe(int rank, const SendPlan& plan) {
  return absl::StrCat("rank ", rank, " sends\n", Line("row_offsets", plan.row_offsets),
                      Line("row_token", plan.row_token), Line("selection_offsets", plan.selection_offsets),
                      Line("selections", plan.selections), Line("selection_expert", plan.selection_expert),
                      Line("selection_k", plan.selection_k), Line("combine_offsets", plan.combine_offsets),
                      Line("combine_selection", plan.combine_selection), Line("combine_k", plan.combine_k));
}

std::string Describe(int rank, const RecvPlan& plan) {
  return absl::StrCat("rank ", rank, " receives\n", Line("row_offsets", plan.row_offsets),
                      Line("selection_offsets", plan.selection_offsets), Line("slot_offsets", plan.slot_offsets),
                      Line("row_idx", plan.row_idx), Line("return_selection", plan.return_selection));
}

std::string ReadDocument() {
  const char* root = std::getenv("TF_SOURCE_DIR");
  std::ifstream file(absl::StrCat(root == nullptr ? "." : root, "/docs/exchange-example.md"));
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(ExchangeExample, TheDocumentShowsThisPlan) {
  const Placement placement = Placement::Linear(6, kRanks);
  PlanBuilder builder;
  std::vector<SendPlan> sends(kRanks);
  for (int r = 0; r < kRanks; ++r) {
    const HostRouting routing{.expert_idx = kExpertIdx[r],
                              .num_tokens = static_cast<int64_t>(kExpertIdx[r].size()) / kTopK,
                              .top_k = kTopK,
                              .rank = RankId{r}};
    ASSERT_TRUE(builder.BuildSend(routing, placement, sends[r]).ok());
  }
  const std::string document = ReadDocument();
  ASSERT_FALSE(document.empty());
  for (int r = 0; r < kRanks; ++r) {
    std::vector<int64_t> rows, selections;
    std::vector<WireSelection> arrived;
    for (const SendPlan& send : sends) {
      rows.push_back(send.row_offsets[r + 1] - send.row_offsets[r]);
      selections.push_back(send.selection_offsets[r + 1] - send.selection_offsets[r]);
      arrived.insert(arrived.end(), send.selections.begin() + send.selection_offsets[r],
                     send.selections.begin() + send.selection_offsets[r + 1]);
    }
    RecvPlan recv;
    ASSERT_TRUE(builder.BuildRecv(rows, selections, arrived, placement.num_local_slots(RankId{r}), recv).ok());
    EXPECT_THAT(document, testing::HasSubstr(Describe(r, sends[r])));
    EXPECT_THAT(document, testing::HasSubstr(Describe(r, recv)));
  }
}

}  // namespace
}  // namespace tokenferry
