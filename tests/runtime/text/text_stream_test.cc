#include "runtime/text/text_stream.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace tokenferry {
namespace {

const Tokenizer& Ferry() {
  static const Tokenizer* tokenizer = [] {
    auto loaded = Tokenizer::Load(std::string(std::getenv("TF_SOURCE_DIR")) + "/models/ferry-tiny-v3");
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return new Tokenizer(*loaded);
  }();
  return *tokenizer;
}

struct Shown {
  std::string text;
  FinishReason reason;
  size_t num_pushed = 0;
};

Shown Feed(const std::string& text, StopRules rules, std::vector<int32_t> then = {}) {
  TextStream stream(Ferry(), std::move(rules));
  std::vector<int32_t> ids = Ferry().Encode(text);
  ids.insert(ids.end(), then.begin(), then.end());
  Shown shown;
  for (int32_t id : ids) {
    shown.text += stream.Push(id);
    ++shown.num_pushed;
    if (stream.finished() != FinishReason::kNone) break;
  }
  if (stream.finished() == FinishReason::kNone) shown.text += stream.Finish();
  shown.reason = stream.finished();
  return shown;
}

TEST(TextStream, ShowsEverythingWithoutRules) {
  const std::string text = "naïve café 😀👨‍👩‍👧 end";
  const Shown shown = Feed(text, {});
  EXPECT_EQ(shown.text, text);
  EXPECT_EQ(shown.reason, FinishReason::kLength);
}

TEST(TextStream, StopTokenEndsAndIsNotShown) {
  const Shown shown = Feed("In the beginning", {{1}, {}}, {1, 20, 21});
  EXPECT_EQ(shown.text, "In the beginning");
  EXPECT_EQ(shown.reason, FinishReason::kStop);
}

TEST(TextStream, StopStringEndsEvenAcrossTokens) {
  const Shown shown = Feed("one two three four", {{}, {"o thr", "zzz"}});
  EXPECT_EQ(shown.text, "one tw");
  EXPECT_EQ(shown.reason, FinishReason::kStop);
  EXPECT_LT(shown.num_pushed, Ferry().Encode("one two three four").size());
}

TEST(TextStream, TheEarliestStopStringWins) { EXPECT_EQ(Feed("abcdef", {{}, {"ef", "cd"}}).text, "ab"); }

TEST(TextStream, AnUnfinishedStopStringIsShownAtTheEnd) {
  const Shown shown = Feed("almost sto", {{}, {"stop"}});
  EXPECT_EQ(shown.text, "almost sto");
  EXPECT_EQ(shown.reason, FinishReason::kLength);
  EXPECT_EQ(Feed("almost sto", {{1}, {"stop"}}, {1}).text, "almost sto");
}

// The id of an added token of ferry-tiny-v3, by its text.
int32_t Added(const std::string& text) {
  const std::vector<int32_t> ids = Ferry().Encode(text);
  EXPECT_EQ(ids.size(), 1) << text;
  EXPECT_TRUE(Ferry().IsSpecial(ids[0])) << text;
  return ids[0];
}

constexpr char kUser[] = "<｜User｜>", kEnd[] = "<｜end▁of▁sentence｜>";

TEST(TextStream, AStopStringThatIsASpecialTokenStopsAtTheToken) {
  const Shown shown = Feed("one two", {{}, {kUser}}, {Added(kUser), 20, 21});
  EXPECT_EQ(shown.text, "one two");
  EXPECT_EQ(shown.reason, FinishReason::kStop);
  EXPECT_EQ(shown.num_pushed, Ferry().Encode("one two").size() + 1);
  // With --ignore-eos the end of the sentence is a token as any other.
  EXPECT_EQ(Feed("one two", {{}, {kEnd}}, {Added(kEnd), 20}).reason, FinishReason::kStop);
  // Without such a stop string special tokens are passed over, and the text around them is whole.
  std::vector<int32_t> then = {Added(kUser)};
  for (const int32_t id : Ferry().Encode(" three")) then.push_back(id);
  const Shown whole = Feed("one two", {{}, {kEnd}}, then);
  EXPECT_EQ(whole.text, "one two three");
  EXPECT_EQ(whole.reason, FinishReason::kLength);
}

TEST(TextStream, AStopStringMayMixTextAndSpecialTokens) {
  std::vector<int32_t> then = {Added(kUser)};
  for (const int32_t id : Ferry().Encode(" three four")) then.push_back(id);
  const std::string user = kUser;
  for (const std::string& stop : {"wo" + user, "two" + user + " thr", user + " th"}) {
    const Shown shown = Feed("one two", {{}, {"no such text", stop}}, then);
    EXPECT_EQ(shown.text, std::string("one two").substr(0, 7 - stop.find(user))) << stop;
    EXPECT_EQ(shown.reason, FinishReason::kStop) << stop;
  }
  // A stop string of text alone is one in what is shown, whatever is hidden inside it.
  EXPECT_EQ(Feed("one two", {{}, {"wo thr"}}, then).text, "one t");
  // What only began as a stop string is shown after all.
  EXPECT_EQ(Feed("one two", {{}, {"wo" + user + "!"}}, then).text, "one two three four");
  EXPECT_EQ(Feed("one two", {{}, {"wo" + user + "!"}}, {Added(kUser)}).text, "one two");
  EXPECT_EQ(Feed("one two", {{}, {user + user}}, {Added(kUser), Added(kUser)}).reason, FinishReason::kStop);
}

TEST(TextStream, TheStopStringThatCutsIsTheOneReported) {
  const std::string user = kUser;
  for (const std::vector<std::string>& stops :
       {std::vector<std::string>{"wo thr", user + " thr"}, std::vector<std::string>{user + " thr", "wo thr"}}) {
    TextStream stream(Ferry(), {{}, stops});
    std::string text;
    for (const int32_t id : Ferry().Encode("one two" + user + " three four")) {
      if (stream.finished() == FinishReason::kNone) text += stream.Push(id);
    }
    EXPECT_EQ(text, "one t");
    EXPECT_EQ(stream.stop_string(), "wo thr");
  }
}

TEST(TextStream, NeverShowsHalfACharacter) {
  TextStream stream(Ferry(), {});
  std::string all;
  for (int32_t id : Ferry().Encode("中文😀é")) {
    const std::string piece = stream.Push(id);
    // A piece starts with a lead byte and is as long as its lead bytes announce.
    for (size_t i = 0; i < piece.size();) {
      const unsigned char lead = piece[i];
      ASSERT_NE(lead & 0xC0, 0x80);
      i += lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
      ASSERT_LE(i, piece.size());
    }
    all += piece;
  }
  EXPECT_EQ(all + stream.Finish(), "中文😀é");
}

}  // namespace
}  // namespace tokenferry
