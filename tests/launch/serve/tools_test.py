"""What a model thinks and calls, taken out of its answers, on both routes for chats."""

import json
import os

from server import Server  # first: it finds the next
from program import ProgramTest, main

THINKS, SAYS = {"enable_thinking": True}, {"enable_thinking": False}
ASK = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 12, "chat_template_kwargs": SAYS}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}}, "required": ["city"]}}}]
# Everything in it is bounded, so that whatever the model likes, it ends.
FORMAT = {"type": "json_schema", "json_schema": {"name": "report", "strict": True, "schema": {
    "type": "object", "additionalProperties": False, "required": ["city", "n", "ok", "when", "code"], "properties": {
        "city": {"enum": ["Oslo", "Rome"]}, "n": {"type": "integer"}, "ok": {"type": "boolean"},
        "when": {"type": "string", "format": "date"}, "code": {"type": "string", "pattern": r'^[A-Z"\\]{2,4}(-\d+)?$', "maxLength": 8},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2}}}}}
# Knows reasoning and tools in Qwen's form: the prompt ends where the model has begun to think, or has done so.
TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tools.jinja")


class ToolsTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--chat-template", TEMPLATE)

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
        plain = self.chat(chat_template_kwargs=SAYS)["choices"][0]["message"]
        self.assertGreater(len(plain["content"]), 5)
        self.assertNotIn("reasoning_content", plain)
        asked = {"chat_template_kwargs": THINKS}
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
        self.assertEqual(self.post("/v1/messages", {"messages": blocks, "max_tokens": 2, "chat_template_kwargs": SAYS})["usage"]["input_tokens"], expected)

    def test_messages_have_blocks_of_thinking(self):
        ask = {"messages": ASK["messages"], "temperature": 0, "max_tokens": 12, "thinking": {"type": "enabled", "budget_tokens": 1024}}
        whole = self.post("/v1/messages", ask)
        self.assertEqual([block["type"] for block in whole["content"]], ["thinking"])
        self.assertEqual(whole["content"][0]["thinking"],
                         self.chat(chat_template_kwargs=THINKS)["choices"][0]["message"]["reasoning_content"])
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

    def test_answers_have_the_form_that_is_asked_for(self):
        self.assertEqual(self.chat(response_format={"type": "text"})["choices"], self.chat()["choices"])
        for seed in range(6):
            ask = {"response_format": FORMAT, "temperature": 1, "seed": seed, "max_tokens": 300}
            choice = self.chat(**ask)["choices"][0]
            self.assertEqual(choice["finish_reason"], "stop", choice)
            value = json.loads(choice["message"]["content"])
            self.assertEqual(list(value)[:5], ["city", "n", "ok", "when", "code"])
            self.assertIn(value["city"], ["Oslo", "Rome"])
            self.assertIs(type(value["n"]), int)
            self.assertIs(type(value["ok"]), bool)
            self.assertRegex(value["when"], r"^\d{4}-\d\d-\d\d$")
            self.assertRegex(value["code"], FORMAT["json_schema"]["schema"]["properties"]["code"]["pattern"])
            self.assertTrue(all(len(tag) <= 3 for tag in value.get("tags", [])), value)
            deltas = [e["choices"][0]["delta"] for e in list(self.server.stream("/v1/chat/completions", {**ASK, **ask}))[:-1]]
            self.assertEqual("".join(d.get("content", "") for d in deltas), choice["message"]["content"])
        free = self.chat(response_format={"type": "json_object"}, max_tokens=40)["choices"][0]
        self.assertEqual(free["message"]["content"].lstrip()[:1], "{")
        self.assertIn(json.loads(self.server.complete("a", response_format=FORMAT, max_tokens=300)["choices"][0]["text"])["city"], ["Oslo", "Rome"])

    def test_tools_are_called_when_they_must_be(self):
        for choice in "required", {"type": "function", "function": {"name": "weather"}}:
            for seed in range(4):
                ask = {"tools": TOOLS, "tool_choice": choice, "temperature": 1, "seed": seed, "max_tokens": 200, "parallel_tool_calls": False}
                answer = self.chat(**ask)["choices"][0]
                self.assertEqual((answer["finish_reason"], answer["message"]["content"]), ("tool_calls", None), answer)
                call, = answer["message"]["tool_calls"]
                arguments = json.loads(call["function"]["arguments"])
                self.assertEqual((call["type"], call["function"]["name"]), ("function", "weather"))
                self.assertIn(arguments["city"], ["Oslo", "Rome"])
                events = [e["choices"][0] for e in list(self.server.stream("/v1/chat/completions", {**ASK, **ask}))[:-1]]
                parts = [call for e in events for call in e["delta"].get("tool_calls", [])]
                self.assertEqual("".join(part["function"]["arguments"] for part in parts), call["function"]["arguments"])
                self.assertEqual([part["function"]["name"] for part in parts if "id" in part], ["weather"])
                self.assertEqual({part["index"] for part in parts}, {0})
                self.assertEqual([e["finish_reason"] for e in events if e["finish_reason"]], ["tool_calls"])
        cut = self.chat(tools=TOOLS, tool_choice="required", max_tokens=30)["choices"][0]
        self.assertEqual(cut["finish_reason"], "length")

    def test_blocks_of_tool_use(self):
        tools = [{"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"]} for tool in TOOLS]
        for choice in {"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "weather"}:
            ask = {"messages": ASK["messages"], "tools": tools, "tool_choice": choice, "temperature": 1, "seed": 3, "max_tokens": 200, "thinking": {"type": "disabled"}}
            whole = self.post("/v1/messages", ask)
            block, = whole["content"]
            self.assertEqual((whole["stop_reason"], block["type"], block["name"]), ("tool_use", "tool_use", "weather"))
            self.assertIn(block["input"]["city"], ["Oslo", "Rome"])
            events = list(self.server.stream("/v1/messages", ask))
            start, = (e for e in events if e["type"] == "content_block_start")
            self.assertEqual((start["content_block"]["type"], start["content_block"]["name"], start["content_block"]["input"]), ("tool_use", "weather", {}))
            text = "".join(e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta")
            self.assertEqual(json.loads(text), block["input"])

    def test_forms_that_are_refused(self):
        weather = {"type": "function", "function": {"name": "weather"}}
        schema = lambda s: {"type": "json_schema", "json_schema": {"name": "n", "schema": s}}  # noqa: E731
        deep = {}
        for _ in range(40):
            deep = {"type": "array", "items": deep}
        for field, body, word in (
                ("response_format", {"response_format": 1}, "type"),
                ("response_format", {"response_format": {"type": "yaml"}}, "type"),
                ("response_format", {"response_format": {"type": "json_schema"}}, "json_schema"),
                ("response_format", {"response_format": schema({"type": "array", "items": {}, "uniqueItems": True})}, "'uniqueItems'"),
                ("response_format", {"response_format": schema({"properties": {"a": {"oneOf": [{}, {}]}}})}, "properties.a.oneOf: alternatives 0 and 1"),
                ("response_format", {"response_format": schema({"description": "x" * (64 << 10)})}, "bytes"),
                ("response_format", {"response_format": schema(deep)}, "deep"),
                ("response_format", {"response_format": schema({"type": "string", "maxLength": 1 << 30})}, "states"),
                ("tool_choice", {"tool_choice": "required"}, "tools"),
                ("tool_choice", {"tool_choice": weather}, "tools"),
                ("tool_choice", {"tool_choice": "always", "tools": TOOLS}, "must be"),
                ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "other"}}, "tools": TOOLS}, "names a function"),
                ("tools", {"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "a b"}}]}, "name"),
                ("tools", {"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]}, "'not'"),
                ("ignore_eos", {"response_format": FORMAT, "ignore_eos": True}, "end")):
            with self.subTest(field=field, body=str(body)[:80]):
                status, answer = self.server.post("/v1/chat/completions", {**ASK, **body})
                self.assertEqual((status, answer["error"]["param"]), (400, field), answer)
                self.assertIn(word, answer["error"]["message"])

    def test_no_way_on_ends_that_sequence_alone(self):
        stuck = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": 1}}}, "min_tokens": 10}
        status, answer = self.server.post("/v1/chat/completions", {**ASK, **stuck})
        self.assertEqual(status, 400, answer)
        self.assertIn("no token may come", answer["error"]["message"])
        self.assertGreater(len(self.chat()["choices"][0]["message"]["content"]), 5)


if __name__ == "__main__":
    main()
