#include "runtime/engine/token_masks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace tokenferry {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ByteAutomaton::Edge Take(char first, char last, int32_t target) {
  return {static_cast<uint8_t>(first), static_cast<uint8_t>(last), target, -1};
}

// Nested brackets around digits: v = digit+ | [ v ]. Rule 0 is `v`.
ByteAutomaton Brackets() {
  ByteAutomaton a;
  // 0: begin; 1: digits; 2: behind [; 3: behind the inner value; 4: end
  a.edges = {Take('0', '9', 1), Take('[', '[', 2), Take('0', '9', 1),
             {'0', '9', 0, 3},  {'[', '[', 0, 3},  Take(']', ']', 4)};
  a.edge_offsets = {0, 2, 3, 5, 6, 6};
  a.is_end = {0, 1, 0, 0, 1};
  return a;
}

bool Accepts(const ByteAutomaton& automaton, absl::string_view text) {
  AutomatonPosition position;
  for (const char c : text) {
    if (!Advance(automaton, static_cast<uint8_t>(c), position)) return false;
  }
  return MayEnd(automaton, position);
}

TEST(ByteAutomaton, NestsAsDeepAsItsStack) {
  const ByteAutomaton brackets = Brackets();
  EXPECT_TRUE(Accepts(brackets, "12"));
  EXPECT_TRUE(Accepts(brackets, "[[12]]"));
  for (const char* bad : {"", "[", "[]", "[1", "1]", "[1]]", "[[1]", "a", "[1]1"})
    EXPECT_FALSE(Accepts(brackets, bad)) << bad;
  const auto nested = [](size_t depth) { return std::string(depth, '[') + "1" + std::string(depth, ']'); };
  EXPECT_TRUE(Accepts(brackets, nested(kMaxAutomatonDepth)));
  EXPECT_FALSE(Accepts(brackets, nested(kMaxAutomatonDepth + 1)));
}

TEST(ByteAutomaton, EncodesAndRefusesWhatIsNone) {
  const ByteAutomaton brackets = Brackets();
  const std::string bytes = Encode(brackets);
  const auto again = DecodeAutomaton(bytes);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(Encode(*again), bytes);
  for (size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(DecodeAutomaton(bytes.substr(0, size)).ok()) << size;
  const auto refused = [&](auto change) {
    ByteAutomaton bad = brackets;
    change(bad);
    return !DecodeAutomaton(Encode(bad)).ok();
  };
  EXPECT_TRUE(refused([](ByteAutomaton& a) { a.edges[0].target = 5; }));
  EXPECT_TRUE(refused([](ByteAutomaton& a) { a.edges[0].target = -1; }));
  EXPECT_TRUE(refused([](ByteAutomaton& a) { a.edges[3].then = 5; }));
  EXPECT_TRUE(refused([](ByteAutomaton& a) { a.edges[0].last = '['; }));  // a byte twice
  EXPECT_TRUE(refused([](ByteAutomaton& a) { a.edges[0].first = ':'; }));
  EXPECT_TRUE(refused([](ByteAutomaton& a) { a.edge_offsets[1] = 4; }));
  EXPECT_TRUE(refused([](ByteAutomaton& a) { a.edge_offsets[5] = 7; }));
  EXPECT_TRUE(refused([](ByteAutomaton& a) { a.is_end.push_back(1); }));
  EXPECT_TRUE(refused([](ByteAutomaton& a) { a = {}; }));
}

// A part that ends at once and is begun again.
TEST(ByteAutomaton, EndlessMovesEnd) {
  ByteAutomaton a;
  a.edges = {{'a', 'a', 1, 0}};
  a.edge_offsets = {0, 1, 1};
  a.is_end = {0, 1};
  AutomatonPosition position;
  EXPECT_FALSE(Advance(a, 'a', position));
}

std::vector<int32_t> TokensIn(absl::Span<const uint64_t> mask, int64_t size) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < size; ++i) {
    if ((mask[i / 64] >> (i % 64) & 1) != 0) tokens.push_back(i);
  }
  return tokens;
}

TEST(TokenMasks, SpecialTokensAreAllowedWhereTheyAreSpoken) {
  const Vocabulary vocabulary({"1", "12", "", "1]", "x", "[", "[[1", "2"}, {0, 7});
  ByteAutomaton automaton = Brackets();
  automaton.spoken_tokens = {7};
  TokenMasks masks(automaton, vocabulary);
  AutomatonPosition position;
  EXPECT_THAT(TokensIn(masks.At(position), vocabulary.size()), ElementsAre(1, 5, 6, 7));
  EXPECT_TRUE(masks.Advance(5, position));
  EXPECT_THAT(TokensIn(masks.At(position), vocabulary.size()), ElementsAre(1, 3, 5, 6, 7));
  EXPECT_TRUE(masks.Advance(3, position));
  EXPECT_TRUE(TokensIn(masks.At(position), vocabulary.size()).empty());
  EXPECT_TRUE(MayEnd(masks.automaton(), position));
  for (const int32_t token : {1, 2, -1, 8}) {
    AutomatonPosition copy = position;
    EXPECT_FALSE(masks.Advance(token, copy)) << token;
  }
}

// Against a token at a time, for random tokens that begin alike, along random texts.
TEST(TokenMasks, EqualAWalkForEachToken) {
  const auto seed = std::random_device()();
  std::mt19937 random(seed);
  std::vector<std::string> bytes(1000);
  for (std::string& token : bytes) {
    const size_t size = random() % 6;
    while (token.size() < size) token += "12[]x"[random() % 5];
  }
  const Vocabulary vocabulary(bytes, {});
  TokenMasks masks(Brackets(), vocabulary);
  for (int text = 0; text < 20; ++text) {
    AutomatonPosition position;
    for (int step = 0; step < 10; ++step) {
      std::vector<int32_t> expected;
      for (int32_t token = 0; token < vocabulary.size(); ++token) {
        AutomatonPosition copy = position;
        bool good = !bytes[token].empty();
        for (const char c : bytes[token]) good = good && Advance(masks.automaton(), static_cast<uint8_t>(c), copy);
        if (good) expected.push_back(token);
      }
      ASSERT_EQ(TokensIn(masks.At(position), vocabulary.size()), expected) << "seed " << seed;
      if (expected.empty()) break;
      ASSERT_TRUE(masks.Advance(expected[random() % expected.size()], position));
    }
  }
}

// Tokens of `vocabulary` that may come at `position`, byte by byte.
std::vector<int32_t> Allowed(const ByteAutomaton& automaton, const Vocabulary& vocabulary,
                             const AutomatonPosition& position) {
  std::vector<int32_t> allowed;
  for (int32_t token = 0; token < vocabulary.size(); ++token) {
    AutomatonPosition copy = position;
    bool good = !vocabulary.bytes(token).empty();
    for (const char c : vocabulary.bytes(token)) good = good && Advance(automaton, static_cast<uint8_t>(c), copy);
    if (good) allowed.push_back(token);
  }
  return allowed;
}

// More states than are kept, from the first to the last and again. Any of two bytes follows, so that a long token tells
// nearly all states apart.
TEST(TokenMasks, AreMadeAgainWhenTheyWereForgotten) {
  constexpr int32_t kNumStates = 10'000;
  std::mt19937 random(1);
  ByteAutomaton chain;
  for (int32_t s = 0; s < kNumStates; ++s) {
    chain.edge_offsets.push_back(s);
    const char byte = random() % 2 == 0 ? 'a' : 'b';
    if (s + 1 < kNumStates) chain.edges.push_back(Take(byte, byte, s + 1));
    chain.is_end.push_back(s + 1 == kNumStates ? 1 : 0);
  }
  chain.edge_offsets.push_back(kNumStates - 1);
  const Vocabulary vocabulary({"a", "b", "ab", "ba", "aba", std::string(40, 'a')}, {});
  TokenMasks masks(chain, vocabulary);
  size_t most = 0;
  for (int round = 0; round < 2; ++round) {
    for (int32_t s = 0; s < kNumStates; ++s) {
      ASSERT_EQ(TokensIn(masks.At({s, {}}), vocabulary.size()), Allowed(chain, vocabulary, {s, {}})) << s;
      most = std::max(most, masks.num_masks());
    }
  }
  EXPECT_EQ(most, 512u);
}

// A text of up to 3,000 letters or signs of two bytes between quotes, in which each letter may also be brackets around
// another text of this kind. Rule 0 is a list of both.
TEST(TokenMasks, OfCountedTextsAreShared) {
  constexpr int32_t kLength = 3000, kFirst = 3;
  ByteAutomaton text;
  // 0: begin; 1: end; 2: the second byte of a sign; then a state for each number of letters that have come.
  const auto add = [&](std::vector<ByteAutomaton::Edge> edges, uint8_t is_end) {
    text.edge_offsets.push_back(static_cast<int32_t>(text.edges.size()));
    text.edges.insert(text.edges.end(), edges.begin(), edges.end());
    text.is_end.push_back(is_end);
  };
  add({Take('"', '"', kFirst)}, 0);
  add({}, 1);
  add({Take('\\', '\\', 1)}, 0);
  for (int32_t i = 0; i <= kLength; ++i) {
    std::vector<ByteAutomaton::Edge> edges;
    if (i >= 5) edges.push_back(Take('"', '"', 1));
    if (i < kLength) edges.push_back({'\\', '\\', 2, kFirst + i + 1}), edges.push_back(Take('a', 'z', kFirst + i + 1));
    if (i < kLength) edges.push_back({'{', '{', kFirst + kLength + 1, kFirst + i + 1});
    add(edges, 0);
  }
  add({Take('{', '{', kFirst + kLength + 2)}, 0);
  add({{'"', '"', 0, kFirst + kLength + 3}}, 0);
  add({Take('}', '}', 1)}, 0);
  text.edge_offsets.push_back(static_cast<int32_t>(text.edges.size()));
  ASSERT_TRUE(DecodeAutomaton(Encode(text)).ok());
  const Vocabulary vocabulary(
      {"a", "bc", "\"", "x\"", "\\\\", "\\", "\\\\def", "{\"", "\"}", "ghijk\"}q", "{\"abcdef\"}z\"", "{"}, {});
  TokenMasks masks(text, vocabulary);
  std::vector<AutomatonPosition> positions;
  for (int32_t i = 0; i <= kLength; ++i) positions.push_back({kFirst + i, {}});
  for (int32_t i = 0; i <= kLength; i += 7) positions.push_back({2, {kFirst + i}});
  for (int32_t i = 0; i <= kLength; i += 11)
    positions.push_back({kFirst + kLength - i, {kFirst + i, kFirst + kLength + 3}});
  for (const AutomatonPosition& position : positions) {
    ASSERT_EQ(TokensIn(masks.At(position), vocabulary.size()), Allowed(text, vocabulary, position)) << position.state;
  }
  EXPECT_LT(masks.num_masks(), 300u);
}

TEST(Grammars, AreSharedWhileTheyAreOpen) {
  Grammars grammars;
  const std::string grammar = Encode(Brackets());
  EXPECT_THAT(grammars.Open(grammar).status().message(), HasSubstr("no vocabulary"));
  grammars.SetVocabulary(std::make_unique<Vocabulary>(std::vector<std::string>{"1"}, std::vector<int32_t>{}));
  const auto first = grammars.Open(grammar), second = grammars.Open(grammar);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(*first, *second);
  EXPECT_FALSE(grammars.Open("x").ok());
}

// What a sequence does with it: the tokens that end it are allowed where the text may end, and only there.
TEST(GrammarRun, EndsWhereTheTextMayEnd) {
  Grammars grammars;
  grammars.SetVocabulary(
      std::make_unique<Vocabulary>(std::vector<std::string>{"1", "[", "]", "</s>"}, std::vector<int32_t>{3}));
  GrammarRun run(grammars.Open(Encode(Brackets())));
  const std::vector<int32_t> stop = {3};
  const auto allowed = [&] {
    const auto mask = run.Allowed(stop);
    EXPECT_TRUE(mask.ok()) << mask.status();
    return TokensIn(*mask, 4);
  };
  EXPECT_THAT(allowed(), ElementsAre(0, 1));
  run.Take(1);
  EXPECT_THAT(allowed(), ElementsAre(0, 1));
  run.Take(0);
  EXPECT_THAT(allowed(), ElementsAre(0, 2));
  run.Take(2);
  EXPECT_THAT(allowed(), ElementsAre(3));
  run.Take(0);  // which may not come
  EXPECT_THAT(allowed(), ElementsAre());
  EXPECT_FALSE(GrammarRun(absl::InvalidArgumentError("broken")).Allowed(stop).ok());
}

}  // namespace
}  // namespace tokenferry
