"""bench serve: against serve, whose answers it counts, and against a server whose answers are wrong in every way: each
is a failure, and is told."""

import http.server
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree

from server import NAME, Server, await_  # first: it finds the next
from program import MODEL, PROGRAM, ROOT, ProgramTest, main, run

TEXT = "one two three four"
WAIT = 0.1  # seconds between two tokens of a slow answer


def event(**fields):
    return f"data: {json.dumps(fields)}\n\n".encode()


def tokens(*texts):
    return [event(choices=[{"index": 0, "text": text, "finish_reason": None}]) for text in texts]


USAGE = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 4})
DONE = b"data: [DONE]\n\n"
GOOD = [b": a comment\n\n", *tokens("one", " two", " three", " four"), USAGE, DONE]


def chat(delta, finish=None):
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


# By the model's name, the pieces of an answer; and how it ends: None is the end of the chunked body, as it should be.
STREAMS = {
    "good": (GOOD, None),
    # As other servers write: CR LF, several lines of data, a byte at a time, no usage.
    "crlf": ([bytes([b]) for b in b"".join(GOOD).replace(b"\n", b"\r\n")], None),
    "lines": ([b"event: x\ndata: {\ndata:   \"choices\": [{\"text\":\ndata: \"one\", \"finish_reason\": null}]}\n\n", DONE], None),
    "slow": (tokens("one", " two", " three", " four") + [DONE], None),
    "cut": (GOOD[:3], "cut"),
    "reset": (GOOD[:3], "reset"),
    "no-done": (GOOD[:-1], None),
    "only-done": ([DONE], None),
    "error": (GOOD[:3] + [event(error={"message": "no luck\ntoday", "code": 500}), DONE], None),
    "no-json": (GOOD[:3] + [b"data: {\"choices\": [\n\n", DONE], None),
    "twice": (GOOD + [GOOD[1]], None),
    "silent": (GOOD[:3], "silent"),
}
CHAT = [chat({"role": "assistant", "content": ""}), chat({"reasoning_content": "hm"}), chat({"content": "so"}),
        chat({"tool_calls": [{"index": 0}]}), chat({}, "stop"), DONE]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, content_type="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.seen.append(dict(self.headers))
        self.answer(200, json.dumps({"data": [{"id": self.server.first_model}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((time.monotonic(), self.path, body))
        if self.path == "/v1/chat/completions":
            return self.stream(CHAT, None)
        model = body["model"]
        if model == "status":
            return self.answer(503, json.dumps({"error": {"message": "not now"}}).encode())
        if model == "page":
            return self.answer(200, b"<p>hello</p>", "text/html")
        self.stream(*STREAMS[model], wait=WAIT if model == "slow" else 0)

    def stream(self, pieces, end, wait=0.0):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
            time.sleep(wait)
        if end is None:
            self.wfile.write(b"0\r\n\r\n")
        elif end == "silent":
            self.server.over.wait(60)
        elif end == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close_connection = True


class FakeServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.requests, self.seen, self.first_model, self.over = threading.Lock(), [], [], "good", threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client may go at once
            super().handle_error(*_)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.shutdown()
        self.server_close()


class BenchTest(ProgramTest):
    def bench(self, port, *flags, status=0, **more):
        """The report, and what was printed."""
        done = run("bench", "serve", "--base-url", f"http://127.0.0.1:{port}/v1/", "--json", self.path("r.json"), *flags, **more)
        self.assertEqual(done.status, status, f"{flags}\n{done.text()}\n{done.err}")
        with open(self.path("r.json")) as f:
            return json.load(f), done

    def test_of_serve(self):
        with Server() as server:
            report, done = self.bench(server.port, "--num-prompts", 30, "--output-len", 20, "--input-len", 40, "--ignore-eos",
                                      "--max-concurrency", 8, "--tokenizer", MODEL, "--goodput", "ttft:60000,e2el:60000",
                                      "--plot", self.path("p.svg"), "--percentiles", "50,99")
            self.assertEqual((report["completed"], report["failed"], report["num_prompts"]), (30, 0, 30))
            self.assertEqual(report["output_lens"], [20] * 30)
            self.assertEqual(report["total_output_tokens"], 600)
            for n in report["input_lens"]:  # cut at 40 tokens; text is split anew
                self.assertTrue(30 <= n <= 50, report["input_lens"])
            self.assertEqual(report["model_id"], NAME)
            self.assertEqual((report["request_rate"], report["max_concurrency"]), ("inf", 8))
            self.assertLessEqual(report["max_concurrent_requests"], 8)
            self.assertAlmostEqual(report["request_throughput"] * report["duration"], 30)
            self.assertAlmostEqual(report["output_throughput"] * report["duration"], 600)
            self.assertAlmostEqual(report["request_goodput"], report["request_throughput"])
            for name in "ttft", "tpot", "itl", "e2el":
                values = [report[f"{kind}_{name}_ms"] for kind in ("mean", "median", "std", "p50", "p99")]
                self.assertEqual(values[1], values[3])
                self.assertTrue(0 < values[3] <= values[4] and values[2] >= 0, (name, values))
            self.assertEqual(len(set(report["generated_texts"])), 30)
            self.assertRegex(done.text(), r"(?m)^requests +30 completed, 0 failed")
            self.assertEqual(server.metric("tokenferry_generation_tokens_total"), 31 * 20)  # one to warm up
            svg = xml.etree.ElementTree.parse(self.path("p.svg")).getroot()
            self.assertEqual(len(svg.findall("{*}path")), 4)

            report, _ = self.bench(server.port, "--api", "chat", "--num-prompts", 5, "--output-len", 10, "--ignore-eos", "--seed", 3)
            self.assertEqual((report["completed"], report["output_lens"]), (5, [10] * 5))
            report, _ = self.bench(server.port, "--prompts", "shared-prefix", "--prefix-len", 150, "--num-prefixes", 2, "--num-prompts",
                                   8, "--input-len", 5, "--output-len", 3, "--request-rate", 50, "--arrivals", "fixed")
            self.assertEqual(report["completed"], 8)
            await_(lambda: server.metric("tokenferry_prefix_cache_hits_total") > 64, "a report of the ranks")
            # Its refusals are failures.
            report, done = self.bench(server.port, "--num-warmups", 0, "--num-prompts", 3, "--model", "another", status=1)
            self.assertEqual((report["completed"], report["failed"]), (0, 3))
            self.assertRegex(done.errors[0], "3 of 3 requests failed: HTTP 404 .*another")
            self.assertEqual(server.stop(), 0)

    def test_hostile_answers_are_failures(self):
        words = {"cut": "partial message|end of stream", "reset": "reset|partial message", "no-done": r"without \[DONE\], after 5 events",
                 "only-done": "no token", "error": "event 3 is an error: no luck today", "no-json": "event 3", "twice": r"behind \[DONE\]",
                 "silent": "timeout|timed out", "status": "HTTP 503 application/json: not now", "page": "HTTP 200 text/html: <p>hello"}
        with FakeServer() as server:
            for model, word in words.items():
                with self.subTest(model=model):
                    flags = ["--timeout", "1s"] if model == "silent" else []
                    report, done = self.bench(server.server_port, "--model", model, "--num-warmups", 0, "--num-prompts", 3, *flags, status=1)
                    self.assertEqual((report["completed"], report["failed"]), (0, 3))
                    self.assertEqual(len(done.errors), 1)
                    self.assertRegex(done.errors[0], word)
                    self.assertRegex(report["errors"][2], word)
                    self.assertEqual(report["request_throughput"], 0)
            # Nothing is measured on a server that cannot answer the first request.
            done = run("bench", "serve", "--base-url", f"http://127.0.0.1:{server.server_port}", "--model", "error", "--json", self.path("none"))
            self.assertEqual((done.status, done.text()), (1, ""))
            self.assertRegex(done.errors[0], "warming up: .* is an error")
            self.assertFalse(os.path.exists(self.path("none")))

    def test_good_answers_of_others(self):
        with FakeServer() as server:
            for model, texts, output in ("good", TEXT, 4), ("crlf", TEXT, 4), ("lines", "one", 1):
                with self.subTest(model=model):
                    report, _ = self.bench(server.server_port, "--model", model, "--num-prompts", 2, "--input-len", 9)
                    self.assertEqual((report["completed"], report["generated_texts"]), (2, [texts] * 2))
                    self.assertEqual((report["output_lens"], report["input_lens"]), ([output] * 2, [9 if model == "lines" else 7] * 2))
            report, _ = self.bench(server.server_port, "--model", "slow", "--num-prompts", 3)
            # The last token comes no sooner than it is sent; the first one may come as late. serve_load_test.cc has given times.
            for ttft, itl in zip(report["ttfts"], report["itls"], strict=True):
                self.assertEqual(len(itl), 3)
                self.assertGreaterEqual(ttft + sum(itl), 3 * WAIT)
            self.assertAlmostEqual(report["mean_ttft_ms"] + 3 * report["mean_tpot_ms"], report["mean_e2el_ms"])
            self.assertEqual(report["max_concurrent_requests"], 3)
            report, _ = self.bench(server.server_port, "--api", "chat", "--num-prompts", 1)
            self.assertEqual((report["output_lens"], len(report["itls"][0]), report["generated_texts"]), ([3], 2, ["so"]))

    def test_what_is_sent(self):
        turns = [{"from": "human", "value": "what is it that you say"}, {"from": "gpt", "value": "it is what it is"}]
        data = [{"conversations": turns}, {"conversations": turns[:1]}, {"id": "empty"}]
        self.write("share.json", json.dumps(data))
        self.write("key", "# mine\nsecret-key-1\n")
        with FakeServer() as server:
            def bodies(*flags):
                del server.requests[:]
                self.bench(server.server_port, "--num-warmups", 0, *flags)
                return [(path, body) for _, path, body in server.requests]
            (path, body), = bodies("--prompts", "sharegpt", "--dataset", self.path("share.json"), "--num-prompts", 1, "--api-key-file", self.path("key"))
            self.assertEqual(path, "/v1/completions")
            self.assertEqual((body["prompt"], body["max_tokens"], body["model"]), ("what is it that you say", 5, "good"))
            self.assertEqual((body["stream"], body["stream_options"], "ignore_eos" in body), (True, {"include_usage": True}, False))
            self.assertEqual(server.seen[-1]["Authorization"], "Bearer secret-key-1")
            (path, body), = bodies("--api", "chat", "--num-prompts", 1, "--input-len", 3, "--ignore-eos", "--temperature", 0.5)
            self.assertEqual(path, "/v1/chat/completions")
            self.assertEqual(len(body["messages"][0]["content"].split()), 3)
            self.assertEqual((body["temperature"], body["ignore_eos"]), (0.5, True))
            same = ["--num-prompts", 20, "--input-len", 10, "--output-len", 10, "--range-ratio", 0.5, "--max-concurrency", 1]
            first = [body for _, body in bodies(*same)]
            self.assertEqual(first, [body for _, body in bodies(*same)])
            self.assertNotEqual(first, [body for _, body in bodies(*same, "--seed", 1)])
            lengths = {len(body["prompt"].split()) for body in first}
            self.assertTrue(lengths <= set(range(5, 16)) and len(lengths) > 3, lengths)
            # No request is sent before its time.
            del server.requests[:]
            report, _ = self.bench(server.server_port, "--num-prompts", 5, "--request-rate", 20, "--arrivals", "fixed")
            for i, start in enumerate(report["start_times"]):
                self.assertGreaterEqual(start, i / 20 - 1e-3)

    def test_more_connections_than_the_usual_limit_of_files(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, hard))  # of what is started from here on
        with Server() as server:
            report, _ = self.bench(server.port, "--num-prompts", 200, "--input-len", 4, "--output-len", 20)
            self.assertEqual(report["completed"], 200)
            self.assertGreater(report["max_concurrent_requests"], 80)  # or nothing was shown
            self.assertEqual(server.stop(), 0)

    def test_mistakes(self):
        for flags, words in ((["--base-url", "https://x"], "does not speak"), (["--base-url", "x:1"], "does not begin with http://"),
                             (["--base-url", "http://:1"], "no host"), (["--base-url", "http://x:99999"], "no port"),
                             (["--goodput", "itl:5"], "ttft, tpot or e2el"), (["--prompts", "sharegpt"], "--dataset"),
                             (["--arrivals", "fixed"], "--request-rate"),
                             (["--dataset", "f"], "--prompts random does not use --dataset; it is a flag of --prompts sharegpt"),
                             (["--prefix-len", "5"], "--prompts random does not use --prefix-len; it is a flag of --prompts shared-prefix"),
                             (["--num-prefixes", "2"], "does not use --num-prefixes"),
                             (["--prompts", "shared-prefix", "--range-ratio", "0.5"], "does not use --range-ratio; it is a flag of --prompts random"),
                             (["--prompts", "sharegpt", "--dataset", "f", "--range-ratio", "0.5"], "does not use --range-ratio"),
                             (["--prompts", "sharegpt", "--dataset", "f", "--input-len", "5"],
                              "does not use --input-len; it is a flag of --prompts random and --prompts shared-prefix")):
            done = run("bench", "serve", *flags)
            self.assertEqual((done.status, len(done.errors)), (2, 1), done.err)
            self.assertIn(words, done.errors[0])
        done = run("bench", "serve", "--base-url", "http://127.0.0.1:1")
        self.assertEqual((done.status, len(done.errors)), (1, 1), done.err)
        self.assertIn("connecting to 127.0.0.1 port 1: Connection refused", done.errors[0])
        self.write("bad.json", json.dumps([{"conversations": []}]))
        done = run("bench", "serve", "--prompts", "sharegpt", "--dataset", self.path("bad.json"))
        self.assertIn("none of its 1 conversations", done.errors[0])
        done = run("bench", "serve", ranks=2, via="mpi")
        self.assertNotEqual(done.status, 0)
        self.assertIn("one client process", done.errors[0])


class MeasureTest(ProgramTest):
    def test_the_quickest_measurements(self):
        """bench/serve/measure.py, with a minute of clients that behave badly; it asserts itself that a canary keeps its bytes."""
        report = self.path("report.json")
        words = [sys.executable, os.path.join(ROOT, "bench", "serve", "measure.py"), PROGRAM, "--only", "prefix", "abuse", "--minutes", "1", "--json", report]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        with open(report) as f:
            got = json.load(f)
        self.assertEqual(list(got), ["benchmark", "machine", "model", "prefix", "abuse", "targets"])
        self.assertEqual([row["unit"] for row in got["targets"]], ["times sooner"] + ["MiB"] * 4)
        for row in got["targets"]:
            self.assertIn(f"{row['what']}: {row['measured']} {row['unit']} (target: {row['target']})", done.stdout)
        self.assertGreater(min(got["prefix"]["cold_ms"], got["prefix"]["warm_ms"]), 0)
        self.assertGreater(got["abuse"]["canaries"], 0)
        self.assertGreater(sum(got["abuse"]["clients"].values()), 0)
        self.assertEqual(list(got["abuse"]["mib_at_the_end"]), ["front", "rank 0", "rank 1", "rank 2"])


if __name__ == "__main__":
    main()
