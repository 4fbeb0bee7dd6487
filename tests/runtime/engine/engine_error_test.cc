// What one sequence meets, and what ends a run: on all ranks, with one message.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "runtime/engine/scheduler.h"
#include "tests/runtime/engine/engine_runner.h"
#include "tests/support/device_cases.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

constexpr int32_t kBroken = 7;  // the token whose row of weights is NaN

void BreakRow(const WeightView& table) {
  std::memset(static_cast<char*>(const_cast<void*>(table.data)) + kBroken * table.row_bytes(), 0xff, table.row_bytes());
}

// What became of a sequence.
struct Ended {
  absl::Status error;
  int num_updates = 0;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs, logits;
  std::vector<double> scores;
};

// By request, of a model in which the embedding of kBroken is NaN. The job must live.
std::vector<Ended> RunWithBrokenEmbedding(const RunSetup& setup, const std::vector<Request>& requests) {
  std::vector<Ended> all(requests.size());
  const auto ranks = RunRanks(setup.num_ranks, absl::Seconds(60), [&](Transport& transport) -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto rank, StartEngine(transport, setup));
    BreakRow(rank->weights.ends[Role::kEmbedTokens]);
    Scheduler scheduler(rank->engine->scheduler_options());
    for (const Request& r : requests) TF_RETURN_IF_ERROR(scheduler.Add(r).status());
    return rank->engine->RunUntilIdle(&scheduler, [&](const SequenceUpdate& u) {
      Ended& ended = all[u.seq];
      ended.error = u.error;
      ended.num_updates += 1;
      if (u.has_token) ended.tokens.push_back(u.token.token), ended.logprobs.push_back(u.token.logprob);
      ended.logits.insert(ended.logits.end(), u.result.logits.begin(), u.result.logits.end());
      ended.scores.insert(ended.scores.end(), u.result.logprobs.begin(), u.result.logprobs.end());
      return absl::OkStatus();
    });
  });
  for (const absl::Status& status : ranks) EXPECT_TRUE(status.ok()) << status;
  return all;
}

// Every kind of request that looks at logits, and how each has ended.
TEST(EngineError, ANaNLogitIsAnErrorOfTheScoresToo) {
  std::vector<Request> requests = {ScoreRequest({3, 4, 5}), LogitsRequest({3, 4, 5}), GenerateRequest({3, 4, 5}, 2),
                                   GenerateRequest({3, 4, 5}, 2)};
  requests[3].prompt_scores = Wanted::kYes;
  requests[3].routing = Wanted::kYes;
  std::map<int32_t, std::vector<SequenceUpdate>> updates;
  const auto ended = RunRanks(2, absl::Seconds(60), [&](Transport& transport) -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto rank, StartEngine(transport, {.num_ranks = 2}));
    BreakRow(rank->weights.ends[Role::kLmHead]);
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

// Sequences with the broken token among those without it, in a cache so small that blocks with NaN keys are used again.
TEST(EngineError, ANaNInARouterEndsItsSequenceAlone) {
  const auto text = ReadPrompts("ferry-tiny-v3/heldout_docs.json").at(0);
  const auto beginning = [&](int64_t size) { return std::vector<int32_t>(text.begin(), text.begin() + size); };
  std::vector<Request> healthy, mixed;
  std::map<size_t, int64_t> broken;  // request -> position of its broken token
  for (int64_t i = 0; i < 12; ++i) {
    Request r = i % 4 == 1   ? LogitsRequest(beginning(9 + 7 * i))
                : i % 4 == 2 ? ScoreRequest(beginning(20 + 5 * i))
                             : GenerateRequest(beginning(3 + 11 * i), 12, {.temperature = 0.8, .seed = 5});
    r.routing = i % 4 == 3 ? Wanted::kYes : Wanted::kNo;
    healthy.push_back(r);
    mixed.push_back(r);
    // Beside it another one, as long or longer: broken at its first token, its last, or somewhere else.
    r.prompt.resize(r.prompt.size() + 3 * i, 40);
    const int64_t last = static_cast<int64_t>(r.prompt.size()) - 1, at = i % 3 == 0 ? 0 : i % 3 == 1 ? last : last / 2;
    r.prompt[at] = kBroken;
    broken[mixed.size()] = at;
    mixed.push_back(std::move(r));
  }
  const std::vector<Ended> want = RunWithBrokenEmbedding({}, healthy);
  for (const int num_ranks : {1, 2, 3}) {
    for (const Overlap overlap : {Overlap::kOff, Overlap::kTwoBatch}) {
      SCOPED_TRACE(testing::Message() << num_ranks << " ranks, overlap " << static_cast<int>(overlap));
      RunSetup setup{.num_ranks = num_ranks};
      setup.engine.overlap = overlap;
      setup.engine.prefill_chunk = 70;
      setup.engine.max_sequences_per_rank = 4;
      setup.engine.cache_tokens_per_rank = 6 * kCacheBlockTokens;
      const std::vector<Ended> got = RunWithBrokenEmbedding(setup, mixed);
      size_t healthy_idx = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        SCOPED_TRACE(testing::Message() << "request " << i);
        if (const auto at = broken.find(i); at != broken.end()) {
          EXPECT_TRUE(absl::IsInternal(got[i].error)) << got[i].error;
          const std::string position = absl::StrCat("the token at position ", at->second, " are NaN");
          EXPECT_THAT(std::string(got[i].error.message()), HasSubstr(position));
          EXPECT_TRUE(got[i].tokens.empty());
          continue;
        }
        const Ended& alone = want[healthy_idx++];
        EXPECT_TRUE(alone.error.ok()) << alone.error;
        EXPECT_TRUE(got[i].error.ok()) << got[i].error;
        EXPECT_FALSE(alone.tokens.empty() && alone.logits.empty() && alone.scores.empty());
        EXPECT_EQ(got[i].tokens, alone.tokens);
        EXPECT_TRUE(SameBits(got[i].logprobs, alone.logprobs));
        EXPECT_TRUE(SameBits(got[i].logits, alone.logits));
        EXPECT_TRUE(SameBits(got[i].scores, alone.scores));
      }
    }
  }
}

// Nobody asks for the score of what follows the last token, but its logits are handed out.
TEST(EngineError, ANaNAmongTheLastLogitsOfAPromptIsAnError) {
  const auto ended = RunRanks(1, absl::Seconds(60), [&](Transport& transport) -> absl::Status {
    TF_ASSIGN_OR_RETURN(const auto rank, StartEngine(transport, {}));
    BreakRow(rank->weights.ends[Role::kLmHead]);
    Scheduler scheduler(rank->engine->scheduler_options());
    TF_RETURN_IF_ERROR(scheduler.Add(LogitsRequest({3})).status());
    return rank->engine->RunUntilIdle(&scheduler, [&](const SequenceUpdate& u) { return u.error; });
  });
  EXPECT_THAT(std::string(ended[0].message()), HasSubstr("logit of token 7 at position 1 is NaN"));
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
