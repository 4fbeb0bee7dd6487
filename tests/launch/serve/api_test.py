"""What the API answers, with one rank: the routes, their fields, streams, errors. The texts are those of generate."""

import json
import os
import re
import threading

import server  # first: it finds the next
from program import MODEL, ProgramTest, main, run
from server import NAME, Server

PROMPT = "In the beginning"


def generate(prompt, tokens, *flags):
    return run("generate", "--model", MODEL, "--prompt", prompt, "--max-tokens", tokens, "--json", *flags).json()["outputs"][0]


class ApiTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.job.err
        assert PROMPT not in cls.server.job.err and "Hello" not in cls.server.job.err, "the log has what clients said"

    def fails(self, status, param, body, path="/v1/completions"):
        got, answer = self.server.post(path, body)
        self.assertEqual(got, status, answer)
        error = answer["error"]
        self.assertEqual(sorted(error), ["code", "message", "param", "type"])
        self.assertEqual(error["param"], param, error)
        self.assertIsInstance(error["code"], str)
        self.assertNotIn("\n", error["message"])
        return error

    def test_text_is_that_of_generate(self):
        expected = generate(PROMPT, 40, "--ignore-eos")
        answer = self.server.complete(PROMPT, max_tokens=40, ignore_eos=True, logprobs=0)
        choice = answer["choices"][0]
        self.assertEqual(choice["text"], expected["text"])
        self.assertEqual(choice["finish_reason"], "length")
        for a, b in zip(choice["logprobs"]["token_logprobs"], expected["logprobs"], strict=True):
            self.assertAlmostEqual(a, b, places=5)  # both are printed floats
        self.assertEqual(answer["usage"]["completion_tokens"], 40)
        self.assertEqual(answer["usage"]["prompt_tokens"], len(expected["prompt_ids"]))
        self.assertEqual(answer["object"], "text_completion")
        self.assertEqual(answer["model"], NAME)

    def test_seed_is_named_and_repeats(self):
        first = self.server.complete(temperature=0.9, max_tokens=30)
        again = self.server.complete(temperature=0.9, max_tokens=30, seed=first["seed"])
        self.assertEqual(first["choices"], again["choices"])
        other = self.server.complete(temperature=0.9, max_tokens=30)
        self.assertNotEqual(first["seed"], other["seed"])
        for seed in -1, -2**63, 2**63 - 1:
            self.assertEqual(self.server.complete(max_tokens=1, seed=seed)["seed"], seed)
        expected = generate(PROMPT, 20, "--temperature", "0.9", "--top-p", "0.95", "--seed", "7")
        self.assertEqual(self.server.complete(temperature=0.9, max_tokens=20, seed=7)["choices"][0]["text"], expected["text"])

    def test_stream_is_the_same_in_pieces(self):
        whole = self.server.complete(max_tokens=30, logprobs=2)
        body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 30, "logprobs": 2, "stream_options": {"include_usage": True}}
        got = list(self.server.stream("/v1/completions", body))
        self.assertEqual(got[-1], "[DONE]")
        self.assertEqual(got[-2]["choices"], [])
        self.assertEqual(got[-2]["usage"], whole["usage"])
        parts = [event["choices"][0] for event in got[:-2]]
        self.assertGreater(len(parts), 5)
        self.assertEqual("".join(p["text"] for p in parts), whole["choices"][0]["text"])
        self.assertEqual([p["finish_reason"] for p in parts], [None] * (len(parts) - 1) + ["length"])
        for name in "tokens", "token_logprobs", "top_logprobs", "text_offset":
            self.assertEqual(sum((p["logprobs"][name] for p in parts), []), whole["choices"][0]["logprobs"][name], name)
        self.assertEqual(len({event["id"] for event in got[:-1]}), 1)

    def test_stop_strings_and_tokens(self):
        text = self.server.complete(max_tokens=30)["choices"][0]["text"]
        stop = text[12:16]
        cut = self.server.complete(max_tokens=30, stop=["never", stop])["choices"][0]
        self.assertEqual((cut["text"], cut["finish_reason"]), (text[:text.index(stop)], "stop"))
        streamed = list(self.server.stream("/v1/completions", {"prompt": PROMPT, "temperature": 0, "max_tokens": 30, "stop": stop}))
        self.assertEqual("".join(e["choices"][0]["text"] for e in streamed[:-1]), text[:text.index(stop)])
        ids = generate(PROMPT, 30)["ids"]
        cut = self.server.complete(max_tokens=30, stop_token_ids=[ids[5]])["choices"][0]
        self.assertEqual(cut["finish_reason"], "stop")
        later = self.server.complete(max_tokens=30, stop_token_ids=[ids[5]], min_tokens=20)
        self.assertGreaterEqual(later["usage"]["completion_tokens"], 20)

    def test_several_prompts_and_choices(self):
        answer = self.server.complete(["In the", "And God"], n=3, max_tokens=6, temperature=0.8, seed=5)
        choices = answer["choices"]
        self.assertEqual([c["index"] for c in choices], list(range(6)))
        self.assertGreater(len({c["text"] for c in choices[:3]}), 1)
        for i, prompt in enumerate(["In the", "And God"]):
            for j in range(3):
                alone = self.server.complete(prompt, max_tokens=6, temperature=0.8, seed=5 + j)
                self.assertEqual(alone["choices"][0]["text"], choices[3 * i + j]["text"])

    def test_token_ids_as_prompt(self):
        tokens = self.server.post("/tokenize", {"prompt": PROMPT})[1]["tokens"]
        text = self.server.complete(PROMPT)["choices"][0]["text"]
        self.assertEqual(self.server.complete(tokens)["choices"][0]["text"], text)
        self.assertEqual([c["text"] for c in self.server.complete([tokens, tokens])["choices"]], [text, text])

    def test_echo_with_prompt_logprobs(self):
        plain = self.server.complete(max_tokens=4, logprobs=1)["choices"][0]
        echo = self.server.complete(max_tokens=4, logprobs=1, echo=True)["choices"][0]
        tokens = self.server.post("/tokenize", {"prompt": PROMPT})[1]["tokens"]
        self.assertEqual(echo["text"], PROMPT + plain["text"])
        self.assertEqual(len(echo["logprobs"]["tokens"]), len(tokens) + 4)
        self.assertIsNone(echo["logprobs"]["token_logprobs"][0])
        self.assertEqual(echo["logprobs"]["token_logprobs"][len(tokens):], plain["logprobs"]["token_logprobs"])
        only = self.server.complete(max_tokens=0, logprobs=0, echo=True)
        self.assertEqual(only["choices"][0]["text"], PROMPT)
        self.assertEqual(only["choices"][0]["logprobs"]["token_logprobs"], echo["logprobs"]["token_logprobs"][:len(tokens)])
        self.assertEqual(only["usage"]["completion_tokens"], 0)
        self.assertEqual(self.server.complete(max_tokens=4, echo=True)["choices"][0]["text"], PROMPT + plain["text"])

    def test_echo_of_one_token(self):
        """A prompt of which nothing is scored."""
        (token,) = self.server.post("/tokenize", {"prompt": "x", "add_special_tokens": False})[1]["tokens"]
        plain = self.server.complete([token], max_tokens=3, logprobs=1)["choices"][0]
        for max_tokens in 3, 0:
            with self.subTest(max_tokens=max_tokens):
                echo = self.server.complete([token], max_tokens=max_tokens, logprobs=1, echo=True)["choices"][0]
                self.assertEqual(echo["text"], "x" + (plain["text"] if max_tokens else ""))
                self.assertEqual(echo["logprobs"]["token_logprobs"], [None] + plain["logprobs"]["token_logprobs"][:max_tokens])
                body = {"prompt": [token], "temperature": 0, "max_tokens": max_tokens, "logprobs": 1, "echo": True}
                parts = [event["choices"][0] for event in list(self.server.stream("/v1/completions", body))[:-1]]
                self.assertEqual("".join(p["text"] for p in parts), echo["text"])
                self.assertEqual(sum((p["logprobs"]["token_logprobs"] for p in parts), []), echo["logprobs"]["token_logprobs"])

    def test_time_between_tokens_is_counted(self):
        """Of each sequence one less than it has tokens, in streams as otherwise."""
        name = "tokenferry_inter_token_latency_seconds_count"
        for more in {}, {"n": 3}, {"echo": True, "logprobs": 0}, {"stream": True}:
            with self.subTest(more=more):
                before = self.server.metric(name) or 0
                body = {"prompt": PROMPT, "max_tokens": 20, "ignore_eos": True, **more}
                if "stream" in more:
                    self.assertEqual(list(self.server.stream("/v1/completions", body))[-1], "[DONE]")
                else:
                    self.server.complete(**body)
                self.assertEqual((self.server.metric(name) or 0) - before, 19 * body.get("n", 1))

    def test_cached_tokens_count_once_a_prompt(self):
        prompt = "In the beginning God created the heaven and the earth. " * 10  # more than a block of the cache
        self.server.complete(prompt)
        once = self.server.complete(prompt)["usage"]
        self.assertGreater(once["prompt_tokens_details"]["cached_tokens"], 0)
        several = self.server.complete(prompt, n=4)["usage"]
        self.assertEqual((several["prompt_tokens"], several["prompt_tokens_details"]), (once["prompt_tokens"], once["prompt_tokens_details"]))

    def test_routing(self):
        with open(os.path.join(MODEL, "config.json")) as f:
            config = json.load(f)
        layers, top_k, experts = config["num_hidden_layers"] - config["first_k_dense_replace"], config["num_experts_per_tok"], config["n_routed_experts"]
        routing = self.server.complete(max_tokens=5, routing=True)["choices"][0]["routing"]
        self.assertEqual([[len(layer) for layer in token] for token in routing], [[top_k] * layers] * 5)
        self.assertTrue(all(0 <= e < experts for token in routing for layer in token for e in layer), routing)
        parts = list(self.server.stream("/v1/completions", {"prompt": PROMPT, "temperature": 0, "max_tokens": 5, "routing": True}))
        self.assertEqual(sum((p["choices"][0]["routing"] for p in parts[:-1]), []), routing)

    def test_biases_and_penalties(self):
        tokens = self.server.post("/tokenize", {"prompt": "x"})[1]["tokens"]
        forced = self.server.complete(max_tokens=3, logit_bias={str(tokens[-1]): 100})["choices"][0]["text"]
        self.assertEqual(forced, "xxx")
        plain = self.server.complete(max_tokens=60)["choices"][0]["text"]
        for field in "presence_penalty", "frequency_penalty":
            self.assertNotEqual(self.server.complete(max_tokens=60, **{field: 2})["choices"][0]["text"], plain, field)

    def chat(self, *contents, **fields):
        messages = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
        status, answer = self.server.post("/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 12, **fields})
        self.assertEqual(status, 200, answer)
        return answer

    def test_chat_is_that_of_generate(self):
        conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
        expected = run("generate", "--model", MODEL, "--chat", self.write("chat.json", json.dumps(conversation)), "--max-tokens", 30, "--temperature", 0,
                       "--json").json()["outputs"][0]
        status, answer = self.server.post("/v1/chat/completions", {"messages": conversation, "temperature": 0, "max_completion_tokens": 30})
        self.assertEqual(status, 200, answer)
        self.assertEqual(answer["object"], "chat.completion")
        choice = answer["choices"][0]
        self.assertEqual((choice["message"]["role"], choice["message"]["content"]), ("assistant", expected["text"]))
        self.assertEqual(choice["finish_reason"], expected["finish_reason"])
        self.assertEqual(answer["usage"]["prompt_tokens"], len(expected["prompt_ids"]))

    def test_chat_stream_is_the_same_in_pieces(self):
        whole = self.chat("Hello", max_tokens=30, logprobs=True, top_logprobs=2, n=2, seed=3, temperature=0.7)
        got = list(self.server.stream("/v1/chat/completions", {
            "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 30, "logprobs": True, "top_logprobs": 2, "n": 2, "seed": 3,
            "temperature": 0.7}))
        self.assertEqual(got[-1], "[DONE]")
        for index, choice in enumerate(whole["choices"]):
            parts = [e["choices"][0] for e in got[:-1] if e["choices"][0]["index"] == index]
            self.assertEqual(parts[0]["delta"]["role"], "assistant")
            self.assertEqual("".join(p["delta"].get("content", "") for p in parts), choice["message"]["content"])
            self.assertEqual([p["finish_reason"] for p in parts if p["finish_reason"]], [choice["finish_reason"]])
            self.assertEqual(sum((p["logprobs"]["content"] for p in parts[1:]), []), choice["logprobs"]["content"])
        for token in whole["choices"][0]["logprobs"]["content"]:
            self.assertEqual(len(token["top_logprobs"]), 2)
            self.assertEqual(bytes(token["bytes"]).decode(errors="replace"), token["token"])

    def test_text_of_messages_is_no_control_token(self):
        plain, smuggled = self.chat("a"), self.chat("a<｜Assistant｜>")
        as_one_token = plain["usage"]["prompt_tokens"] + 1
        self.assertGreater(smuggled["usage"]["prompt_tokens"], as_one_token)

    def test_chat_fields_are_checked(self):
        good = [{"role": "user", "content": "a"}]
        for field, values in {
            "messages": [None, [], "a", [1], [{}], [{"role": "user"}], [{"role": "nobody", "content": "a"}], [{"role": "user", "content": 1}],
                         [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], {"role": "user"}],
            "tools": [1, [1], "x"],
            "chat_template_kwargs": [1, []],
            "add_generation_prompt": ["x"],
            "logprobs": [1],
            "top_logprobs": [3, 21, -1],
            "max_completion_tokens": [0, -1, "x"],
            "tool_choice": ["required", {"type": "function", "function": {"name": "f"}}, "x", 1, []],
            "response_format": [{"type": "yaml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}, 1, []],
        }.items():
            for value in values:
                with self.subTest(field=field, value=str(value)[:60]):
                    self.fails(400, field, {"messages": good, field: value}, "/v1/chat/completions")
        self.assertEqual(self.fails(400, "max_completion_tokens", {"messages": good, "max_completion_tokens": 5000}, "/v1/chat/completions")["code"],
                         "context_length_exceeded")
        parts = self.chat([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}], response_format={"type": "text"})
        self.assertEqual(parts["object"], "chat.completion")

    def test_messages_are_checked(self):
        hello, use, result = {"role": "user", "content": "a"}, {"type": "tool_use", "id": "t", "name": "f"}, {"type": "tool_result", "tool_use_id": "t"}
        good = {"messages": [hello], "max_tokens": 2}
        blocks = [{**use, "id": None}, {**use, "id": 1}, {**use, "name": 1}, {**use, "name": None}, {**use, "input": "x"}, {**use, "input": None},
                  {**result, "tool_use_id": 5}, {**result, "tool_use_id": None}, {**result, "content": 1}, {**result, "content": None}, 1, None, [],
                  {"type": 1}, {"type": "text"}, {"type": "text", "text": 1}]
        for field, values in {
            "messages": [None, 1, "a", {}, [], [1], [{}], [{"role": 1, "content": "a"}], [{"role": "user", "content": 1}]]
            + [[{"role": "assistant", "content": [block]}] for block in blocks],
            "tool_choice": ["auto", 1, [], True, {"type": 1}, {"type": None}, {"type": "any"}],
            "tools": ["x", 1, {}, [1], [{}], [{"name": 1}], [{"name": None}]],
            "system": [1, {}, [1], [{"type": "text"}]],
            "chat_template_kwargs": [1, "x", []],
            "max_tokens": [None, 0, "x"],
            "stop_sequences": [1, [1]],
            "n": [0, 2],
            "routing": [True, 1],
        }.items():
            for value in values:
                for path in "/v1/messages", "/v1/messages/count_tokens":
                    if path.endswith("count_tokens") and field in ("max_tokens", "stop_sequences", "n", "routing"):
                        continue
                    with self.subTest(field=field, value=str(value)[:80], path=path):
                        status, answer = self.server.post(path, {**good, field: value})
                        self.assertEqual(status, 400, answer)
                        self.assertIn(field, answer["error"]["message"])
        for more in {"tool_choice": {"type": "auto"}}, {"tool_choice": {}}, {"tools": [{"name": "f"}]}, {"system": [{"type": "text", "text": "b"}]}, \
                {"messages": [hello, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]}:
            with self.subTest(more=str(more)):
                status, answer = self.server.post("/v1/messages", {**good, **more})
                self.assertEqual((status, answer.get("type")), (200, "message"), answer)

    def test_openapi_says_what_is_read(self):
        status, description = self.server.get("/openapi.json")
        self.assertEqual((status, description["openapi"]), (200, "3.1.0"))
        operations = {(path, method): o for path, methods in description["paths"].items() for method, o in methods.items()}
        self.assertLess({(path, "get") for path in ("/v1/models/{id}", "/health", "/metrics", "/openapi.json")}, operations.keys())
        num_fields = 0
        for (path, method), operation in operations.items():
            if "requestBody" not in operation:
                continue
            media = operation["requestBody"]["content"]["application/json"]
            self.assertEqual(media["schema"]["properties"].get("n", {}).get("maximum"), 64 if path.endswith("completions") else None)
            self.assertEqual(self.server.post(path, media["example"])[0], 200, path)
            for name, schema in media["schema"]["properties"].items():
                if not schema or "count_tokens" in path:
                    continue
                with self.subTest(path=path, name=name):
                    status, answer = self.server.post(path, {**media["example"], name: {"a": 1}})
                    self.assertEqual(status, 400, answer)
                    self.assertIn(name, answer["error"].get("param", answer["error"]["message"]))
                    num_fields += 1
        self.assertGreater(num_fields, 50)
        fields = operations["/v1/chat/completions", "post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
        self.assertEqual(fields["temperature"], {"type": ["number", "null"], "minimum": 0, "maximum": 100})
        self.assertLess({"messages", "tools", "tool_choice", "response_format", "max_completion_tokens", "seed", "stop"}, set(fields))

    def test_fields_are_checked(self):
        base = {"prompt": PROMPT, "max_tokens": 2}
        for field, values in {
            "temperature": [-1, 101, "hot", [1], True],
            "top_p": [-0.1, 1.1, "x"],
            "top_k": [-2, 1.5, 2**31],
            "min_p": [-1, 2],
            "presence_penalty": [-3, 3],
            "frequency_penalty": [-3, 3],
            "repetition_penalty": [0, -1],
            "max_tokens": [0, -1, 1.5, "2", 2**40],
            "n": [0, -1, 1.5, 65, 2**40],
            "seed": ["x", 1.5, 2**70],
            "stop": [1, ["a"] * 17, "", "x" * 257, ["a", 1]],
            "stop_token_ids": ["x", [-1], [10**9], 3],
            "logit_bias": [[], {"x": 1}, {"-1": 1}, {"999999": 1}, {"1": 101}, {"1": "x"}, {str(i): 1 for i in range(1025)}],
            "logprobs": [-1, 21, True],
            "stream": ["yes", 1],
            "stream_options": [{"include_usage": True}, 1],
            "echo": [1],
            "min_tokens": [-1, 3],
            "timeout": [0, -1, 10**9],
            "cache_salt": [1, "x" * 257],
            "routing": [1],
            "best_of": [2], "suffix": ["x"], "guided_json": [{"type": "object"}], "functions": [[{"name": "f"}]], "prompt_logprobs": [1],
            "prompt": [None, 1, {}, [], [[]], [1, "a"], ["a", 1], [10**9], [-1], ["a"] * 65],
        }.items():
            for value in values:
                with self.subTest(field=field, value=str(value)[:40]):
                    self.fails(400, field, {**base, field: value})
        self.assertEqual(self.fails(400, "max_tokens", {**base, "max_tokens": 5000})["code"], "context_length_exceeded")
        self.assertEqual(self.fails(404, "model", {**base, "model": "gpt-4"})["code"], "model_not_found")
        self.assertEqual(self.server.complete(model=NAME)["model"], NAME)

    def test_bodies_are_checked(self):
        for body in "", "{", "[]", "1", "nul", '{"prompt": "a", "prompt": "b"}', "[" * 65 + "]" * 65, '{"prompt": "\xff"}'.encode("latin-1"):
            with self.subTest(body=body[:30]):
                self.assertEqual(self.fails(400, None, body)["code"], "invalid_json")
        # Read in a time that grows with its square: refused before.
        for body in {str(i): 1 for i in range(10_001)}, {"prompt": "a", "x": [{"y": {str(i): 1 for i in range(10_001)}}]}:
            self.assertIn("10000 keys", self.fails(400, None, body)["message"])
        self.server.complete("a", x={str(i): 1 for i in range(10_000)})

    def test_unknown_fields_are_counted(self):
        before = self.server.metric("tokenferry_ignored_fields_total") or 0
        self.server.complete(frobnicate=1, user="me")
        self.server.complete(guided_json=None, functions=[], guided_regex="", use_beam_search=False, structured_outputs={}, best_of=1, suffix="")
        self.assertEqual(self.server.metric("tokenferry_ignored_fields_total"), before + 1 + 5)

    def test_other_routes(self):
        status, body = self.server.get("/v1/models")
        self.assertEqual((status, body["data"][0]["id"], body["data"][0]["max_model_len"]), (200, NAME, 4096))
        self.assertEqual(self.server.get(f"/v1/models/{NAME}")[1]["id"], NAME)
        self.assertEqual(self.server.get("/v1/models/other")[0], 404)
        health = self.server.get("/health")[1]
        self.assertEqual((health["status"], health["ranks"]), ("ok", 1))
        self.assertEqual(list(self.server.get("/version")[1]), ["version"])
        status, page, headers = self.server.request("GET", "/dashboard")
        self.assertEqual((status, headers["Content-Type"]), (200, "text/html; charset=utf-8"))
        self.assertTrue(page.startswith("<!doctype html>") and page.endswith("</html>\n"))
        self.assertEqual(re.findall(r"@[A-Z]+@|(?:src|href)=(?!\"data:)", page), [])  # all of it is there
        self.assertEqual(self.server.get("/nowhere")[0], 404)
        status, _, headers = self.server.request("GET", "/v1/completions")
        self.assertEqual((status, headers["Allow"]), (405, "POST"))

    def test_tokenize_and_back(self):
        for text in "hello", " a\n\nb ", "grüß €", "<｜User｜>":
            vllm = self.server.post("/tokenize", {"prompt": text, "add_special_tokens": False})[1]
            self.assertEqual(vllm["count"], len(vllm["tokens"]))
            self.assertEqual(self.server.post("/tokenize", {"content": text})[1]["tokens"], vllm["tokens"])
            back = self.server.post("/detokenize", {"tokens": vllm["tokens"]})[1]
            self.assertEqual((back["prompt"], back["content"]), (text, text))
        self.fails(400, "prompt", {}, "/tokenize")
        self.fails(400, "tokens", {}, "/detokenize")
        self.fails(400, "tokens", {"tokens": [-1]}, "/detokenize")

    def test_request_ids(self):
        self.assertEqual(self.server.request("GET", "/health", headers={"X-Request-Id": "abc-1.2_3"})[2]["X-Request-Id"], "abc-1.2_3")
        for bad in "a b", "x" * 129, "a/b", "ü":
            got = self.server.request("GET", "/health", headers={"X-Request-Id": bad.encode()})[2]["X-Request-Id"]
            self.assertTrue(got.startswith("req-"), got)

    def test_many_at_once_are_answered_as_alone(self):
        prompts = [f"Chapter {i}\n" for i in range(24)]
        alone = [self.server.complete(p, max_tokens=12)["choices"][0]["text"] for p in prompts]
        together = [None] * len(prompts)

        def ask(i):
            together[i] = self.server.complete(prompts[i], max_tokens=12)["choices"][0]["text"]

        threads = [threading.Thread(target=ask, args=[i]) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(together, alone)

    def test_client_that_goes_is_forgotten(self):
        body = json.dumps({"prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True, "stream": True})
        with self.server.connect() as s:
            s.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            self.assertTrue(s.recv(100).startswith(b"HTTP/1.1 200"))
            server.await_(lambda: self.server.metric("tokenferry_num_requests_running") >= 1, "running")
        server.await_(lambda: self.server.metric("tokenferry_num_requests_running") == 0, "cancelled")


if __name__ == "__main__":
    main()
