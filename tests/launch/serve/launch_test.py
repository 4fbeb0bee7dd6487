"""tokenferry launch: when ranks or mpirun die or stop, streams go on to the bytes of an undisturbed run, and nothing is left."""

import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time

import server as serving  # first: it finds the next
from launched_server import LaunchedServer
from program import MODEL, PROGRAM, ROOT, Job, ProgramTest, deadline, main, processes_of, send, slack
from server import Server, await_

TOKENS = 400  # enough to be hit in the middle
BODIES = [{"prompt": "In the beginning", "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0},
          {"prompt": "And the earth", "max_tokens": TOKENS, "ignore_eos": True, "seed": 7, "frequency_penalty": 0.3, "n": 2, "logprobs": 1},
          {"prompt": "Let there be light", "max_tokens": TOKENS, "ignore_eos": True, "seed": 9, "temperature": 0.7, "echo": True, "logprobs": 0}]


def merged(events):
    """What the events of a stream say, by choice."""
    choices = {}
    for event in events:
        for choice in event["choices"]:
            said = choices.setdefault(choice["index"], {"text": "", "logprobs": [], "tokens": [], "end": None})
            assert said["end"] is None, "something comes after the end"
            said["text"] += choice["text"]
            if choice["logprobs"]:
                said["logprobs"] += choice["logprobs"]["token_logprobs"]
                said["tokens"] += choice["logprobs"]["tokens"]
            said["end"] = choice["finish_reason"]
    return choices


class Clients:
    """A stream for each body and a request that is not streamed: begun when constructed, and held until hit() is called."""

    def __init__(self, server, bodies=BODIES):
        self.server, self.streams, self.whole, self.more = server, [[] for _ in bodies], None, threading.Condition()
        self.threads = [threading.Thread(target=self._stream, args=(body, got)) for body, got in zip(bodies, self.streams, strict=True)]
        self.threads.append(threading.Thread(target=self._ask, args=(bodies[0],)))
        # Held: on a fast machine the first ones would end before the last one has begun.
        self.held = server.ranks()[0]
        assert send(signal.SIGSTOP, self.held), server.job.err
        try:
            self._begin()
        except BaseException:
            send(signal.SIGCONT, self.held)  # a server is not ended well while one of its ranks is stopped
            raise

    def _begin(self):
        server = self.server
        for thread in self.threads:
            thread.start()
        await_(lambda: server.metric("tokenferry_num_requests_running") == 5, "all run")
        # Each has some tokens, so that the next ones have to follow them, and far from all: the ranks run in short turns.
        end = time.monotonic() + slack(serving.IDLE_WAIT)
        while not all(len(got) > 3 for got in self.streams):
            assert time.monotonic() < end, "no tokens"
            send(signal.SIGCONT, self.held)
            time.sleep(0.005)
            assert send(signal.SIGSTOP, self.held), server.job.err
            with self.more:
                self.more.wait_for(lambda: all(len(got) > 3 for got in self.streams), 0.05)
        assert all("[DONE]" not in got for got in self.streams), "not held"

    def hit(self, pid, how):
        """Sends the signal, and lets the ranks run again: those that it leaves to run."""
        assert send(how, pid), self.server.job.err
        if (pid, how) != (self.held, signal.SIGSTOP):
            send(signal.SIGCONT, self.held)

    def _stream(self, body, got):
        for event in self.server.stream("/v1/completions", body):
            with self.more:
                got.append(event)
                self.more.notify_all()

    def _ask(self, body):
        self.whole = self.server.post("/v1/completions", body)

    def join(self):
        for thread in self.threads:
            thread.join(2 * serving.WAIT)
            assert not thread.is_alive(), "a client waits for ever"
        return self.streams, self.whole


class LaunchTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        with Server() as server:
            cls.expected = [merged(list(server.stream("/v1/completions", body))[:-1]) for body in BODIES]
            assert server.stop() == 0

    def start(self, *flags, **how):
        return LaunchedServer(*flags, env={"TMPDIR": self.dir}, **how)

    def restarted(self, server, times):
        await_(lambda: server.metric("tokenferry_restarts_total") == times and server.get("/ready")[0] == 200, "ready again")

    def check_answers(self, clients):
        """Every stream and the whole answer have the bytes of the undisturbed run."""
        streams, (status, answer) = clients.join()
        for body, events, expected in zip(BODIES, streams, self.expected, strict=True):
            self.assertEqual(events[-1], "[DONE]", events[-2:])
            self.assertEqual(merged(events[:-1]), expected, body)
        self.assertEqual((status, answer["choices"][0]["text"]), (200, self.expected[0][0]["text"]), answer)

    def nothing_is_left(self, server):
        self.assertEqual(processes_of(PROGRAM), [])
        with self.assertRaises(ConnectionRefusedError):
            server.connect()
        self.assertEqual(os.listdir(self.dir), [])

    def drained(self, server):
        self.assertEqual(server.stop(), 0, server.job.err)
        self.nothing_is_left(server)

    def counters(self, server):
        text = server.get("/metrics")[1]
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(r"\w+_total\{", line)}

    def test_streams_go_on(self):
        faults = [("mpi", "rank 0", signal.SIGKILL), ("mpi", "rank 2", signal.SIGKILL), ("mpi", "mpirun", signal.SIGKILL), ("local", "rank 0", signal.SIGKILL),
                  ("mpi", "rank 0", signal.SIGSTOP), ("mpi", "rank 1", signal.SIGSTOP), ("local", "rank 0", signal.SIGSTOP)]
        for via, victim, how in faults:
            flags = ["--comm-timeout", f"{deadline(5)}s"] if how == signal.SIGSTOP else []  # longer than requests are held
            with self.subTest(via=via, victim=victim, how=how), self.start(*flags, via=via) as server:
                clients = Clients(server)
                before = self.counters(server)
                clients.hit(server.main_process() if victim == "mpirun" else server.ranks()[int(victim[-1])], how)
                await_(lambda: server.get("/health")[1]["status"] == "restarting", "the front has noticed")
                self.assertEqual(server.get("/ready")[0], 503)
                self.check_answers(clients)
                self.restarted(server, 1)
                after = self.counters(server)
                self.assertEqual({name: (value, after.get(name)) for name, value in before.items() if after.get(name, -1) < value}, {})
                self.drained(server)

    def test_idle_ranks_are_started_again(self):
        for victim, how in ("rank 1", signal.SIGKILL), ("rank 2", signal.SIGSTOP), ("mpirun", signal.SIGKILL):
            with self.subTest(victim=victim, how=how), self.start("--comm-timeout", f"{deadline(2)}s") as server:
                pid = server.main_process() if victim == "mpirun" else server.ranks()[int(victim[-1])]
                self.assertTrue(send(how, pid), server.job.err)
                await_(lambda: server.get("/ready")[0] == 503, "the front has noticed")
                answer = server.complete(max_tokens=8, seed=1)  # waits for the ranks
                self.assertEqual(answer["choices"][0]["text"], server.complete(max_tokens=8, seed=1)["choices"][0]["text"])
                self.restarted(server, 1)
                self.drained(server)

    def test_mpirun_stopped(self):
        """Nothing stops with it, and at the end it is ended too."""
        with self.start() as server:
            clients = Clients(server)
            clients.hit(server.main_process(), signal.SIGSTOP)
            self.check_answers(clients)
            self.drained(server)

    def test_a_request_that_runs_in_two_crashes_fails(self):
        with self.start(via="local") as server:
            ended = []

            def ask():
                for event in server.stream("/v1/completions", {**BODIES[0], "max_tokens": 4000}):
                    ended.append(event)

            thread = threading.Thread(target=ask)
            thread.start()
            await_(lambda: ended, "the first token")
            for times in 1, 2:
                # It has been sent again when the ranks are ready, and runs.
                await_(lambda: server.get("/ready")[0] == 200 and server.metric("tokenferry_num_requests_running") == 1, "it runs")
                self.assertTrue(send(signal.SIGKILL, server.ranks()[0]), server.job.err)
                await_(lambda: server.metric("tokenferry_restarts_total") == times, "noticed")
            thread.join(serving.WAIT)
            self.assertEqual(ended[-1], "[DONE]")
            self.assertEqual(ended[-2]["error"]["code"], "rank_failed", ended[-2])
            self.assertIn("twice", ended[-2]["error"]["message"])
            self.assertEqual(len(server.complete(max_tokens=3, ignore_eos=True)["choices"]), 1)
            self.drained(server)

    def test_front_killed(self):
        for via in "mpi", "local":
            with self.subTest(via=via), self.start(via=via) as server:
                ranks_parent = server.main_process()
                server.job.process.kill()
                await_(lambda: not processes_of(PROGRAM) and not os.path.exists(f"/proc/{ranks_parent}"), "all end")
                server.job.wait()
                left = [os.path.join(d, f) for d, _, files in os.walk(self.dir) for f in files]
                self.assertEqual(left, [])

    def test_ranks_that_cannot_start(self):
        """They are not tried for ever, and the front says so and ends."""
        job = Job(["launch", "--restart", "on-failure", "--", "serve", "--model", MODEL, "--port", "0", "--placement", self.path("absent.json")], env={"TMPDIR": self.dir}).wait()
        self.assertNotEqual(job.status, 0)
        self.assertIn("the ranks have ended", job.err)
        self.assertEqual(processes_of(PROGRAM), [])
        self.assertEqual(os.listdir(self.dir), [])

    def test_ranks_give_signs_until_they_are_ready(self):
        """What a front hears of ranks that it has started, which it would end if they were silent for long: after the last
        weight too, of each part of what comes then."""
        HELLO, PROGRESS, READY = 0, 1, 2  # runtime/serve/protocol/messages.h
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"\0tokenferry-test-{os.getpid()}")
            listening.listen()
            listening.settimeout(serving.WAIT)
            name = f"tokenferry-test-{os.getpid()}"
            job = Job(["serve", "--model", MODEL, "--port", "0", "--ranks", "2"], env={"TMPDIR": self.dir, "TOKENFERRY_FRONT_NAME": name})
            with listening.accept()[0] as rank_0, rank_0.makefile("rb") as stream:
                rank_0.settimeout(serving.WAIT)
                with open(os.path.join(ROOT, "runtime", "serve", "protocol", "messages.h")) as f:
                    version = int(re.search(r"kProtocolVersion = (\d+)", f.read())[1])
                rank_0.sendall(struct.pack("<IBI", 4, HELLO, version))
                kinds, progress = [], []
                while READY not in kinds:
                    size, kind = struct.unpack("<IB", stream.read(5))
                    payload = stream.read(size)
                    kinds.append(kind)
                    if kind == PROGRESS:
                        progress.append(struct.unpack("<qqd", payload)[:2])
            self.assertEqual(set(kinds), {HELLO, PROGRESS, READY})
            self.assertEqual(progress, sorted(progress))
            self.assertEqual(progress[0], (0, 0))
            self.assertGreaterEqual(sum(done == total > 0 for done, total in progress), 3, progress)
            self.assertNotEqual(job.wait().status, 0)  # its front has ended
        self.assertEqual(processes_of(PROGRAM), [])

    def test_without_restart_everybody_is_answered(self):
        with self.start(restart="never") as server:
            clients = Clients(server)
            clients.hit(server.ranks()[1], signal.SIGKILL)
            streams, (status, answer) = clients.join()
            for events in streams:
                self.assertEqual((events[-1], events[-2]["error"]["code"]), ("[DONE]", "rank_failed"))
            self.assertEqual((status, answer["error"]["code"]), (503, "rank_failed"))
            self.assertEqual(server.job.wait().status, 1)
            self.nothing_is_left(server)

    def test_drain_while_ranks_start(self):
        with self.start("--drain-timeout", f"{deadline(60)}s") as server:
            clients = Clients(server)
            clients.hit(server.ranks()[0], signal.SIGKILL)
            await_(lambda: server.get("/health")[1]["status"] == "restarting", "the front has noticed")
            self.assertTrue(send(signal.SIGTERM, server.front()), server.job.err)
            self.check_answers(clients)
            self.assertEqual(server.job.wait().status, 0, server.job.err)
            self.nothing_is_left(server)

    def test_no_network_is_explained(self):
        """In a network namespace of its own, where the loopback is down and mpirun would die with a word about PMIx."""
        alone = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
            self.skipTest("no network namespace is permitted here")
        done = subprocess.run([*alone, PROGRAM, "launch", "-n", "3", "--", "serve", "--model", MODEL], capture_output=True, text=True, timeout=serving.WAIT)
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1), done.stderr)
        self.assertIn("no network interface is up", done.stderr)
        self.assertIn("serve --ranks 3", done.stderr)

    def test_command_line(self):
        for words, message in (["launch"], "what to launch"), (["launch", "--"], "what to launch"), (["launch", "--", "generate", "--model", "x", "--prompt", "y"], "is for serve"), \
                (["launch", "--hostfile", "f", "--", "serve", "--model", "x"], "-n"), (["launch", "--ranks", "2", "--", "serve", "--model", "x"], "does not use --ranks"), \
                (["launch", "--", "serve"], "--model"), (["launch", "--restart", "always", "--", "serve", "--model", "x"], "on-failure"):
            with self.subTest(words=words):
                job = Job(words).wait()
                self.assertEqual(job.status, 2)
                self.assertIn(message, "\n".join(job.errors))


if __name__ == "__main__":
    main()
