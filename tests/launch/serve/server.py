"""A running `tokenferry serve`, and clients that send what they are told to, for the tests of this folder."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "commands"))

from program import MODEL, PROGRAM, Job, processes_of, send, slack  # noqa: E402

NAME = os.path.basename(MODEL)
IDLE_WAIT = 60  # seconds for anything to happen on an idle machine: far more than it takes
WAIT = slack(IDLE_WAIT)  # the same on this one
RAW_WAIT = slack(10)  # seconds for the end of an answer to raw bytes


def await_(condition, what):
    """Polls `condition` until it holds; its value."""
    limit = max(WAIT, slack(IDLE_WAIT))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {limit} s: {what}")


class Server:
    """`tokenferry serve` on a free port; ready when constructed."""

    def __init__(self, *flags, ranks=1, via="local", model=MODEL, ready=True, launch=(), **more):
        self.job = Job([*launch, "serve", "--model", model, "--port", "0", *flags], ranks, via, **more)
        self.host = "127.0.0.1"
        try:
            self.port = int(await_(lambda: self._said(r"listening on http://[^ ]*:(\d+) "), "listening"))
            if ready:
                await_(lambda: self.get("/ready")[0] == 200, "ready")
        except BaseException as e:  # nobody else can end it: the caller does not have it
            self.end()
            e.add_note(self.job.err)
            raise

    def _said(self, pattern):
        found = re.search(pattern, self.job.err)
        if not found and self.job.process.poll() is not None:
            raise AssertionError(f"serve has ended with {self.job.process.poll()}:\n{self.job.err}")
        return found and found[1]

    def connect(self, timeout=WAIT):
        return socket.create_connection((self.host, self.port), timeout=timeout)

    def request(self, method, path, body=None, headers=None, limit=WAIT):
        """Status, body as JSON where it is some, and the answer's headers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=limit)
        try:
            data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
            connection.request(method, path, data, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            is_json = answer.getheader("Content-Type", "").startswith("application/json")
            return answer.status, json.loads(content) if is_json else content.decode(), dict(answer.getheaders())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.request("GET", path, None, headers)[:2]

    def post(self, path, body, headers=None, limit=WAIT):
        return self.request("POST", path, body, headers, limit)[:2]

    def complete(self, prompt="In the beginning", **fields):
        status, body = self.post("/v1/completions", {"prompt": prompt, "temperature": 0, "max_tokens": 8, **fields})
        assert status == 200, (status, body)
        return body

    def stream(self, path, body):
        """The events of a stream, each as JSON but "[DONE]"; comments are passed over."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=WAIT)
        try:
            connection.request("POST", path, json.dumps({**body, "stream": True}))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            assert answer.getheader("Content-Type").startswith("text/event-stream")
            yield from events(answer)
        finally:
            connection.close()

    def raw(self, data, limit=RAW_WAIT):
        """What comes back for these bytes until the server closes or `limit` seconds have passed."""
        with self.connect(limit) as s:
            s.sendall(data)
            return read_all(s)

    def status_of(self, data, limit=RAW_WAIT):
        """The status of the answer to raw bytes, and whether the server has closed the connection after it."""
        answer, closed = self.raw(data, limit)
        found = re.match(rb"HTTP/1\.1 (\d+) ", answer)
        assert found, answer[:200]
        return int(found[1]), closed

    def front(self):
        """The process of the front: in a session of its own."""
        pids = [pid for pid in processes_of(PROGRAM) if os.getsid(pid) == pid and listens(pid, self.port)]
        assert len(pids) == 1, pids
        return pids[0]

    def metric(self, name):
        """The sum over the labels of a metric."""
        text = self.get("/metrics")[1]
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M)
        return sum(map(float, values)) if values else None

    def stop(self):
        """Drains it; its exit status."""
        if self.job.process.poll() is None:
            send(signal.SIGTERM, self.front())
        return self.job.wait().status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Ends it whatever it does, if it has not ended."""
        if self.job.process.poll() is None:
            self.job.process.terminate()
            try:
                self.job.process.wait(slack(10))
            except subprocess.TimeoutExpired:
                self.job.process.kill()
        self.job.wait()


def listens(pid, port):
    """Whether the process listens on the port."""
    inodes = set()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # a connection that has just been closed
                inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    except OSError:
        return False  # the process has ended
    with open("/proc/net/tcp") as f:
        listening = {f"socket:[{line.split()[9]}]" for line in f.readlines()[1:]
                     if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"}
    return bool(inodes & listening)


def events(answer):
    for line in answer:
        line = line.decode().rstrip("\n")
        if line.startswith("data: "):
            data = line[len("data: "):]
            yield data if data == "[DONE]" else json.loads(data)


def read_all(s):
    """Everything until the end or the socket's time limit, and whether the end has come."""
    data = b""
    try:
        while chunk := s.recv(65536):
            data += chunk
        return data, True
    except TimeoutError:
        return data, False
    except ConnectionResetError:
        return data, True


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
