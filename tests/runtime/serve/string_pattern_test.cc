// Which strings patterns allow: as Python's re has it, and what is refused.
#include "runtime/serve/grammar/string_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/engine/byte_automaton.h"

namespace tokenferry {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<ByteAutomaton> Compile(absl::string_view pattern, const StringLength& length = {}) {
  AutomatonBuilder builder;
  TF_ASSIGN_OR_RETURN(const auto end, AppendMatchingString(builder.RuleBegin(0), pattern, length, builder));
  builder.EndRule(0, end);
  return builder.Build();
}

// `text` as an answer spells it.
bool AcceptsText(const ByteAutomaton& automaton, const std::string& text) {
  AutomatonPosition position;
  for (const char c : nlohmann::json(text).dump()) {
    if (!Advance(automaton, static_cast<uint8_t>(c), position)) return false;
  }
  return MayEnd(automaton, position);
}

// Patterns of what both languages have in common, and short texts of the characters that they are about.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  size_t Below(size_t n) { return engine_() % n; }
  std::string Text() {
    std::string text;
    for (size_t left = Below(7); left > 0; --left) absl::StrAppend(&text, OneOf(kCharacters));
    return text;
  }
  std::string Pattern() {
    std::string pattern;
    for (size_t i = 0, n = 1 + Below(2); i < n; ++i) {
      absl::StrAppend(&pattern, i > 0 ? "|" : "", Below(2) == 0 ? "^" : "", Sequence(2), Below(2) == 0 ? "$" : "");
    }
    return pattern;
  }

 private:
  using Words = std::vector<std::string>;
  const std::string& OneOf(const Words& words) { return words[Below(words.size())]; }

  std::string Sequence(int depth) {
    std::string sequence;
    for (size_t left = 1 + Below(3); left > 0; --left) {
      absl::StrAppend(&sequence, Atom(depth), Below(2) == 0 ? "" : OneOf(kCounts));
    }
    return sequence;
  }
  std::string Atom(int depth) {
    switch (Below(depth > 0 ? 5 : 4)) {
      case 0:
      case 1:
        return OneOf(kAtoms);
      case 2:
        return absl::StrCat(Below(2) == 0 ? "[" : "[^", OneOf(kItems), OneOf(kItems), "]");
      case 3:
        return OneOf(kEscapes);
      default:
        return absl::StrCat(Below(2) == 0 ? "(" : "(?:", Sequence(depth - 1), Below(2) == 0 ? "" : "|",
                            Below(2) == 0 ? Sequence(depth - 1) : "", ")");
    }
  }

  const Words kCharacters = {"a",  "b",  "c",  "0",  "7",    "_",      " ",         "-",
                             "\"", "\\", "\n", "\t", "\x01", "\u00e9", "\U0001F600"};
  const Words kAtoms = {"a", "b", "c", "7", " ", "\"", "\u00e9", "\U0001F600", ".", "-"};
  const Words kEscapes = {"\\d", "\\D", "\\w", "\\W", "\\s", "\\S", "\\\\", "\\n", "\\x01", "\\u00e9", "\\."};
  const Words kItems = {"a-c", "0", "\\d", "\\s", "\\W", "\u00e9-\U0001F600", "\\\\", "\\\"", "\\n", "b", "_"};
  const Words kCounts = {"?", "*", "+", "{2}", "{1,}", "{0,2}", "*?", "{0}"};
  std::mt19937_64 engine_;
};

// Python's $ matches before a last line break as well, and its \d, \w and \s know more than ASCII.
constexpr char kPython[] = R"py(
import json, re, sys
for line in open(sys.argv[1], encoding="utf-8"):
    pattern, texts = json.loads(line)
    compiled = re.compile(pattern.replace("$", r"\Z"), re.ASCII)
    print("".join("01"[compiled.search(text) is not None] for text in texts))
)py";

TEST(StringPattern, AllowsWhatPythonFinds) {
  constexpr uint64_t seed = 20'000;
  Random random(seed);
  const std::string base = absl::StrCat(::testing::TempDir(), "/patterns_", seed);
  std::vector<std::pair<std::string, std::vector<std::string>>> cases;
  for (int i = 0; i < 500; ++i) {
    std::vector<std::string> texts = {""};
    while (texts.size() < 40) texts.push_back(random.Text());
    cases.emplace_back(random.Pattern(), std::move(texts));
  }
  std::ofstream(base + ".py") << kPython;
  std::ofstream questions(base + ".json");
  for (const auto& [pattern, texts] : cases) questions << nlohmann::json::array({pattern, texts}).dump() << "\n";
  questions.close();
  ASSERT_EQ(std::system(absl::StrCat("python3 ", base, ".py ", base, ".json >", base, ".txt").c_str()), 0);
  std::ifstream answers(base + ".txt");
  int num_found = 0, num_refused = 0;
  for (const auto& [pattern, texts] : cases) {
    std::string expected, found;
    ASSERT_TRUE(std::getline(answers, expected));
    const auto automaton = Compile(pattern);
    if (!automaton.ok()) {  // some are of those whose automaton is exponentially larger
      ASSERT_THAT(std::string(automaton.status().message()), HasSubstr("more than 20000"))
          << pattern << " seed " << seed;
      num_refused += 1;
      continue;
    }
    for (const std::string& text : texts) found += AcceptsText(*automaton, text) ? '1' : '0';
    ASSERT_EQ(found, expected) << pattern << " of " << nlohmann::json(texts).dump() << " seed " << seed;
    num_found += static_cast<int>(std::count(found.begin(), found.end(), '1'));
  }
  EXPECT_GT(num_found, 2000);
  EXPECT_LT(num_refused, 10);
  for (const char* end : {".py", ".json", ".txt"}) std::remove((base + end).c_str());
}

TEST(StringPattern, LengthsAreInCharacters) {
  const auto automaton = Compile("b$", {2, 3});
  ASSERT_TRUE(automaton.ok()) << automaton.status();
  for (const char* text : {"ab", "\u00e9\U0001F600b", "\"\\b"}) EXPECT_TRUE(AcceptsText(*automaton, text)) << text;
  for (const char* text : {"", "b", "aaab", "aa"}) EXPECT_FALSE(AcceptsText(*automaton, text)) << text;
  const auto at_least = Compile("^(ab)*$", {3, std::nullopt});
  ASSERT_TRUE(at_least.ok()) << at_least.status();
  for (const char* text : {"abab", "ababab"}) EXPECT_TRUE(AcceptsText(*at_least, text)) << text;
  for (const char* text : {"", "ab", "aba"}) EXPECT_FALSE(AcceptsText(*at_least, text)) << text;
}

// What ECMA-262 has and Python does not.
TEST(StringPattern, IsOfEcma262) {
  struct Case {
    const char* pattern;
    std::vector<std::string> good, bad;
  };
  const Case cases[] = {
      {R"(^\cJ\0\v$)", {std::string("\n\0\v", 3)}, {"J0v"}},
      {R"(^\uD83D\uDE00\u{1F601}$)", {"\U0001F600\U0001F601"}, {""}},
      {R"(^(?<year>\d+)[^]?$)", {"12", "12\n"}, {"", "1\u0662\n"}},
      {R"(^.$)", {"a", "\u2027"}, {"\u2028", "\n", "\r"}},
      {R"(^\s$)", {"\u00a0", "\ufeff", "\u3000", "\v"}, {"\u200b", "a"}},
      {R"(^[\b\-a-]]$)", {"a]", "-]", "\b]"}, {"a", "b]"}},
      {R"(^((a|b)|^c$)$)", {"a", "b", "c"}, {"ac", "d"}},
      {R"(^$|a)", {"", "bab"}, {"b"}},
  };
  for (const Case& c : cases) {
    const auto automaton = Compile(c.pattern);
    ASSERT_TRUE(automaton.ok()) << c.pattern << ": " << automaton.status();
    for (const std::string& text : c.good) EXPECT_TRUE(AcceptsText(*automaton, text)) << c.pattern << " " << text;
    for (const std::string& text : c.bad) EXPECT_FALSE(AcceptsText(*automaton, text)) << c.pattern << " " << text;
  }
}

TEST(StringPattern, NamesWhatItRefuses) {
  const std::pair<std::string, const char*> cases[] = {
      {"(?=a)", "lookaround, '(?=', is not supported"},
      {"(?!a)", "lookaround, '(?!'"},
      {"(?<=a)", "lookaround, '(?<='"},
      {"(?<!a)", "lookaround, '(?<!'"},
      {R"((a)\1)", "backreferences are not supported"},
      {R"((?<n>a)\k<n>)", "backreferences are not supported"},
      {R"(\bword)", R"(\b and \B are not supported)"},
      {R"(\p{L})", "this escape is not supported, at '\\\\p{L}'"},
      {R"(\a)", "this escape is not supported"},
      {"(?i:a)", "groups with flags"},
      {"(a", "a group is not closed"},
      {"a)", "')' closes no group"},
      {"(?<a", "name has no end"},
      {"[a", "a class is not closed"},
      {"[a-", "a class is not closed"},
      {"[]", "an empty class"},
      {"[b-a]", "wrong order"},
      {R"([\d-z])", "a range ends with a character"},
      {"*a", "nothing to repeat"},
      {"a**", "nothing to repeat"},
      {"a{2,1}", "the larger count comes first"},
      {"a{x}", "a count is {m}"},
      {"a{1", "a count is {m}"},
      {"a{99999}", "repeats more than 10000 times"},
      {"a{99999999999}", "repeats more than 10000 times"},
      {"a\\", "a backslash ends the pattern"},
      {R"(\x1)", "the code of a character"},
      {R"(\u{110000})", "the code of a character"},
      {R"(\u{})", "the code of a character"},
      {R"(\uD800)", "half of a surrogate pair"},
      {R"(\c1)", "\\c needs a letter"},
      {"a^b", "'^' and '$' are supported at the beginning and at the end"},
      {"(a$)b", "'^' and '$' are supported at the beginning and at the end"},
      {std::string(100, '(') + std::string(100, ')'), "nested more than 64 deep"},
      {"((a{1000}){1000}){1000}", "takes more than 20000 states"},
      {"((a{0}){10000}){10000}", "takes more than 20000 states"},
      {"^(a|b)*a(a|b){40}$", "more than 20000 states"},
      {"^.{9000}$", "takes more than 20000 states"},
  };
  for (const auto& [pattern, message] : cases) {
    EXPECT_THAT(std::string(Compile(pattern).status().message()), HasSubstr(message)) << pattern;
  }
}

}  // namespace
}  // namespace tokenferry
