"""Clients that behave badly, all at once, for a while: half requests, slow and absent readers, clients that go, floods."""

import json
import random
import socket
import threading
import time

from streams import Stream

WAIT = 10  # seconds for a connection, and for bytes of a slow reader


def _raw(port, data, then=0.0):
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as s:
        s.sendall(data)
        time.sleep(then)


def half_head(port, rng):
    _raw(port, b"POST /v1/completions HTTP/1.1\r\nHost: local"[: rng.randrange(1, 44)], rng.random())


def half_body(port, rng):
    _raw(port, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{\"prompt\": \"", rng.random())


def nonsense(port, rng):
    _raw(port, rng.randbytes(rng.randrange(1, 4000)))


def bad_json(port, rng):
    body = json.dumps({"prompt": "a", "max_tokens": rng.choice([-1, "x", 2**70]), "n": rng.choice([0, 1, 1000])}).encode()
    _raw(port, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body, 0.05)


def goes(port, rng):
    stream = Stream(port, {"max_tokens": rng.randrange(100, 1000), "n": rng.randrange(1, 4), "seed": rng.randrange(1000), "temperature": 1})
    time.sleep(rng.random())
    stream.close()


def does_not_read(port, rng):
    stream = Stream(port, {"max_tokens": 2000, "n": 4, "logprobs": 5})
    time.sleep(rng.uniform(1, 4))
    stream.close()


def reads_slowly(port, rng):
    stream = Stream(port, {"max_tokens": 300, "logprobs": 5})
    stream.socket.settimeout(WAIT)
    for _ in range(40):
        if not stream.socket.recv(512):
            break
        time.sleep(0.05)
    stream.close()


def flood(port, rng):
    streams = [Stream(port, {"max_tokens": 5}) for _ in range(40)]
    time.sleep(0.2)
    for stream in streams:
        stream.close()


KINDS = [half_head, half_body, nonsense, bad_json, goes, goes, goes, does_not_read, reads_slowly, flood]


class Abuse:
    """`num_threads` clients of all kinds while it is entered; a reset by the server is what they have to expect. What else they
    meet is in `unexpected`, and a thread goes on after it."""

    def __init__(self, port, seed, num_threads=8):
        self.port, self.stopping, self.counts = port, threading.Event(), {kind.__name__: 0 for kind in KINDS}
        self.unexpected = []
        self.threads = [threading.Thread(target=self._run, args=(random.Random(seed + i),)) for i in range(num_threads)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def _run(self, rng):
        while not self.stopping.is_set():
            kind = rng.choice(KINDS)
            try:
                kind(self.port, rng)
            except (ConnectionResetError, BrokenPipeError, TimeoutError):
                pass
            except Exception as e:  # no server any more, for instance
                self.unexpected.append(f"{kind.__name__}: {e!r}")
                time.sleep(0.1)
            self.counts[kind.__name__] += 1
