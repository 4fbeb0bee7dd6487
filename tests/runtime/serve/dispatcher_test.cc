#include "runtime/serve/front/dispatcher.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

// Notes what it hears: "t0" a token of sequence 0, "f1" a failure of sequence 1, "s" the end of a step.
class NotingSink final : public RequestSink {
 public:
  void OnToken(size_t idx, const TokenUpdate& update) override {
    absl::StrAppend(&heard, "t", idx, update.end == OutputEnd::kNone ? " " : "! ");
  }
  void OnPromptScores(size_t idx, const PromptScores& news) override {
    absl::StrAppend(&heard, "p", idx, " ");
    scores.insert(scores.end(), news.logprobs.begin(), news.logprobs.end());
  }
  void OnFailed(size_t idx, const HttpError& error) override {
    absl::StrAppend(&heard, "f", idx, ":", error.status, " ");
  }
  void OnStepEnd() override { heard += "s "; }
  std::string heard;
  std::vector<float> scores;
};

class DispatcherTest : public ::testing::Test {
 protected:
  Dispatcher Make(int max_waiting) {
    return Dispatcher([this](const Message& message) { sent_.push_back(message); }, max_waiting);
  }
  // Sequences whose first token says whose they are.
  static std::vector<AddRequest> Sequences(int32_t mark, size_t count) {
    std::vector<AddRequest> sequences(count);
    for (AddRequest& sequence : sequences) sequence.prompt = {mark};
    return sequences;
  }
  std::vector<int32_t> Marks() const {
    std::vector<int32_t> marks;
    for (const Message& message : sent_) {
      if (const auto* add = std::get_if<AddRequest>(&message)) marks.push_back(add->prompt[0]);
    }
    return marks;
  }
  uint64_t IdOf(size_t nth) const {
    for (const Message& message : sent_) {
      const auto* add = std::get_if<AddRequest>(&message);
      if (add != nullptr && nth-- == 0) return add->id;
    }
    return 0;
  }
  static TokenBatch Last(uint64_t id) { return {{{.id = id, .end = OutputEnd::kStop}}}; }

  std::vector<Message> sent_;
};

TEST_F(DispatcherTest, KeysTakeTurns) {
  Dispatcher dispatcher = Make(100);
  const auto sink = std::make_shared<NotingSink>();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(dispatcher.Submit("flood", Sequences(1, 4), sink).ok());
  ASSERT_TRUE(dispatcher.Submit("other", Sequences(2, 1), sink).ok());
  ASSERT_TRUE(dispatcher.Submit("third", Sequences(3, 2), sink).ok());
  EXPECT_TRUE(sent_.empty());
  EXPECT_EQ(dispatcher.stats().num_waiting_requests, 5);
  dispatcher.SetCapacity(5);
  EXPECT_EQ(Marks(), (std::vector<int32_t>{1, 2, 3, 1, 3}));
  EXPECT_EQ(dispatcher.stats().num_waiting_requests, 2);
  EXPECT_EQ(dispatcher.stats().num_running_sequences, 5);
  dispatcher.Take(Last(IdOf(0)));
  EXPECT_EQ(Marks().size(), 6U);
}

TEST_F(DispatcherTest, RefusesWhenTooManyWait) {
  Dispatcher dispatcher = Make(2);
  const auto sink = std::make_shared<NotingSink>();
  EXPECT_TRUE(dispatcher.Submit("a", Sequences(1, 1), sink).ok());
  EXPECT_TRUE(dispatcher.Submit("b", Sequences(1, 1), sink).ok());
  EXPECT_FALSE(dispatcher.Submit("c", Sequences(1, 1), sink).ok());
  dispatcher.SetCapacity(1);
  EXPECT_TRUE(dispatcher.Submit("c", Sequences(1, 1), sink).ok());
}

TEST_F(DispatcherTest, CancelReachesTheRanksOnlyForWhatRuns) {
  Dispatcher dispatcher = Make(10);
  const auto sink = std::make_shared<NotingSink>();
  dispatcher.SetCapacity(2);
  const uint64_t first = *dispatcher.Submit("a", Sequences(1, 3), sink);
  const uint64_t second = *dispatcher.Submit("a", Sequences(2, 1), sink);
  ASSERT_EQ(Marks().size(), 2U);
  dispatcher.Cancel(second);
  EXPECT_EQ(sent_.size(), 2U);
  EXPECT_EQ(dispatcher.stats().num_waiting_requests, 0);
  dispatcher.CancelSequence(first, 0);
  ASSERT_EQ(sent_.size(), 4U);  // a cancel, and the third sequence in its place
  EXPECT_EQ(std::get<CancelRequest>(sent_[2]).id, IdOf(0));
  dispatcher.Take(Last(IdOf(0)));  // too late: nobody hears of it
  EXPECT_EQ(sink->heard, "");
  dispatcher.Cancel(first);
  EXPECT_TRUE(dispatcher.idle());
  EXPECT_EQ(dispatcher.stats().num_running_sequences, 0);
}

TEST_F(DispatcherTest, CancelSendsNothingInPlaceOfWhatItEnds) {
  Dispatcher dispatcher = Make(10);
  const auto sink = std::make_shared<NotingSink>();
  dispatcher.SetCapacity(1);
  const uint64_t first = *dispatcher.Submit("a", Sequences(1, 3), sink);
  ASSERT_TRUE(dispatcher.Submit("a", Sequences(2, 1), sink).ok());
  dispatcher.Cancel(first);
  ASSERT_EQ(sent_.size(), 3U);  // the first sequence, its cancel, and the next request
  EXPECT_EQ(std::get<CancelRequest>(sent_[1]).id, IdOf(0));
  EXPECT_EQ(Marks(), (std::vector<int32_t>{1, 2}));
}

TEST_F(DispatcherTest, EverySequenceEndsOnce) {
  Dispatcher dispatcher = Make(10);
  const auto sink = std::make_shared<NotingSink>();
  dispatcher.SetCapacity(2);
  ASSERT_TRUE(dispatcher.Submit("a", Sequences(1, 3), sink).ok());
  dispatcher.Take(TokenBatch{{{.id = IdOf(0)}, {.id = IdOf(1), .end = OutputEnd::kLength}}});
  EXPECT_EQ(sink->heard, "t0 t1! s ");
  dispatcher.Take(RequestFailed{IdOf(0), FailureKind::kInternal, "NaN"});
  dispatcher.Take(RequestFailed{IdOf(0), FailureKind::kInternal, "NaN"});
  EXPECT_EQ(sink->heard, "t0 t1! s f0:500 ");
  dispatcher.FailAll({503, "rank_failed", "gone", ""});
  EXPECT_EQ(sink->heard, "t0 t1! s f0:500 f2:503 ");
  dispatcher.FailAll({503, "rank_failed", "gone", ""});
  EXPECT_EQ(sink->heard, "t0 t1! s f0:500 f2:503 ");
  EXPECT_TRUE(dispatcher.idle());
}

TEST_F(DispatcherTest, WhatRanGoesOnWithOtherRanks) {
  Dispatcher dispatcher = Make(10);
  const auto sink = std::make_shared<NotingSink>();
  dispatcher.SetCapacity(2);
  ASSERT_TRUE(dispatcher.Submit("a", Sequences(1, 1), sink).ok());
  const uint64_t second = *dispatcher.Submit("a", Sequences(2, 1), sink);
  ASSERT_TRUE(dispatcher.Submit("a", Sequences(3, 1), sink).ok());
  dispatcher.Take(TokenBatch{{{.id = IdOf(0), .sampled = {7, 0}}, {.id = IdOf(1), .sampled = {8, 0}}}});
  dispatcher.Take(TokenBatch{{{.id = IdOf(0), .sampled = {9, 0}}}});
  const uint64_t first_id = IdOf(0), second_id = IdOf(1);
  dispatcher.OnRanksLost({500, "rank_failed", "twice", ""});
  EXPECT_EQ(sink->heard, "t0 t0 s t0 s ");
  EXPECT_EQ(sent_.size(), 2U);  // nothing before the others are there
  EXPECT_EQ(dispatcher.stats().num_running_sequences, 0);
  dispatcher.Cancel(second);  // not with any rank: nobody to tell
  sent_.clear();
  dispatcher.SetCapacity(2);
  ASSERT_EQ(Marks(), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(std::get<AddRequest>(sent_[0]).id, first_id);
  EXPECT_EQ(std::get<AddRequest>(sent_[0]).output, (std::vector<int32_t>{7, 9}));
  dispatcher.Take(Last(second_id));
  EXPECT_EQ(sink->heard, "t0 t0 s t0 s ");
  dispatcher.Take(Last(first_id));
  EXPECT_EQ(sink->heard, "t0 t0 s t0 s t0! s ");
}

TEST_F(DispatcherTest, WhoRanOnTwoJobsThatEndedFails) {
  Dispatcher dispatcher = Make(10);
  const auto sink = std::make_shared<NotingSink>(), other = std::make_shared<NotingSink>();
  dispatcher.SetCapacity(1);
  ASSERT_TRUE(dispatcher.Submit("a", Sequences(1, 3), sink).ok());
  ASSERT_TRUE(dispatcher.Submit("b", Sequences(2, 1), other).ok());
  dispatcher.OnRanksLost({500, "rank_failed", "twice", ""});
  dispatcher.OnRanksLost({500, "rank_failed", "twice", ""});  // nothing ran
  EXPECT_EQ(sink->heard, "");
  dispatcher.SetCapacity(1);
  dispatcher.OnRanksLost({500, "rank_failed", "twice", ""});
  EXPECT_EQ(sink->heard, "f0:500 f1:500 f2:500 ");
  sent_.clear();
  dispatcher.SetCapacity(1);
  EXPECT_EQ(Marks(), (std::vector<int32_t>{2}));
  dispatcher.Take(Last(IdOf(0)));
  EXPECT_EQ(other->heard, "t0! s ");
  EXPECT_TRUE(dispatcher.idle());
}

TEST_F(DispatcherTest, ScoresOfAPromptComeOnce) {
  Dispatcher dispatcher = Make(10);
  const auto sink = std::make_shared<NotingSink>();
  dispatcher.SetCapacity(1);
  std::vector<AddRequest> sequences(1);
  sequences[0].prompt = {1, 2, 3, 4, 5};
  sequences[0].max_new_tokens = 4;
  sequences[0].prompt_scores = WantPromptScores::kYes;
  ASSERT_TRUE(dispatcher.Submit("a", sequences, sink).ok());
  dispatcher.Take(PromptScores{IdOf(0), {-2, -3}});
  dispatcher.OnRanksLost({});
  dispatcher.SetCapacity(1);
  EXPECT_EQ(std::get<AddRequest>(sent_.back()).prompt_scores, WantPromptScores::kYes);
  dispatcher.Take(PromptScores{IdOf(0), {-2}});
  dispatcher.Take(PromptScores{IdOf(0), {-3, -4, -5}});
  EXPECT_EQ(sink->scores, (std::vector<float>{-2, -3, -4, -5}));
}

}  // namespace
}  // namespace tokenferry
