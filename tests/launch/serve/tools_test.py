"""What a model thinks and calls, taken out of its answers, on both routes for chats."""

import json

from server import Server  # first: it finds the next
from program import ProgramTest, main

ASK = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 12}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}}, "required": ["city"]}}}]
# Knows reasoning and tools in Qwen's form; with enable_thinking the prompt ends where the model has begun to think.
TEMPLATE = """{%- for m in messages %}<｜User｜>{{ m.role }}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}{% endfor %}{{ tools | tojson if tools }}<｜Assistant｜>
{%- if enable_thinking %}<think>
{% endif %}"""


class ToolsTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        import tempfile
        with tempfile.NamedTemporaryFile("w", suffix=".jinja", delete=False) as template:
            template.write(TEMPLATE)
        cls.template = template.name
        cls.server = Server("--chat-template", cls.template)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.job.err

    def post(self, path, body):
        status, answer = self.server.post(path, body)
        self.assertEqual(status, 200, answer)
        return answer

    def chat(self, **fields):
        return self.post("/v1/chat/completions", {**ASK, **fields})

    def test_reasoning_that_the_prompt_has_begun(self):
        plain = self.chat(chat_template_kwargs={"enable_thinking": False})["choices"][0]["message"]
        self.assertGreater(len(plain["content"]), 5)
        self.assertNotIn("reasoning_content", plain)
        asked = {"chat_template_kwargs": {"enable_thinking": True}}
        message = self.chat(**asked)["choices"][0]["message"]
        self.assertEqual(message["content"], "")
        self.assertGreater(len(message["reasoning_content"]), 5)
        self.assertEqual(message["reasoning"], message["reasoning_content"])
        deltas = [e["choices"][0]["delta"] for e in list(self.server.stream("/v1/chat/completions", {**ASK, **asked}))[:-1]]
        self.assertEqual("".join(d.get("reasoning_content", "") for d in deltas), message["reasoning_content"])
        self.assertEqual("".join(d.get("content", "") for d in deltas), "")

    def test_reasoning_is_accepted_back(self):
        turns = [*ASK["messages"], {"role": "assistant", "content": "b", "reasoning_content": "thought"}, {"role": "user", "content": "c"}]
        expected = self.chat(messages=turns)["usage"]["prompt_tokens"]
        without = [turns[0], {"role": "assistant", "content": "b"}, turns[2]]
        self.assertLess(self.chat(messages=without)["usage"]["prompt_tokens"], expected)
        other_name = [turns[0], {"role": "assistant", "content": "b", "reasoning": "thought"}, turns[2]]
        self.assertEqual(self.chat(messages=other_name)["usage"]["prompt_tokens"], expected)
        blocks = [turns[0], {"role": "assistant", "content": [{"type": "thinking", "thinking": "thought", "signature": ""}, {"type": "text", "text": "b"}]}, turns[2]]
        self.assertEqual(self.post("/v1/messages", {"messages": blocks, "max_tokens": 2})["usage"]["input_tokens"], expected)

    def test_messages_have_blocks_of_thinking(self):
        ask = {"messages": ASK["messages"], "temperature": 0, "max_tokens": 12, "thinking": {"type": "enabled", "budget_tokens": 1024}}
        whole = self.post("/v1/messages", ask)
        self.assertEqual([block["type"] for block in whole["content"]], ["thinking"])
        self.assertEqual(whole["content"][0]["thinking"],
                         self.chat(chat_template_kwargs={"enable_thinking": True})["choices"][0]["message"]["reasoning_content"])
        events = list(self.server.stream("/v1/messages", ask))
        self.assertEqual(events[1]["content_block"]["type"], "thinking")
        self.assertEqual("".join(e["delta"]["thinking"] for e in events if e["type"] == "content_block_delta"), whole["content"][0]["thinking"])
        self.assertEqual([e["type"] for e in events[-3:]], ["content_block_stop", "message_delta", "message_stop"])
        off = self.post("/v1/messages", {**ask, "thinking": {"type": "disabled"}})
        self.assertEqual([block["type"] for block in off["content"]], ["text"])
        for bad in {"type": "much"}, {}, 1:
            status, answer = self.server.post("/v1/messages", {**ask, "thinking": bad})
            self.assertEqual((status, answer["error"]["type"]), (400, "invalid_request_error"))
            self.assertIn("thinking", answer["error"]["message"])

    def test_calls_are_accepted_back(self):
        call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": "Oslo"})}}
        turns = [*ASK["messages"], {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "rain"}]
        self.chat(messages=turns, tools=TOOLS)
        for field, value in ("parallel_tool_calls", 1), ("parallel_tool_calls", "no"):
            status, answer = self.server.post("/v1/chat/completions", {**ASK, field: value})
            self.assertEqual((status, answer["error"]["param"]), (400, field))


if __name__ == "__main__":
    main()
