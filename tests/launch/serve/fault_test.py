"""What clients get when something dies: every request is answered exactly once, and nothing is left behind."""

import contextlib
import json
import os
import re
import signal
import threading
import time

import server as serving  # first: it finds the next
from program import PROGRAM, ProgramTest, deadline, main, processes_of, send, slack
from server import Server, await_, read_all

RANKS = 3
BODY = {"prompt": "In the beginning", "max_tokens": 4000, "ignore_eos": True, "temperature": 0}
MOST_SECONDS = 20  # to the last answer on an idle machine, beyond the deadline


class Clients:
    """Requests that are under way, streamed and not; how each has ended."""

    def __init__(self, server, count):
        self.server, self.answers = server, [None] * count
        self.begun = [threading.Event() for _ in range(count)]
        self.threads = [threading.Thread(target=self._ask, args=[i]) for i in range(count)]
        for thread in self.threads:
            thread.start()
        for begun in self.begun:
            assert begun.wait(serving.WAIT)
        # Nothing comes of a request that is not streamed until it has ended: the server says whether it has been read.
        await_(lambda: server.metric("tokenferry_num_requests_running") == count, "all run")

    def _ask(self, i):
        stream = i % 2 == 0
        body = json.dumps({**BODY, "stream": stream}).encode()
        with self.server.connect() as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            first = s.recv(1000) if stream else b""
            self.begun[i].set()
            rest, closed = read_all(s)
            self.answers[i] = (first + rest).decode() if closed else None

    def join(self, deadline_s=0):
        for thread in self.threads:
            thread.join(deadline_s + slack(MOST_SECONDS))
            assert not thread.is_alive(), "a client waits for ever"
        return self.answers


def mapped_shared_files(pid):
    """Files of shared memory that still have a name."""
    with open(f"/proc/{pid}/maps") as f:
        paths = {line.split(None, 5)[5].rstrip("\n") for line in f if "/dev/shm/" in line}
    return {path for path in paths if not path.endswith(" (deleted)")}


def streamed_text(answer):
    return "".join(json.loads(event)["choices"][0]["text"] for event in re.findall(rb"^data: (\{.*)$", answer, re.M))


class FaultTest(ProgramTest):
    def start(self, *flags, ranks=RANKS, via="mpi"):
        server = Server(*flags, ranks=ranks, via=via, env={"TMPDIR": self.dir})
        self.shared_files = {path for pid in processes_of(PROGRAM) for path in mapped_shared_files(pid)}
        return server

    def check_answers(self, answers, code):
        """One error each: a status of its own, or the last event of the stream before [DONE]."""
        for i, answer in enumerate(answers):
            self.assertIsNotNone(answer, "the connection was left open")
            self.assertEqual(answer.count("HTTP/1.1 "), 1, answer[-500:])
            if i % 2 == 0:
                self.assertTrue(answer.startswith("HTTP/1.1 200"), answer[:100])
                self.assertEqual(answer.count("data: [DONE]"), 1, answer[-500:])
                self.assertEqual(answer.count('data: {"error"'), 1, answer[-500:])
                error = json.loads(answer[answer.index('data: {"error"') + 6:].split("\n")[0])
            else:
                self.assertTrue(answer.startswith("HTTP/1.1 503"), answer[:100])
                error = json.loads(answer[answer.index("\r\n\r\n") + 4:])
            self.assertEqual(error["error"]["code"], code, error)

    def nothing_is_left(self, server):
        await_(lambda: not processes_of(PROGRAM), f"processes remain: {processes_of(PROGRAM)}")
        with self.assertRaises(ConnectionRefusedError):
            server.connect()
        left = [os.path.join(d, f) for d, _, files in os.walk(self.dir) for f in files]
        self.assertEqual(left + list(filter(os.path.exists, self.shared_files)), [])

    def lose(self, server, pid, how, code, deadline_s=0):
        waiting = Clients(server, 4)
        start = time.monotonic()
        self.assertTrue(send(how, pid), server.job.err)
        answers = waiting.join(deadline_s)
        print(f"{how!r} answered after {time.monotonic() - start:.2f} s", flush=True)
        self.check_answers(answers, code)
        server.job.wait()
        self.assertNotEqual(server.job.status, 0)
        self.nothing_is_left(server)

    def test_the_front_is_no_rank(self):
        """It has nothing of what mpirun gives to ranks, so that it outlives them; and they have nothing of its clients."""

        def environment(pid):
            with open(f"/proc/{pid}/environ") as f:
                return f.read()

        with self.start() as server:
            front, ranks = server.front(), server.job.ranks()  # the front leads a session
            self.assertEqual({os.getsid(pid) == front for pid in ranks.values()}, {False})
            mpi_variable = re.compile(r"(?:^|\0)(?:OMPI_|PMIX_|PMI_|PRTE_|ORTE_|OPAL_)[^=]*")
            self.assertRegex(environment(ranks[0]), mpi_variable)
            self.assertNotRegex(environment(front), mpi_variable)
            self.assertLessEqual(os.sched_getaffinity(0), os.sched_getaffinity(front))
            self.assertEqual(mapped_shared_files(front), set())
            self.assertEqual([serving.listens(pid, server.port) for pid in (front, *ranks.values())], [True] + [False] * RANKS)
            self.assertEqual(server.stop(), 0)

    def test_rank_killed(self):
        for rank in range(RANKS):
            with self.subTest(rank=rank), self.start() as server:
                self.lose(server, server.job.ranks()[rank], signal.SIGKILL, "rank_failed")

    def test_rank_lost_while_idle(self):
        """Every rank, each of a server of its own: nobody asks, and all ends all the same."""
        for how in signal.SIGKILL, signal.SIGSTOP:
            with self.subTest(how=how), contextlib.ExitStack() as stack:
                servers = [stack.enter_context(self.start("--comm-timeout", f"{deadline(2)}s")) for _ in range(RANKS)]
                for rank, server in enumerate(servers):
                    self.assertTrue(send(how, server.job.ranks()[rank]), server.job.err)
                for rank, server in enumerate(servers):
                    self.assertNotEqual(server.job.wait().status, 0, (rank, server.job.err))
                for server in servers:
                    self.nothing_is_left(server)

    def test_rank_stopped(self):
        for rank in range(RANKS):
            deadline_s = deadline(2)
            with self.subTest(rank=rank), self.start("--comm-timeout", f"{deadline_s}s") as server:
                # Of rank 0 nobody is left to tell the front: the ranks' deadline ends the job, and mpirun rank 0.
                self.lose(server, server.job.ranks()[rank], signal.SIGSTOP, "rank_failed", deadline_s)

    def test_health_of_a_stopped_rank(self):
        with self.start("--comm-timeout", f"{deadline(30)}s", "--health-timeout", f"{deadline(2)}s") as server:
            self.assertEqual(server.get("/health")[0], 200)
            victim = server.job.ranks()[1]
            self.assertTrue(send(signal.SIGSTOP, victim), server.job.err)
            await_(lambda: server.get("/health")[0] == 503, "unhealthy")
            self.assertEqual(server.get("/health")[1]["status"], "unresponsive")
            self.assertTrue(send(signal.SIGCONT, victim), server.job.err)
            await_(lambda: server.get("/health")[0] == 200, "healthy again")
            self.assertEqual(server.stop(), 0, server.job.err)
            self.nothing_is_left(server)

    def test_mpirun_killed(self):
        with self.start() as server:
            waiting = Clients(server, 4)
            server.job.process.kill()
            self.check_answers(waiting.join(), "rank_failed")
            server.job.wait()
            await_(lambda: not processes_of(PROGRAM), "processes remain")

    def test_mpirun_told_to_end(self):
        """By SIGTERM, which leaves its ranks a second: everybody is answered all the same."""
        with self.start() as server:
            self.lose(server, server.job.process.pid, signal.SIGTERM, "rank_failed")

    def test_the_only_rank_stopped(self):
        """Nobody is left to end the job, but /health says so, and streams are kept alive; then all goes on where it was."""
        body = json.dumps({**BODY, "max_tokens": 1000, "stream": True}).encode()
        ask = b"POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        with self.start("--health-timeout", f"{deadline(2)}s", ranks=1, via="local") as server:
            (rank,) = set(processes_of(PROGRAM)) - {server.front()}
            expected = server.raw(ask, serving.WAIT)[0]
            with server.connect() as s:
                s.sendall(ask)
                got = s.recv(1000)
                self.assertTrue(send(signal.SIGSTOP, rank), server.job.err)
                await_(lambda: server.get("/health")[0] == 503, "unhealthy")
                self.assertEqual(server.get("/health")[1]["status"], "unresponsive")
                while not got.endswith(b"\n\n: ping\n\n"):
                    more = s.recv(65536)
                    self.assertTrue(more, got[-300:])
                    got += more
                self.assertTrue(send(signal.SIGCONT, rank), server.job.err)
                got += read_all(s)[0]
            self.assertEqual(streamed_text(got), streamed_text(expected))
            self.assertTrue(got.endswith(b"data: [DONE]\n\n"), got[-300:])
            await_(lambda: server.get("/health")[0] == 200, "healthy again")
            self.assertEqual(server.stop(), 0, server.job.err)

    def test_front_killed(self):
        for via in "mpi", "local":
            with self.subTest(via=via), self.start(via=via) as server:
                waiting = Clients(server, 2)
                self.assertTrue(send(signal.SIGKILL, server.front()), server.job.err)
                stream, whole = waiting.join()  # their connections end, with nothing that looks like an answer's end
                self.assertTrue(stream.startswith("HTTP/1.1 200"), stream[:100])
                self.assertNotIn("[DONE]", stream)
                self.assertEqual(whole, "")
                server.job.wait()
                self.assertNotEqual(server.job.status, 0)
                self.assertTrue(any("front" in line for line in server.job.errors), server.job.err)
                self.nothing_is_left(server)

    def test_ranks_as_threads_killed(self):
        with self.start(via="local") as server:
            self.lose(server, server.job.process.pid, signal.SIGKILL, "rank_failed")

    def drain(self, server, pid, how):
        """What runs goes on to its end, what comes is refused, and everything ends well."""
        body = {**BODY, "max_tokens": 400}
        got = []

        def ask():
            for event in server.stream("/v1/completions", body):
                got.append(event)

        client = threading.Thread(target=ask)
        client.start()
        await_(lambda: got, "the first token")
        self.assertTrue(send(how, pid), server.job.err)
        await_(lambda: "draining" in server.job.err, "draining")
        client.join(2 * serving.WAIT)
        self.assertEqual(got[-1], "[DONE]")
        self.assertEqual(got[-2]["choices"][0]["finish_reason"], "length")
        self.assertEqual(server.job.wait().status, 0, server.job.err)
        self.nothing_is_left(server)

    def test_drains(self):
        for via, of, how in ("mpi", "front", signal.SIGTERM), ("mpi", "job", signal.SIGUSR1), ("local", "front", signal.SIGTERM), \
                ("local", "job", signal.SIGTERM), ("local", "job", signal.SIGINT), ("local", "job", signal.SIGUSR1):
            with self.subTest(via=via, of=of, how=how), self.start("--drain-timeout", f"{deadline(100)}s", via=via) as server:
                self.drain(server, server.front() if of == "front" else server.job.process.pid, how)

    def test_drain_has_an_end(self):
        with self.start("--drain-timeout", "500ms", via="local") as server:
            waiting = Clients(server, 2)
            self.assertTrue(send(signal.SIGTERM, server.front()), server.job.err)
            self.check_answers(waiting.join(), "stopped")
            self.assertNotEqual(server.job.wait().status, 0)
            self.nothing_is_left(server)

    def test_second_signal_ends(self):
        with self.start(via="local") as server:
            waiting = Clients(server, 2)
            front = server.front()
            self.assertTrue(send(signal.SIGTERM, front), server.job.err)
            await_(lambda: "draining" in server.job.err, "draining")
            self.assertEqual(server.post("/v1/completions", BODY)[0], 503)
            status, answer = server.post("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1})
            self.assertEqual((status, answer["type"], answer["error"]["type"]), (503, "error", "overloaded_error"))
            self.assertEqual(server.get("/ready")[0], 503)
            self.assertTrue(send(signal.SIGTERM, front), server.job.err)
            self.check_answers(waiting.join(), "stopped")
            self.assertNotEqual(server.job.wait().status, 0)
            self.nothing_is_left(server)


if __name__ == "__main__":
    main()
