"""The clients that people use, OpenAI's and Anthropic's packages, and curl, against a server."""

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from typing import Literal

import server as serving  # first: it finds the next
from program import ProgramTest, main
from server import NAME, Server
from tools_test import TEMPLATE, TOOLS

import anthropic
import openai

KEY = "a-good-key-1"
HELLO = [{"role": "user", "content": "Hello"}]
SAYS = {"chat_template_kwargs": {"enable_thinking": False}}  # at once, without reasoning


class ClientsTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        with tempfile.NamedTemporaryFile("w") as keys:  # read before the server is ready
            keys.write(KEY)
            keys.flush()
            cls.server = Server("--chat-template", TEMPLATE, "--api-key-file", keys.name, "--max-waiting", "1", "--max-num-seqs", "4")
        base = f"http://127.0.0.1:{cls.server.port}"
        cls.openai = openai.OpenAI(base_url=f"{base}/v1", api_key=KEY, max_retries=0)
        cls.anthropic = anthropic.Anthropic(base_url=base, api_key=KEY, max_retries=0)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.job.err

    def test_models(self):
        models = self.openai.models.list().data
        self.assertEqual([m.id for m in models], [NAME])
        self.assertEqual(self.openai.models.retrieve(NAME).id, NAME)

    def test_completions(self):
        whole = self.openai.completions.create(model=NAME, prompt="In the beginning", max_tokens=20, temperature=0, logprobs=2, seed=1)
        self.assertEqual(whole.choices[0].finish_reason, "length")
        self.assertEqual(len(whole.choices[0].logprobs.tokens), 20)
        stream = self.openai.completions.create(model=NAME, prompt="In the beginning", max_tokens=20, temperature=0, stream=True)
        self.assertEqual("".join(part.choices[0].text for part in stream), whole.choices[0].text)

    def test_chat(self):
        ask = dict(model=NAME, messages=HELLO, max_completion_tokens=20, temperature=0, seed=1)
        whole = self.openai.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
        self.assertEqual(len(whole.choices[0].logprobs.content), whole.usage.completion_tokens)
        text = usage = None
        with self.openai.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}) as stream:
            text = ""
            for part in stream:
                text += part.choices[0].delta.content or "" if part.choices else ""
                usage = part.usage or usage
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(usage.total_tokens, whole.usage.total_tokens)

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as raised:
            self.openai.chat.completions.create(model=NAME, messages=HELLO, temperature=1000)
        self.assertEqual((raised.exception.param, raised.exception.code), ("temperature", "invalid_value"))
        with self.assertRaises(openai.NotFoundError):
            self.openai.chat.completions.create(model="gpt-4", messages=HELLO)
        with self.assertRaises(openai.AuthenticationError):
            self.openai.with_options(api_key="wrong-key-1").models.list()
        with self.assertRaises(anthropic.AuthenticationError):
            self.anthropic.with_options(api_key="wrong-key-1").messages.create(model=NAME, messages=HELLO, max_tokens=5)
        with self.assertRaises(anthropic.BadRequestError) as raised:
            self.anthropic.messages.create(model=NAME, messages=HELLO, max_tokens=5, extra_body={"temperature": 1000})
        self.assertEqual(raised.exception.body["error"]["type"], "invalid_request_error")
        with self.assertRaises(openai.APIError):  # an error after the first byte
            for _ in self.openai.completions.create(model=NAME, prompt="a", max_tokens=4000, stream=True, extra_body={"timeout": 0.3, "ignore_eos": True}):
                pass

    def test_a_client_that_is_refused_tries_again(self):
        long = dict(model=NAME, prompt="a", max_tokens=3000, stream=True, extra_body={"ignore_eos": True})
        create = self.openai.with_options(timeout=serving.WAIT).completions.create
        refused = []
        # All at once: a stream opens with its first token, so that one after the other never waits behind another.
        with concurrent.futures.ThreadPoolExecutor(max_workers=40) as pool:
            for asked in concurrent.futures.as_completed([pool.submit(create, **long, n=4) for _ in range(40)]):
                if isinstance(asked.exception(), openai.RateLimitError):
                    refused.append(asked.exception())
                else:
                    asked.result().close()
        self.assertGreater(len(refused), 0)
        self.assertEqual({error.code for error in refused}, {"queue_full"})
        patient = self.openai.with_options(max_retries=20).completions.create(model=NAME, prompt="a", max_tokens=2)
        self.assertEqual(patient.usage.completion_tokens, 2)

    def test_cancel(self):
        stream = self.openai.completions.create(model=NAME, prompt="a", max_tokens=4000, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        headers = {"x-api-key": KEY}
        serving.await_(lambda: "num_requests_running{model_name=\"%s\"} 0" % NAME in self.server.get("/metrics", **headers)[1], "cancelled")

    def test_messages(self):
        ask = dict(model=NAME, messages=HELLO, system="Be brief.", max_tokens=20, extra_body={"temperature": 0})
        whole = self.anthropic.messages.create(**ask)
        self.assertEqual((whole.role, whole.type, whole.stop_reason), ("assistant", "message", "max_tokens"))
        same = self.openai.chat.completions.create(model=NAME, messages=[{"role": "system", "content": "Be brief."}, *HELLO], max_tokens=20, temperature=0)
        self.assertEqual(whole.content[0].text, same.choices[0].message.content)
        self.assertEqual((whole.usage.input_tokens, whole.usage.output_tokens), (same.usage.prompt_tokens, same.usage.completion_tokens))
        with self.anthropic.messages.stream(**ask) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual((text, final.content[0].text, final.stop_reason), (whole.content[0].text,) * 2 + ("max_tokens",))
        self.assertEqual(final.usage.output_tokens, whole.usage.output_tokens)
        stop = whole.content[0].text[6:9]
        cut = self.anthropic.messages.create(**ask, stop_sequences=["never", stop])
        self.assertEqual((cut.stop_reason, cut.stop_sequence), ("stop_sequence", stop))
        counted = self.anthropic.messages.count_tokens(model=NAME, messages=HELLO, system="Be brief.")
        self.assertEqual(counted.input_tokens, whole.usage.input_tokens)

    def test_messages_with_tools_and_blocks(self):
        tools = [{"name": "weather", "description": "of a city", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]
        turns = [{"role": "user", "content": [{"type": "text", "text": "How is it in Oslo?"}]},
                 {"role": "assistant", "content": [{"type": "text", "text": "Let me see."},
                                                   {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}]},
                 {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "rain"}]}]
        answer = self.anthropic.messages.create(model=NAME, messages=turns, tools=tools, max_tokens=5)
        self.assertGreater(answer.usage.output_tokens, 0)
        for bad in [{"role": "system", "content": "a"}], [{"role": "user", "content": [{"type": "image", "source": {}}]}], [{"role": "user"}], []:
            with self.assertRaises(anthropic.BadRequestError):
                self.anthropic.messages.create(model=NAME, messages=bad, max_tokens=5)

    def test_answers_of_a_form(self):
        from pydantic import BaseModel

        class Report(BaseModel):
            city: Literal["Oslo", "Rome"]
            warm: bool

        parsed = self.openai.chat.completions.parse(model=NAME, messages=HELLO, max_tokens=100, temperature=0, response_format=Report, extra_body=SAYS)
        self.assertIn(parsed.choices[0].message.parsed.city, ["Oslo", "Rome"])
        with self.assertRaises(openai.BadRequestError) as raised:
            self.openai.chat.completions.create(model=NAME, messages=HELLO, response_format={
                "type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string", "pattern": "(?=a)"}}})
        self.assertEqual(raised.exception.param, "response_format")

    def test_tools(self):
        ask = dict(model=NAME, messages=HELLO, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=200, temperature=0, extra_body=SAYS)
        answer = self.openai.chat.completions.create(**ask).choices[0]
        self.assertEqual(answer.finish_reason, "tool_calls")
        call = answer.message.tool_calls[0]
        self.assertIn(json.loads(call.function.arguments)["city"], ["Oslo", "Rome"])
        with self.openai.chat.completions.stream(**ask) as stream:
            final = stream.get_final_completion().choices[0]
        self.assertEqual(final.message.tool_calls[0].function.arguments, call.function.arguments)
        turns = [*HELLO, answer.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
        self.assertGreater(self.openai.chat.completions.create(model=NAME, messages=turns, tools=TOOLS, max_tokens=3).usage.completion_tokens, 0)
        tools = [{"name": t["function"]["name"], "input_schema": t["function"]["parameters"]} for t in TOOLS]
        ask = dict(model=NAME, messages=HELLO, tools=tools, tool_choice={"type": "tool", "name": "weather"}, max_tokens=200, extra_body={"temperature": 0, **SAYS})
        whole = self.anthropic.messages.create(**ask)
        self.assertEqual((whole.stop_reason, whole.content[0].type, whole.content[0].input), ("tool_use", "tool_use", json.loads(call.function.arguments)))
        with self.anthropic.messages.stream(**ask) as stream:
            self.assertEqual(stream.get_final_message().content[0].input, whole.content[0].input)

    def test_thinking(self):
        ask = dict(model=NAME, messages=HELLO, max_tokens=12, extra_body={"temperature": 0, "thinking": {"type": "enabled", "budget_tokens": 1024}})
        with self.anthropic.messages.stream(**ask) as stream:
            block = stream.get_final_message().content[0]
        self.assertEqual(block.type, "thinking")
        self.assertEqual(block.thinking, self.anthropic.messages.create(**ask).content[0].thinking)
        message = self.openai.chat.completions.create(model=NAME, messages=HELLO, max_tokens=12, temperature=0,
                                                      extra_body={"chat_template_kwargs": {"enable_thinking": True}}).choices[0].message
        self.assertEqual((message.content, message.reasoning_content), ("", block.thinking))

    def test_schemathesis(self):
        program = os.path.join(os.path.dirname(sys.executable), "schemathesis")
        # What the description allows is never an error of the server, nor an answer of another kind than it says.
        checks = "not_a_server_error,content_type_conformance,status_code_conformance,unsupported_method"
        with Server("--chat-template", TEMPLATE, "--max-model-len", "64") as server, tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [program, "run", f"http://127.0.0.1:{server.port}/openapi.json", "--exclude-path", "/admin/drain", "--checks", checks,
                 "--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1", "--no-color", "--warnings", "off",
                 "--generation-database", "none"], capture_output=True, text=True, cwd=folder)
            self.assertEqual(done.returncode, 0, done.stdout[-4000:] + done.stderr[-1000:])
            self.assertEqual(server.stop(), 0)

    @unittest.skipUnless(shutil.which("curl"), "curl is not installed")
    def test_curl(self):
        body = {"messages": HELLO, "max_tokens": 5, "stream": True}
        done = subprocess.run(["curl", "--silent", "--no-buffer", "--fail", f"http://localhost:{self.server.port}/v1/chat/completions",
                               "-H", f"Authorization: Bearer {KEY}", "-d", json.dumps(body)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.endswith("data: [DONE]\n\n"))
        large = json.dumps({"prompt": "a" * (2 << 20)})  # curl asks first whether it may send it
        done = subprocess.run(["curl", "--silent", f"http://localhost:{self.server.port}/tokenize", "-H", f"x-api-key: {KEY}", "-d", "@-"],
                              input=large, capture_output=True, text=True)
        self.assertGreater(json.loads(done.stdout)["count"], 1000)


if __name__ == "__main__":
    main()
