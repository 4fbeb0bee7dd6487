#include "runtime/serve/tools/output_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/text/chat/chat_template.h"

namespace tokenferry {
namespace {

using ::testing::HasSubstr;

// "say|think~f({..})": pieces in one line.
std::string Shown(const std::vector<OutputPiece>& pieces) {
  std::string shown;
  for (const OutputPiece& piece : pieces) {
    if (piece.kind == PieceKind::kText) absl::StrAppend(&shown, "[", piece.text, "]");
    if (piece.kind == PieceKind::kReasoning) absl::StrAppend(&shown, "~", piece.text, "~");
    if (piece.kind == PieceKind::kCall) absl::StrAppend(&shown, "#", piece.call_idx, " ", piece.text, " ");
    if (piece.kind == PieceKind::kArguments) absl::StrAppend(&shown, piece.text);
  }
  return shown;
}

std::string Parse(const OutputRules& rules, const std::vector<std::string>& parts) {
  OutputParser parser(rules);
  std::vector<OutputPiece> pieces;
  for (const std::string& part : parts) {
    std::vector<OutputPiece> fresh;  // as in a stream: what has been sent cannot be taken back
    parser.Push(part, fresh);
    for (const OutputPiece& piece : fresh) AppendPiece(piece.kind, piece.call_idx, piece.text, pieces);
  }
  parser.Finish(pieces);
  return Shown(pieces);
}

// The outcome, the same for every cut into two, for single bytes, and for 20 random cuts.
std::string ParseEveryWay(const OutputRules& rules, const std::string& text) {
  const std::string whole = Parse(rules, {text});
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    EXPECT_EQ(Parse(rules, {text.substr(0, cut), text.substr(cut)}), whole) << "cut at " << cut << " of " << text;
  }
  std::vector<std::string> bytes;
  for (const char c : text) bytes.emplace_back(1, c);
  EXPECT_EQ(Parse(rules, bytes), whole) << text;
  const auto seed = std::random_device()();
  std::mt19937 random(seed);
  for (int i = 0; i < 20; ++i) {
    std::vector<std::string> parts;
    for (size_t at = 0; at < text.size();) {
      parts.push_back(text.substr(at, random() % 9));
      at += parts.back().size();
    }
    EXPECT_EQ(Parse(rules, parts), whole) << text << " seed " << seed;
  }
  return whole;
}

struct ParserCase {
  std::string text, pieces;
};

const OutputRules kHermes = {&HermesFormat()}, kV3 = {&DeepSeekV3Format()}, kV31 = {&DeepSeekV31Format()};
const std::string kBegins = "<｜tool▁calls▁begin｜>", kEnds = "<｜tool▁calls▁end｜>", kBegin = "<｜tool▁call▁begin｜>",
                  kEnd = "<｜tool▁call▁end｜>", kSep = "<｜tool▁sep｜>";

TEST(OutputParser, HermesCalls) {
  const ParserCase cases[] = {
      {"", ""},
      {"plain text \n", "[plain text \n]"},
      {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>", "#0 f {\"a\": [1, \"}\"]}"},
      {"See.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"g.h-1\", "
       "\"arguments\": {\"x\":\"</tool_call>\"}}\n</tool_call>\n",
       "[See.]#0 f {}#1 g.h-1 {\"x\":\"</tool_call>\"}"},
      {"<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> and then", "#0 f {}[and then]"},
      // The members in another order, or the arguments as a text.
      {"<tool_call>\n{\"arguments\": {\"b\": 1, \"a\": 2}, \"name\": \"f\"}\n</tool_call>", "#0 f {\"b\":1,\"a\":2}"},
      {"<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>x", "#0 f {\"a\": 1}[x]"},
      {"<tool_call>{\"name\": \"f\"}</tool_call>", "#0 f {}"},
      {"<tool_call>{\"name\": \"f\", \"parameters\": {\"a\": 1}}", "#0 f {\"a\":1}"},
      // What the model leaves unfinished.
      {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"b", "#0 f {\"a\": \"b"},
      {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1", "#0 f {\"a\": 1"},
      {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}</tool_call>", "#0 f {\"a\": 1}"},
      {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1</tool_call> x", "#0 f {\"a\": 1[x]"},
      {"<tool_call>\n{\"name\": \"f\", \"arguments\": {}} oops", "#0 f {}[oops]"},
      {"<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool", "#0 f {}"},
      // No calls: no byte is lost.
      {"a <tool_call> b", "[a <tool_call> b]"},
      {"a \n<tool_call>\n", "[a \n<tool_call>\n]"},
      {"<tool_call>\n{\"name\": \"f\", \"argum", "[<tool_call>\n{\"name\": \"f\", \"argum]"},
      {"<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>",
       "[<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>]"},
      {"<tool_call>[1]</tool_call>", "[<tool_call>[1]</tool_call>]"},
      {"<tool_call>{not json}</tool_call>\n", "[<tool_call>{not json}</tool_call>\n]"},
      {"x<tool_call><tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>", "[x<tool_call>]#0 f {}"},
      {"<<tool_call", "[<<tool_call]"},
      {"<think>a</think>", "[<think>a</think>]"},
  };
  for (const ParserCase& c : cases) EXPECT_EQ(ParseEveryWay(kHermes, c.text), c.pieces) << c.text;
}

TEST(OutputParser, DeepSeekCalls) {
  const std::string v3 = "function" + kSep + "f\n```json\n{\"a\": 1}\n```";
  const ParserCase cases[] = {
      {kBegins + kBegin + v3 + kEnd + kEnds, "#0 f {\"a\": 1}"},
      {"See. " + kBegins + kBegin + v3 + kEnd + "\n" + kBegin + v3 + kEnd + "\n" + kEnds + "\n",
       "[See.]#0 f {\"a\": 1}#1 f {\"a\": 1}"},
      {kBegin + v3 + kEnd + " x", "#0 f {\"a\": 1}[x]"},
      {kBegins + kBegin + "function" + kSep + "f\n```json\n{\"a\": \"`<\"}```" + kEnd + kEnds, "#0 f {\"a\": \"`<\"}"},
      {kBegins + kBegin + "function" + kSep + "f\n```json\n{\"a\": 1\n```" + kEnd + kEnds + "y", "#0 f {\"a\": 1\n[y]"},
      {kBegins + "x", "[" + kBegins + "x]"},
      {kBegins + kEnds, "[" + kBegins + kEnds + "]"},
      {"a " + kBegins + " " + kBegin + "other" + kSep, "[a " + kBegins + " " + kBegin + "other" + kSep + "]"},
      {kBegins + kBegin + "function" + kSep + "f\n{}", "[" + kBegins + kBegin + "function" + kSep + "f\n{}]"},
      {"<｜tool▂", "[<｜tool▂]"},
  };
  for (const ParserCase& c : cases) EXPECT_EQ(ParseEveryWay(kV3, c.text), c.pieces) << c.text;
  const ParserCase newer[] = {
      {kBegins + kBegin + "f" + kSep + "{\"a\": 1}" + kEnd + kBegin + "g" + kSep + "{}" + kEnd + kEnds,
       "#0 f {\"a\": 1}#1 g {}"},
      {kBegin + "f" + kSep + "nothing", "[" + kBegin + "f" + kSep + "nothing]"},
  };
  for (const ParserCase& c : newer) EXPECT_EQ(ParseEveryWay(kV31, c.text), c.pieces) << c.text;
}

TEST(OutputParser, Reasoning) {
  const ParserCase may_begin[] = {
      {"<think>\na b\n</think>\n\nc\n", "~a b~[c\n]"},
      {"\n<think>a</think>", "~a~"},
      {"<think>\n\n</think>\n\nc", "[c]"},
      {"<think>a </thin", "~a </thin~"},
      {"\n a<think>b</think>", "[\n a<think>b</think>]"},
      {" <thin", "[ <thin]"},
      {"  ", "[  ]"},
  };
  for (const ParserCase& c : may_begin) {
    EXPECT_EQ(ParseEveryWay({nullptr, Thinking::kMayBegin}, c.text), c.pieces) << c.text;
  }
  EXPECT_EQ(ParseEveryWay({nullptr, Thinking::kHasBegun}, "\na </think>b</think>"), "~a~[b</think>]");
  EXPECT_EQ(ParseEveryWay({nullptr, Thinking::kHasBegun}, "a \n b  "), "~a \n b  ~");
  EXPECT_EQ(ParseEveryWay({nullptr, Thinking::kNever}, "<think>a</think>b"), "[<think>a</think>b]");
  const std::string call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
  EXPECT_EQ(ParseEveryWay({&HermesFormat(), Thinking::kMayBegin}, "<think>" + call + "</think>\n\n" + call),
            "~" + call + "~#0 f {}");
}

TEST(OutputParser, OneCallEndsTheAnswer) {
  const std::string call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
  const OutputRules rules = {&HermesFormat(), Thinking::kNever, CallCount::kOne};
  EXPECT_EQ(ParseEveryWay(rules, "a" + call + "\n" + call + "b"), "[a]#0 f {}");
  OutputParser parser(rules);
  std::vector<OutputPiece> pieces;
  parser.Push(call.substr(0, call.size() - 1), pieces);
  EXPECT_FALSE(parser.ended());
  parser.Push(">", pieces);
  EXPECT_TRUE(parser.ended());
}

// What is held back is bounded, and what is longer than the bounds is text, however it was cut.
TEST(OutputParser, Bounds) {
  const std::string name(128, 'n'), rest = "\", \"arguments\": {}}</tool_call>";
  EXPECT_EQ(Parse(kHermes, {"<tool_call>{\"name\": \"" + name + rest}), "#0 " + name + " {}");
  const std::string long_name = "<tool_call>{\"name\": \"" + name + "n" + rest;
  EXPECT_EQ(ParseEveryWay(kHermes, long_name), "[" + long_name + "]");
  const std::string spaces(600, ' ');
  EXPECT_EQ(ParseEveryWay(kV31, kBegin + spaces + "f" + kSep + "{}"), "[" + kBegin + spaces + "f" + kSep + "{}]");
  EXPECT_EQ(ParseEveryWay(kHermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}" + spaces + "}</tool_call>"),
            "#0 f {}[}</tool_call>]");
  const std::string endless = "<tool_call>" + std::string(100'000, 'x');
  OutputParser parser(kHermes);
  std::vector<OutputPiece> pieces;
  for (const char c : endless) parser.Push(absl::string_view(&c, 1), pieces);
  EXPECT_EQ(Shown(pieces), "[" + endless + "]");
  EXPECT_EQ(Parse(kHermes, {endless}), "[" + endless + "]");
}

TEST(OutputParser, RandomWordsInAnyCut) {
  const std::vector<std::string> words = {"<tool_call>",
                                          "</tool_call>",
                                          "{",
                                          "}",
                                          "\"name\": \"f\"",
                                          ", ",
                                          "\"arguments\": {",
                                          "\"a\": \"b\\\"\"",
                                          "\n",
                                          " ",
                                          "<think>",
                                          "</think>",
                                          "<",
                                          "x",
                                          kBegins,
                                          kBegin,
                                          kSep,
                                          kEnd,
                                          kEnds,
                                          "function",
                                          "```json\n",
                                          "```"};
  const auto seed = std::random_device()();
  std::mt19937 random(seed);
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (int w = 0; w < 12; ++w) text += words[random() % words.size()];
    const ToolFormat* const formats[] = {&HermesFormat(), &DeepSeekV3Format(), &DeepSeekV31Format(), nullptr};
    const OutputRules rules = {formats[random() % 4], static_cast<Thinking>(random() % 3)};
    ParseEveryWay(rules, text);
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
}

TEST(ToolFormat, IsDetectedFromTheTemplate) {
  const auto format_of = [](const std::string& text) {
    const auto chat_template = ChatTemplate::Parse(text, "t", {});
    EXPECT_TRUE(chat_template.ok()) << chat_template.status();
    return ToolFormatOf(*chat_template);
  };
  EXPECT_EQ(format_of("{{ messages }}"), nullptr);
  EXPECT_EQ(format_of("{{ '<tool_call>\\n{\"name\": ' }}"), &HermesFormat());
  EXPECT_EQ(format_of("{{ '<tool_call>\\n<function=f>' }}"), nullptr);
  EXPECT_EQ(format_of("{{ '<tool_call>f<arg_key>' }}"), nullptr);
  EXPECT_EQ(format_of("{{ '" + kBegins + kBegin + "' }}{{ '```json' }}"), &DeepSeekV3Format());
  EXPECT_EQ(format_of("{{ '" + kBegins + kBegin + "' }}"), &DeepSeekV31Format());
}

// A model that writes nothing but white space. Read again with every token, it would take hours.
TEST(OutputParser, ALongRunOfWhiteSpaceIsReadOnce) {
  constexpr int kNumSpaces = 2'000'000;
  const std::pair<OutputRules, std::string> cases[] = {
      {kHermes, "[a" + std::string(kNumSpaces, ' ') + "b]"},
      {{nullptr, Thinking::kHasBegun}, "~a" + std::string(kNumSpaces, ' ') + "b~"},
  };
  for (const auto& [rules, expected] : cases) {
    OutputParser parser(rules);
    std::vector<OutputPiece> pieces;
    parser.Push("a", pieces);
    for (int i = 0; i < kNumSpaces; ++i) parser.Push(" ", pieces);
    parser.Push("b", pieces);
    parser.Finish(pieces);
    EXPECT_TRUE(Shown(pieces) == expected) << Shown(pieces).size();
  }
  OutputParser parser({nullptr, Thinking::kMayBegin});
  std::vector<OutputPiece> pieces;
  for (int i = 0; i < kNumSpaces; ++i) parser.Push(" ", pieces);
  parser.Push("<think>a</think>b", pieces);
  parser.Finish(pieces);
  EXPECT_EQ(Shown(pieces), "~a~[b]");
}

}  // namespace
}  // namespace tokenferry
