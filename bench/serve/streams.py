"""Many streams at once from one thread, as lean as Python allows: the client shares the processors with what it measures."""

import json
import os
import selectors
import socket
import time

CONNECT_WAIT = 60  # seconds for a connection, and for its request to be taken


class Stream:
    """A request of /v1/completions as HTTP/1.0: its answer is the events alone, without chunks, until the server closes."""

    def __init__(self, port, body, key=None):
        data = json.dumps({"prompt": "In the beginning", "ignore_eos": True, "temperature": 0, "stream": True, **body}).encode()
        head = f"POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        if key:
            head += f"Authorization: Bearer {key}\r\n"
        self.begun = time.monotonic()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=CONNECT_WAIT)
        self.socket.sendall(head.encode() + b"\r\n" + data)
        self.socket.setblocking(False)
        self.rest = b""
        self.times = []  # of events that are tokens: one, or those that came together
        self.events = []
        self.status = self.ended = None
        self.done = self.failed = False

    def fileno(self):
        return self.socket.fileno()

    def read(self):
        """Whether there may be more."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        now = time.monotonic()
        if not data:
            self.ended = now
            self.failed |= not self.done
            self.close()
            return False
        self.rest += data
        if self.status is None:
            head, end, body = self.rest.partition(b"\r\n\r\n")
            if not end:
                return True
            self.status, self.rest = int(head.split()[1]), body
        *events, self.rest = self.rest.split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {"):
                self.failed |= event.startswith(b'data: {"error"')
                self.times.append(now)
                self.events.append(event)
            self.done |= event == b"data: [DONE]"
        return True

    def close(self):
        self.socket.close()

    def text(self):
        return "".join(json.loads(event[6:])["choices"][0]["text"] for event in self.events)

    def first(self):
        return self.times[0] - self.begun


class Crowd:
    """Streams that are read together."""

    def __init__(self):
        self.selector, self.open = selectors.DefaultSelector(), set()

    def add(self, stream):
        self.selector.register(stream, selectors.EVENT_READ, stream)
        self.open.add(stream)
        return stream

    def drop(self, stream):
        """Its client goes."""
        self.selector.unregister(stream)
        self.open.discard(stream)
        stream.close()

    def read_until(self, condition, limit=600):
        end = time.monotonic() + limit
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError("the streams do not come to an end")
            for key, _ in self.selector.select(0.1):
                fd = key.fd
                if not key.data.read():
                    self.selector.unregister(fd)
                    self.open.discard(key.data)

    def read_all(self, limit=600):
        self.read_until(lambda: not self.open, limit)


def percentile(values, p):
    """The nearest rank."""
    values = sorted(values)
    return values[max(0, min(len(values) - 1, -(-len(values) * p // 100) - 1))]


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def num_sockets(pid):
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            count += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
        except OSError:
            pass  # closed meanwhile
    return count
