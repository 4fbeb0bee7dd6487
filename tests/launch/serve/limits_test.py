"""Every limit crossed, every attack refused, every door locked: what hostile and broken clients get."""

import http.client
import json
import math
import signal
import socket
import time

from server import NAME, WAIT, Server, await_, read_all, resident_bytes  # first: it finds the other
from program import MODEL, TIME_SCALE, ProgramTest, main, run, slack

HEAD = b"Host: localhost\r\n"
KEY, OTHER = "a-good-key-1", "another-key-2"


def get(fields=b"", path=b"/version", host=HEAD):
    return b"GET " + path + b" HTTP/1.1\r\n" + host + fields + b"\r\n"


def post(body, fields=b"", path=b"/tokenize"):
    return b"POST " + path + b" HTTP/1.1\r\n" + HEAD + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body


CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKED_HEAD = b"POST /tokenize HTTP/1.1\r\n" + HEAD + CHUNKED + b"\r\n"
MAX_BODY_BYTES = 100000

# Heads that two readers could read differently, by their fields.
AMBIGUOUS_FIELDS = [b"Content-Length: 1\r\n" + CHUNKED, b"Content-Length: 1\r\nContent-Length: 1\r\n", b"Content-Length: 1\r\nContent-Length: 2\r\n",
                    b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: chunked, identity\r\n", b"Transfer-Encoding: identity\r\n",
                    b"Transfer-Encoding:\r\n", CHUNKED + CHUNKED, b"Host: other\r\n", b"X: a\r\n folded\r\n", b"X: a\nY: b\r\n", b"X : a\r\n",
                    b"X: \xff\r\n", b"X: a\x00b\r\n", b"X: a\rb\r\n", b"Content-Length: -1\r\n", b"Content-Length: 1 1\r\n"]
STRANGE_CHUNKS = [b"1;" + b"x" * 60000 + b"\r\na\r\n0\r\n\r\n", b"zz\r\n", b"1\na\n0\n\n", b"0\r\nX-Trailer: 1\r\n\r\n", b"-1\r\n\r\n",
                  b"fffffffffffffffffff\r\n"]
# What a client sends, and the status with which its connection is closed.
ATTACKS = [*[(400, get(fields)) for fields in AMBIGUOUS_FIELDS],
           (400, get(host=b"")),
           (400, b"GET /version HTTP/1.1\nHost: localhost\n\n"),
           (400, b"GET /version HTTP/1.0\r\n" + HEAD + CHUNKED + b"\r\n"),
           (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\n"),  # TLS
           *[(400, CHUNKED_HEAD + rest) for rest in STRANGE_CHUNKS],
           (431, get(b"X: " + b"a" * (17 << 10) + b"\r\n")),
           (431, get(b"".join(b"X-%d: 1\r\n" % i for i in range(100)))),
           (431, get(b"".join(b"X-%d: 1\r\n" % i for i in range(1500)))),
           (431, b"GET /" + b"a" * (17 << 10)),
           (413, b"POST /tokenize HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1)),
           (413, post(b"x" * 2 * MAX_BODY_BYTES)),  # sent whole before the answer is read
           (413, CHUNKED_HEAD + (b"2000\r\n" + b"x" * 0x2000 + b"\r\n") * 20)]

# Bodies of /v1/completions beyond one limit each, and the field that the answer names: the connection stays.
GOOD = {"prompt": "a", "max_tokens": 1}
BAD_BODIES = [*[(field, json.dumps({**GOOD, field: value})) for field, value in (
    ("n", 65), ("prompt", ["a"] * 65), ("stop", ["a"] * 17), ("stop", "x" * 257), ("logit_bias", {str(i): 0 for i in range(1025)}),
    ("logit_bias", {"999999": 0}), ("logprobs", 21), ("timeout", 3601), ("max_tokens", 4096), ("seed", "x"))],
    (None, "[" * 65 + "]" * 65), (None, '{"prompt": "a", "prompt": "b"}'), (None, b'{"prompt": "\xff"}'), (None, '{"prompt": "a"'),
    *[("response_format", json.dumps({**GOOD, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}})) for schema in (
        {"type": "string", "pattern": "^(a|b)*a(a|b){40}$"}, {"type": "string", "pattern": r"(a)\1"}, {"description": "x" * (64 << 10)}, json.loads('{"items":' * 33 + "{}" + "}" * 33))]]


class ServerTest(ProgramTest):
    """Tests that share a server, which has FLAGS."""
    FLAGS = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-body-bytes", MAX_BODY_BYTES, *cls.FLAGS)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0, cls.server.job.err

    def refused(self, status, data):
        got, closed = self.server.status_of(data)
        self.assertEqual((got, closed), (status, True), data[:80])

    def nothing_stays(self):
        await_(lambda: self.server.metric("tokenferry_http_connections") == 1, "connections are gone")
        self.assertEqual(self.server.complete()["choices"][0]["finish_reason"], "length")


class AttackTest(ServerTest):
    def test_attacks_are_refused(self):
        for status, data in ATTACKS:
            with self.subTest(data=data[:100]):
                self.refused(status, data)
        # The second request of a smuggler is never read.
        for fields in AMBIGUOUS_FIELDS:
            answer, _ = self.server.raw(get(fields) + get())
            self.assertEqual(answer.count(b"HTTP/1.1"), 1, answer)

    def test_what_is_just_allowed(self):
        body, last = b'{"content": "a"}', b"Connection: close\r\n"
        head = b"POST /tokenize HTTP/1.1\r\n" + HEAD + CHUNKED + last + b"\r\n"
        self.assertEqual(self.server.status_of(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)), (200, True))
        self.assertEqual(self.server.status_of(get(last + b"".join(b"X-%d: 1\r\n" % i for i in range(98)))), (200, True))

    def test_expectation(self):
        body = b'{"content": "a"}'
        with self.server.connect() as s:
            s.sendall(b"POST /tokenize HTTP/1.1\r\n" + HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
            self.assertEqual(s.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
            s.sendall(body)
            self.assertTrue(s.recv(100).startswith(b"HTTP/1.1 200"))

    def test_pipelined_requests_are_answered_in_order(self):
        paths = [b"/version", b"/nowhere", b"/v1/models", b"/version"] * 50
        with self.server.connect() as s:
            s.sendall(b"".join(get(path=p) for p in paths[:-1]) + get(b"Connection: close\r\n", path=paths[-1]))
            answer, closed = read_all(s)
        self.assertTrue(closed)
        statuses = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
        self.assertEqual(statuses, [404 if p == b"/nowhere" else 200 for p in paths])

    def test_old_version(self):
        answer, closed = self.server.raw(b"GET /version HTTP/1.0\r\n" + HEAD + b"\r\n")
        self.assertTrue(closed and answer.startswith(b"HTTP/1.1 200"))
        body = b'{"prompt": "a", "max_tokens": 3, "stream": true}'
        answer, closed = self.server.raw(b"POST /v1/completions HTTP/1.0\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.assertTrue(closed and answer.endswith(b"data: [DONE]\n\n"), answer)
        self.assertNotIn(b"chunked", answer)

    def test_names_of_other_hosts(self):
        for host, origin, status in (("evil.example", None, 403), ("127.evil.example", None, 403), ("localhost:1", None, 200),
                                     ("[::1]", None, 200), ("localhost", "http://evil.example", 403), ("localhost", "null", 403),
                                     ("localhost", "http://127.0.0.1:3000", 200)):
            headers = {"Host": host, **({"Origin": origin} if origin else {})}
            self.assertEqual(self.server.request("GET", "/version", headers=headers)[0], status, headers)
        self.assertEqual(self.server.request("OPTIONS", "/v1/completions")[0], 405)
        self.assertNotIn("Access-Control-Allow-Origin", self.server.request("GET", "/version")[2])

    def test_a_thousand_times(self):
        """Every attack: nothing of it stays, neither memory nor connections, and the next honest client is served."""
        front = self.server.front()
        size = None
        for times in 100, 1000:  # what stays after the first is what the front keeps for the next
            for status, data in ATTACKS:
                expected = b"HTTP/1.1 %d " % status
                for _ in range(times):
                    with self.server.connect() as s:
                        s.sendall(data)
                        answer, closed = read_all(s)
                        self.assertTrue(closed and answer.startswith(expected), (data[:80], answer[:80]))
            size = size or resident_bytes(front)
        if TIME_SCALE == 1:  # a sanitizer keeps what has been freed
            self.assertLess(resident_bytes(front) - size, 4 << 20)
        for _ in range(1000):  # gone in the middle of a head, a body, an answer
            for data in b"GET /vers", post(b"{}")[:-1], get():
                with self.server.connect() as s:
                    s.sendall(data)
        self.nothing_stays()

    def test_a_thousand_bad_bodies(self):
        client = http.client.HTTPConnection(self.server.host, self.server.port, timeout=WAIT)
        self.addCleanup(client.close)
        for field, body in BAD_BODIES:
            with self.subTest(field=field, body=body[:80]):
                for _ in range(1000):
                    client.request("POST", "/v1/completions", body)
                    answer = client.getresponse()
                    error = json.loads(answer.read())["error"]
                    self.assertEqual((answer.status, error["param"]), (400, field), error)
        client.close()
        self.nothing_stays()


class SlowClientTest(ServerTest):
    # So short that others, on a machine that is busy, could be taken for slow; and so could these be for idle before they begin.
    SECONDS = min(math.ceil(slack(1)), 4)  # raw() waits ten
    FLAGS = ("--header-timeout", f"{SECONDS}s", "--body-timeout", f"{SECONDS}s", "--idle-timeout", f"{2 * SECONDS}s")

    def test_slow_clients(self):
        self.refused(408, b"GET /version HTT")
        self.refused(408, b"POST /tokenize HTTP/1.1\r\n" + HEAD + b"Content-Length: 10\r\n\r\n123")
        with self.server.connect() as s:  # a byte now and then wins no time
            for byte in get():
                try:
                    s.send(bytes([byte]))
                except OSError:
                    break
                time.sleep(self.SECONDS / 10)
            answer, _ = read_all(s)
            self.assertTrue(answer.startswith(b"HTTP/1.1 408"), answer)
        self.assertEqual(self.server.raw(b""), (b"", True))  # an idle connection is closed without a word

    def test_a_thousand_slow_clients(self):
        for data in b"GET /version HTT", post(b"1234567890")[:-7]:
            clients = []
            for _ in range(1000):
                clients.append(self.server.connect())
                clients[-1].sendall(data)
            for s in clients:
                with s:
                    answer, closed = read_all(s)
                    self.assertTrue(closed and answer.startswith(b"HTTP/1.1 408 "), answer[:80])
        self.nothing_stays()


class LimitTest(ProgramTest):
    def test_connections(self):
        with Server("--max-connections", "5") as server:
            open_ones = [server.connect() for _ in range(5)]
            await_(lambda: server.status_of(get())[0] == 503, "a connection too many")
            for _ in range(1000):
                self.assertEqual(server.status_of(get()), (503, True))
            for s in open_ones:
                s.close()
            await_(lambda: server.status_of(get(b"Connection: close\r\n"))[0] == 200, "room again")
            self.assertEqual(server.stop(), 0)

    def test_waiting_requests(self):
        with Server("--max-waiting", "2", "--max-num-seqs", "1") as server:
            body = json.dumps({"prompt": "a", "max_tokens": 3000, "ignore_eos": True, "stream": True}).encode()
            clients = []
            self.addCleanup(lambda: [client.close() for client in clients])
            server.job.process.send_signal(signal.SIGSTOP)  # the rank: they wait as long as it takes
            for _ in range(4):  # two are with the ranks, two wait
                clients.append(server.connect())
                clients[-1].sendall(post(body, path=b"/v1/completions"))
            await_(lambda: server.metric("tokenferry_num_requests_waiting") == 2, "two wait")
            status, answer, headers = server.request("POST", "/v1/completions", {"prompt": "a"})
            self.assertEqual((status, answer["error"]["code"], headers["Retry-After"]), (429, "queue_full", "1"))
            status, answer, _ = server.request("POST", "/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1})
            self.assertEqual((status, answer["type"], answer["error"]["type"]), (429, "error", "rate_limit_error"))
            refused = http.client.HTTPConnection(server.host, server.port, timeout=WAIT)
            clients.append(refused)
            for _ in range(1000):
                refused.request("POST", "/v1/completions", '{"prompt": "a"}')
                answer = refused.getresponse()
                self.assertEqual((answer.status, json.loads(answer.read())["error"]["code"]), (429, "queue_full"))
            server.job.process.send_signal(signal.SIGCONT)
            for client in clients:
                client.close()
            await_(lambda: server.post("/v1/completions", {"prompt": "a"})[0] == 200, "room again")
            self.assertEqual(server.stop(), 0)

    def test_requests_by_flag(self):
        with Server("--max-sequences", "2", "--max-stop-strings", "1", "--max-stop-bytes", "3", "--max-logit-bias", "1",
                    "--max-top-logprobs", "1", "--max-json-depth", "3", "--request-timeout", "100s", "--max-model-len", "64") as server:
            for field, good, bad in (("n", 2, 3), ("prompt", ["a", "b"], ["a", "b", "c"]), ("stop", ["abc"], ["a", "b"]), ("stop", "abc", "abcd"),
                                     ("logit_bias", {"1": 1}, {"1": 1, "2": 1}), ("logprobs", 1, 2), ("timeout", 100, 101), ("max_tokens", 60, 64)):
                body = {"prompt": "a", "max_tokens": 1}
                self.assertEqual(server.post("/v1/completions", {**body, field: good})[0], 200, field)
                status, answer = server.post("/v1/completions", {**body, field: bad})
                self.assertEqual((status, answer["error"]["param"]), (400, field), answer)
            self.assertEqual(server.post("/v1/completions", {"prompt": "a", "x": [[1]]})[0], 200)
            self.assertEqual(server.post("/v1/completions", {"prompt": "a", "x": [[[1]]]})[0], 400)
            self.assertEqual(server.get("/v1/models")[1]["data"][0]["max_model_len"], 64)
            self.assertEqual(server.stop(), 0)

    def test_time_of_a_request(self):
        with Server() as server:
            body = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "timeout": 0.2}
            status, answer = server.post("/v1/completions", body)
            self.assertEqual((status, answer["error"]["code"]), (504, "timeout"))
            got = list(server.stream("/v1/completions", body))
            self.assertEqual((got[-2]["error"]["code"], got[-1]), ("timeout", "[DONE]"))
            for _ in range(5):
                clients = [server.connect() for _ in range(200)]
                for client in clients:
                    client.sendall(post(json.dumps(body).encode(), b"Connection: close\r\n", b"/v1/completions"))
                for client in clients:
                    with client:
                        answer, closed = read_all(client)
                        self.assertTrue(closed and answer.startswith(b"HTTP/1.1 504 "), answer[:80])
            await_(lambda: server.metric("tokenferry_num_requests_running") == 0, "cancelled")
            self.assertEqual(server.stop(), 0)

    def test_unread_output(self):
        """A client that does not read is cut, and its sequence ended, by bytes and by time."""
        for flags in ("--max-unread-bytes", "65536"), ("--write-timeout", "1s"):
            with self.subTest(flags=flags), Server(*flags) as server:
                body = json.dumps({"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "stream": True, "logprobs": 20, "n": 8}).encode()
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    s.settimeout(WAIT)
                    s.connect((server.host, server.port))
                    s.sendall(post(body, path=b"/v1/completions"))
                    await_(lambda: server.metric("tokenferry_requests_total") == 1, "cut")
                    self.assertNotIn(b"[DONE]", read_all(s)[0])
                self.assertIn('outcome="abort"', server.get("/metrics")[1])
                self.assertEqual(server.metric("tokenferry_num_requests_running"), 0)
                self.assertEqual(server.stop(), 0)


class KeyTest(ProgramTest):
    def test_every_route(self):
        keys = self.write("keys", f"# for tests\n{KEY}\n\n{OTHER}\n")
        with Server("--api-key-file", keys, ready=False) as server:
            await_(lambda: server.get("/ready")[0] == 200, "ready")
            # Out of the router's table, so that a route that is new is asked for too.
            paths = server.request("GET", "/openapi.json", None, {"x-api-key": KEY})[1]["paths"]
            routes = {(method.upper(), path.replace("{id}", NAME)) for path, methods in paths.items() for method in methods}
            without_key = {("GET", "/health"), ("GET", "/ready"), ("GET", "/dashboard")}
            self.assertLess(without_key, routes)
            for method, path in without_key:
                self.assertEqual(server.request(method, path)[0], 200, path)
            for method, path in sorted(routes - without_key) + [("GET", "/nowhere"), ("PUT", "/health")]:
                for headers in ({}, {"Authorization": "Bearer wrong-key"}, {"Authorization": f"Basic {KEY}"}, {"x-api-key": KEY[:-1]},
                                {"x-api-key": KEY + "x"}):
                    status, body, _ = server.request(method, path, None if method == "GET" else {}, headers)
                    self.assertEqual((status, body["error"]["type"]), (401, "authentication_error"), (method, path, headers))
            for headers in {"Authorization": f"Bearer {KEY}"}, {"x-api-key": OTHER}, {"Authorization": f"Bearer {KEY}", "Host": "any.example"}:
                self.assertEqual(server.request("GET", "/version", None, headers)[0], 200, headers)
            self.assertEqual(server.request("POST", "/admin/drain", {}, {"x-api-key": KEY})[0], 200)
            self.assertEqual(server.job.wait().status, 0, server.job.err)

    def test_command_line(self):
        good, empty, short = self.write("good", KEY), self.write("empty", "# none\n"), self.write("short", "secret\n")
        for flags, words in ((["--host", "0.0.0.0"], "--api-key-file"), (["--host", "nohost"], "--insecure"), (["--host", "nohost", "--insecure"], "not an IP address"),
                             (["--api-key-file", empty], "has no key"), (["--api-key-file", short], "line 1"), (["--api-key-file", "/nowhere"], "cannot be read"),
                             (["--max-model-len", "100000"], "more than the model's context"), (["--model", "/nowhere"], "nowhere")):
            flags = flags if "--model" in flags else ["--model", MODEL, *flags]
            done = run("serve", "--port", "0", *flags)
            self.assertNotEqual(done.status, 0, flags)
            self.assertEqual(len(done.errors), 1, done.err)
            self.assertIn(words, done.errors[0])
            self.assertNotIn("secret", done.err)
        with Server("--api-key-file", good, "--host", "0.0.0.0", ready=False) as server:
            taken = run("serve", "--model", MODEL, "--port", server.port, "--host", "0.0.0.0", "--insecure")
            self.assertEqual((taken.status, len(taken.errors)), (2, 1), taken.err)
            self.assertIn(f"cannot listen on 0.0.0.0 port {server.port}", taken.errors[0])
            self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
