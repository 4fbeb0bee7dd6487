// Conversations from outside: what is made ready for a template, and what is refused.
#include "runtime/text/chat/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tokenferry {
namespace {

using ::testing::HasSubstr;

TEST(Conversation, IsReadAndMadeReady) {
  const auto input = ReadConversation(R"({"messages": [
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{\"x\": [1]}"}},
                                                            {"function": {"name": "g", "arguments": "not json"}}]},
      {"role": "tool", "content": {"t": 1}}],
      "tools": [{"b": 1, "a": 2}], "add_generation_prompt": false, "chat_template_kwargs": {"k": 3}})",
                                      "c.json");
  ASSERT_TRUE(input.ok()) << input.status();
  const auto chat = ChatTemplate::Parse(
      "{{ messages[0].content }}|{{ messages[1].tool_calls[0].function.arguments.x }}|"
      "{{ messages[1].tool_calls[1].function.arguments }}|{{ messages[2].content.t }}|{{ tools | tojson }}|{{ k }}"
      "{{ add_generation_prompt }}{{ documents }}",
      "t", {});
  const absl::StatusOr<TaggedText> text = chat->Render(*input);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->text(), R"(a)"
                          "\n"
                          R"(b|[1]|not json|1|[{"b": 1, "a": 2}]|3FalseNone)");
  EXPECT_TRUE(ReadConversation(R"([{"role": "user", "content": "x"}])", "c.json").ok());
}

TEST(Conversation, RefusesWhatIsWrong) {
  const auto message = [](absl::string_view json) {
    return std::string(ReadConversation(json, "c.json").status().message());
  };
  EXPECT_EQ(
      message(R"([{"role": "usr", "content": "x"}])"),
      "c.json:1:11: [0].role: unknown role 'usr'; known: system, developer, user, assistant, tool, function, ipython, "
      "observation");
  EXPECT_EQ(message("[{\"role\": \"user\",\n \"content\": 5}]"),
            "c.json:2:13: [0].content: must be a text or a list of parts, not 5");
  EXPECT_THAT(message(R"([{"role": "user"}])"), HasSubstr("lacks \"content\""));
  EXPECT_THAT(message(R"([{"role": "user", "content": null}])"), HasSubstr("lacks \"content\""));
  EXPECT_THAT(message(R"([{"role": "user", "content": [{"type": "image_url"}]}])"), HasSubstr("of type 'image_url'"));
  EXPECT_THAT(message(R"([{"role": "user", "content": ["x"]}])"), HasSubstr("must be an object"));
  EXPECT_THAT(message(R"([{"role": 3, "content": "x"}])"), HasSubstr("role: must be a string, not 3"));
  EXPECT_THAT(message("[]"), HasSubstr("has no messages"));
  EXPECT_THAT(message("5"), HasSubstr("must be an object"));
  EXPECT_THAT(message(R"({"messages": {}})"), HasSubstr("messages: must be a list"));
  EXPECT_THAT(message(R"({"messages": [{"role": "user", "content": "x"}], "tool": []})"),
              HasSubstr("tool: unknown key"));
  EXPECT_THAT(message(R"({"messages": [{"role": "user", "content": "x"}], "tools": [1]})"),
              HasSubstr("tools[0]: must be an object"));
  EXPECT_THAT(message("{"), HasSubstr("is not JSON"));
}

}  // namespace
}  // namespace tokenferry
