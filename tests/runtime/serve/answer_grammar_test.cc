// What answers may be where tools, reasoning and schemas come together.
#include "runtime/serve/grammar/answer_grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/runtime/serve/compile_form.h"

namespace tokenferry {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

AnswerForm Calls(const ToolFormat& format, CallCount count) {
  AnswerForm form;
  form.format = &format;
  form.calls = count;
  form.tools = {
      {"f", Json::parse(R"({"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]})"), "[0]"},
      {"go", Json::parse(R"({"type":"object","additionalProperties":false})"), "[1]"}};
  return form;
}

// What the grammar lets through is what the parser takes for calls.
TEST(AnswerGrammar, CallsAreThoseOfTheParser) {
  const std::string begins = "<｜tool▁calls▁begin｜>", ends = "<｜tool▁calls▁end｜>", begin = "<｜tool▁call▁begin｜>",
                    end = "<｜tool▁call▁end｜>", sep = "<｜tool▁sep｜>";
  struct Form {
    const ToolFormat& format;
    std::string before, f, between, go, after;
  };
  const Form forms[] = {
      {HermesFormat(), "", "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>", "\n",
       "<tool_call>\n{\"name\": \"go\", \"arguments\": {}}\n</tool_call>", ""},
      {DeepSeekV3Format(), begins, begin + "function" + sep + "f\n```json\n{\"a\": 1}\n```" + end, "\n",
       begin + "function" + sep + "go\n```json\n{}\n```" + end, ends},
      {DeepSeekV31Format(), begins, begin + "f" + sep + "{\"a\": 1}" + end, "", begin + "go" + sep + "{}" + end, ends},
  };
  for (const Form& form : forms) {
    const auto any = Compile(Calls(form.format, CallCount::kAny)), one = Compile(Calls(form.format, CallCount::kOne));
    ASSERT_TRUE(any.ok() && one.ok()) << any.status() << one.status();
    const std::string single = form.before + form.f + form.after;
    const std::string both = form.before + form.f + form.between + form.go + form.after;
    EXPECT_TRUE(Accepts(*one, single)) << single;
    EXPECT_FALSE(Accepts(*one, both));
    EXPECT_TRUE(Accepts(*any, single));
    EXPECT_TRUE(Accepts(*any, both));
    for (const std::string& bad :
         {std::string(), "a" + single, single + "a", form.before + form.f.substr(1) + form.after}) {
      EXPECT_FALSE(Accepts(*any, bad)) << bad;
    }
    OutputParser parser({&form.format, Thinking::kNever, CallCount::kAny});
    std::vector<OutputPiece> pieces;
    parser.Push(both, pieces);
    parser.Finish(pieces);
    ASSERT_EQ(pieces.size(), 4u) << both;
    EXPECT_EQ(pieces[0].text, "f");
    EXPECT_EQ(pieces[1].text, "{\"a\": 1}");
    EXPECT_EQ(pieces[2].text, "go");
    EXPECT_EQ(pieces[3].text, "{}");
  }
}

TEST(AnswerGrammar, ReasoningComesFirst) {
  AnswerForm form;
  form.schema = Json{{"type", "null"}};
  form.thinking = Thinking::kMayBegin;
  const auto may = Compile(form);
  form.thinking = Thinking::kHasBegun;
  const auto has = Compile(form);
  ASSERT_TRUE(may.ok() && has.ok()) << may.status() << has.status();
  for (const std::string text : {"null", "<think>a</thi</think>\n\nnull", "<think></think>null"})
    EXPECT_TRUE(Accepts(*may, text)) << text;
  for (const std::string text : {"a", "<think>null", "<think>a</think>\n\n\nnull", "a</think>null"})
    EXPECT_FALSE(Accepts(*may, text)) << text;
  for (const std::string text : {"a</think>null", "<</</think>\nnull", "</think>null"})
    EXPECT_TRUE(Accepts(*has, text)) << text;
  EXPECT_FALSE(Accepts(*has, "null"));
}

// An answer that has to be JSON may still be a call where tools are there.
TEST(AnswerGrammar, AValueOrCalls) {
  AnswerForm form = Calls(HermesFormat(), CallCount::kAny);
  form.schema = Json{{"type", "integer"}};
  const auto either = Compile(form);
  ASSERT_TRUE(either.ok()) << either.status();
  EXPECT_TRUE(Accepts(*either, "12"));
  EXPECT_TRUE(Accepts(*either, "<tool_call>\n{\"name\": \"go\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_FALSE(Accepts(*either, "12<tool_call>"));
  form.tools[1].parameters = Json::parse(R"({"type":"object","properties":{"x":{"minimum":1}}})");
  EXPECT_THAT(std::string(Compile(form).status().message()),
              HasSubstr("[1]: properties.x: 'minimum' is not supported"));
}

}  // namespace
}  // namespace tokenferry
