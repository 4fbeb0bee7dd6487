// What one sequence meets, and what ends a run: on all ranks, with one message.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "runtime/engine/scheduler.h"
#include "tests/runtime/engine/engine_runner.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

constexpr int32_t kBroken = 7;  // the token whose logit is NaN

// Every kind of request that looks at logits, and how each has ended.
TEST(EngineError, ANaNLogitIsAnErrorOfTheScoresToo) {
  std::vector<Request> requests = {ScoreRequest({3, 4, 5}), LogitsRequest({3, 4, 5}), GenerateRequest({3, 4, 5}, 2),
                                   GenerateRequest({3, 4, 5}, 2)};
  requests[3].prompt_scores = Wanted::kYes;
  requests[3].routing = Wanted::kYes;
  std::map<int32_t, std::vector<SequenceUpdate>> updates;
  const auto ended = RunRanks(2, absl::Seconds(60), [&](Transport& transport) -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto rank, StartEngine(transport, {.num_ranks = 2}));
    const WeightView& head = rank->weights.ends[Role::kLmHead];
    std::memset(static_cast<char*>(const_cast<void*>(head.data)) + kBroken * head.row_bytes(), 0xff, head.row_bytes());
    Scheduler scheduler(rank->engine->scheduler_options());
    for (const Request& r : requests) TF_RETURN_IF_ERROR(scheduler.Add(r).status());
    return rank->engine->RunUntilIdle(&scheduler, [&](const SequenceUpdate& u) {
      updates[u.seq].push_back(u);
      return absl::OkStatus();
    });
  });
  for (const absl::Status& status : ended) EXPECT_TRUE(status.ok()) << status;
  for (int32_t seq = 0; seq < 4; ++seq) {
    SCOPED_TRACE(seq);
    ASSERT_EQ(updates[seq].size(), 1u);
    const SequenceUpdate& u = updates[seq][0];
    EXPECT_EQ(u.end, SequenceEnd::kError);
    // Scores begin with the token at position 1; a generation chooses the one at 3.
    EXPECT_THAT(std::string(u.error.message()), HasSubstr(seq == 2 ? "logit of token 7 at position 3 is NaN"
                                                                   : "logit of token 7 at position 1 is NaN"));
    EXPECT_TRUE(u.result.logprobs.empty());
  }
}

TEST(EngineError, AnErrorOfWhoTakesTheUpdatesEndsAllRanksWithOneMessage) {
  const auto ended = RunRanks(3, absl::Seconds(60), [&](Transport& transport) -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto rank, StartEngine(transport, {.num_ranks = 3}));
    Scheduler scheduler(rank->engine->scheduler_options());
    for (int i = 0; i < 4; ++i) TF_RETURN_IF_ERROR(scheduler.Add(GenerateRequest({3, 4}, 9)).status());
    return rank->engine->RunUntilIdle(&scheduler, [](const SequenceUpdate& u) -> absl::Status {
      return u.seq == 1 ? absl::ResourceExhaustedError("the disk is full") : absl::OkStatus();
    });
  });
  for (const absl::Status& status : ended) {
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_EQ(status.message(), "rank 0: the disk is full");
  }
}

}  // namespace
}  // namespace tokenferry
