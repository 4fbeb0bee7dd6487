#!/usr/bin/env python3
"""rank_loss_test.py PROGRAM: a rank of a generating job is killed, stopped, slowed down, or fails.

The others name it, the layer and the phase; all end within the deadline and two seconds; no process, no shared memory
and no temporary file of the job remains. A rank that is only slow changes nothing but the time.
"""

import os
import re
import shutil
import signal
import subprocess
import time
import unittest

from program import LIMIT, MODEL, MPIRUN, PROGRAM, Job, ProgramTest, deadline, main, processes_of, send, slack

RANKS = 4
# From the deadline to the end of the last rank: the others speak for 0.2 s before one aborts the job; mpirun then sends
# SIGCONT, SIGTERM and SIGKILL with a second between; and a second to spare.
SECONDS_TO_END = 0.2 + 1 + 1 + 1
# More than a job generates before a test has found its processes and done to them what it wants.
# 40 sequences, of which each rank's cache holds one: half a minute, so that a test that is held up still finds the job alive.
LONG = ["--max-tokens", "4000", "--kv-cache-tokens", "4096"] + 39 * ["--prompt", "In the beginning"]
PLACES = r"(?:layer \d+, )?[a-z ]+, step \d+, transfer \d+: rank (\d+) waits for (.*)"


def mapped(pids):
    """Files of shared memory that the processes have mapped."""
    files = set()
    for pid in pids:
        with open(f"/proc/{pid}/maps") as maps:
            files |= set(re.findall(r"(/dev/shm/\S+)", maps.read()))
    return files


def num_threads(pid):
    """Of a process; 0 when it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        return 0


class RankLoss(ProgramTest):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("tmp"))
        # A name of its own, by which this test knows its processes.
        self.program = self.path("tokenferry")
        os.symlink(PROGRAM, self.program)

    def start(self, *flags):
        """A job that would go on for a long time, in the middle of it. Returns it and its processes by rank."""
        job = Job(["generate", "--model", MODEL, "--prompt", "In the beginning", "--ignore-eos", *flags], RANKS, "mpi",
                  env={"TMPDIR": self.path("tmp")}, program=self.program)
        self.addCleanup(lambda: [send(signal.SIGKILL, pid) for pid in processes_of(self.program)])
        end = time.monotonic() + slack(60)
        while len(job.out) < 80 and time.monotonic() < end:
            self.assertIsNone(job.process.poll(), job.err)
            time.sleep(0.02)
        self.assertGreaterEqual(len(job.out), 80, job.err)
        pids = job.ranks()
        self.assertEqual(sorted(pids), list(range(RANKS)))
        self.files = mapped(pids.values())
        return job, pids

    def nothing_is_left(self):
        end = time.monotonic() + slack(2.5)
        while processes_of(self.program) and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(processes_of(self.program), [], "processes remain")
        # Open MPI's names end in a number after the job's own part. Other jobs of the machine come and go.
        ours = tuple(file.rstrip("0123456789") for file in self.files)
        remaining = [f for f in map("/dev/shm/".__add__, os.listdir("/dev/shm")) if ours and f.startswith(ours)]
        self.assertEqual(remaining, [], "shared memory remains")
        left = [os.path.join(d, f) for d, _, files in os.walk(self.path("tmp")) for f in files]
        self.assertEqual(left, [], "temporary files remain")

    def lose(self, how, victim, deadline_s, state):
        deadline_s = deadline(deadline_s)
        job, pids = self.start(*LONG, "--comm-timeout", f"{deadline_s}s")
        start = time.monotonic()
        self.assertTrue(send(how, pids[victim]), "the job ended too early")
        job.wait()
        seconds = job.ended - start  # of the ranks: mpirun sleeps for seconds of its own
        context = f"{how!r} of rank {victim}: {seconds:.2f} s\n{job.err}"
        print(context, flush=True)
        self.assertNotEqual(job.status, 0, context)
        self.assertLess(seconds, deadline_s + slack(SECONDS_TO_END), context)
        told = [m for m in (re.search(PLACES, line) for line in job.errors) if m and f"rank {victim} on host" in m[2]]
        self.assertTrue(told, f"nobody names rank {victim}, the phase and the step: {context}")
        self.assertNotIn(str(victim), [m[1] for m in told], context)
        self.assertTrue(any(state in m[2] for m in told), context)
        self.nothing_is_left()

    def test_killed(self):
        self.lose(signal.SIGKILL, 2, 20, "gone")

    def test_first_rank_killed(self):
        self.lose(signal.SIGKILL, 0, 20, "gone")

    def test_stopped(self):
        self.lose(signal.SIGSTOP, 3, 2, "stopped")

    def test_first_rank_stopped(self):
        self.lose(signal.SIGSTOP, 0, 2, "stopped")

    def test_too_slow(self):
        """Runs for a moment now and then, more rarely than the deadline allows."""
        deadline_s = deadline(1)
        job, pids = self.start(*LONG, "--comm-timeout", f"{deadline_s}s")
        start = time.monotonic()
        while job.process.poll() is None and time.monotonic() < start + 20 * deadline_s and send(signal.SIGSTOP, pids[1]):
            time.sleep(2 * deadline_s)
            send(signal.SIGCONT, pids[1])
            time.sleep(0.01)
        job.wait()
        seconds = job.ended - start
        context = f"slow rank 1: {seconds:.2f} s\n{job.err}"
        print(context, flush=True)
        self.assertNotEqual(job.status, 0, context)
        self.assertLess(seconds, 3 * deadline_s + slack(SECONDS_TO_END), context)  # the deadline, and the pause it may have to wait out
        self.assertTrue(any(re.search(PLACES, line) and "rank 1 on host" in line for line in job.errors), context)
        self.nothing_is_left()

    def test_slow_within_the_deadline(self):
        """The text is the same, and the table says for whom the others waited."""
        # Long enough to be there for ten turns of 20 ms between the stops.
        flags = ["--max-tokens", "600", "--json"]
        alone = Job(["generate", "--model", MODEL, "--prompt", "In the beginning", "--ignore-eos", *flags]).wait().json()
        job = Job(["generate", "--model", MODEL, "--prompt", "In the beginning", "--ignore-eos", *flags], RANKS, "mpi",
                  env={"TMPDIR": self.path("tmp")}, program=self.program)
        end = time.monotonic() + slack(60)
        while not any("ranks on 1 host" in line for line in job.err_lines) and time.monotonic() < end:
            self.assertIsNone(job.process.poll(), job.err)
            time.sleep(0.02)
        pids = job.ranks()
        self.assertEqual(sorted(pids), list(range(RANKS)), job.err)
        self.files, victim = mapped(pids.values()), pids[2]
        stopped_s = 0.0
        while stopped_s < 3 and send(signal.SIGSTOP, victim):
            time.sleep(0.3)
            stopped_s += 0.3
            send(signal.SIGCONT, victim)
            time.sleep(0.02)
        job.wait()
        self.assertEqual(job.status, 0, job.err)
        got = job.json()
        self.assertEqual(got["outputs"], alone["outputs"])
        waits = [rank["wait_seconds_per_rank"] for rank in got["report"]["ranks"]]
        for_victim = sum(wait[2] for wait in waits)
        self.assertGreater(for_victim, stopped_s / 3, waits)  # three ranks wait while it is stopped, if it is not loading
        self.nothing_is_left()

    def test_a_launcher_that_takes_no_note_of_the_end(self):
        """A job that has done its work is not taken for one that crashed because mpirun is late to hear of it."""
        # Without this Open MPI's ranks wait for mpirun in one more place, before they take leave of it.
        job = Job(["generate", "--model", MODEL, "--prompt", "In the beginning", "--max-tokens", "200"], 2, "mpi",
                  env={"TMPDIR": self.path("tmp"), "OMPI_MCA_async_mpi_finalize": "1"}, program=self.program)
        self.files, end = set(), time.monotonic() + slack(60)
        while not any("ranks on 1 host" in line for line in job.err_lines) and time.monotonic() < end:
            time.sleep(0.01)
        pids = job.ranks().values()
        self.assertTrue(len(pids) == 2 and send(signal.SIGSTOP, job.process.pid), job.err)
        while any(num_threads(pid) > 1 for pid in pids) and time.monotonic() < end:
            time.sleep(0.01)  # MPI's own threads end with MPI
        send(signal.SIGCONT, job.process.pid)
        job.wait()
        self.assertEqual(job.status, 0, job.err)
        self.nothing_is_left()

    def test_interrupted(self):
        """Ctrl-C, which reaches mpirun alone: all ranks leave between two steps and have nothing to say."""
        job, _ = self.start(*LONG)
        said = list(job.err_lines)
        job.process.send_signal(signal.SIGINT)
        job.wait()
        self.assertNotEqual(job.status, 0)
        # libevent within mpirun may warn of a pipe that is closed under it.
        self.assertEqual([line for line in job.err_lines if not line.startswith("[warn] Epoll")], said)
        self.nothing_is_left()

    def test_interrupted_twice(self):
        """mpirun then dies without cleaning up after Open MPI: its shared memory has no name that could stay."""
        job, _ = self.start(*LONG)
        job.process.send_signal(signal.SIGINT)
        time.sleep(0.05)  # mpirun takes two signals at once for one
        job.process.send_signal(signal.SIGINT)
        job.wait()
        self.assertNotEqual(job.status, 0)
        shutil.rmtree(self.path("tmp"))  # mpirun's own session files stay
        os.mkdir(self.path("tmp"))
        self.nothing_is_left()

    def test_nobody_reads_any_more(self):
        """`mpirun .. | head`: the job ends soon, and neither it nor mpirun has anything to say."""
        prompt = ["--prompt", "In the beginning", "--ignore-eos"]
        for args in (["generate", *prompt, *LONG], ["generate", *prompt, "--max-tokens", "2", "--json"], ["inspect"]):
            with self.subTest(args=args[:1] + args[-1:]):
                pipe = ["bash", "-c", 'set -o pipefail; "$@" | head -c 20', "bash", *MPIRUN, self.program, *args[:1], "--model", MODEL, *args[1:]]
                done = subprocess.run(pipe, capture_output=True, text=True, timeout=slack(LIMIT),
                                      env={**os.environ, "TF_NUM_RANKS": "2", "TMPDIR": self.path("tmp")})
                self.assertEqual((done.returncode, len(done.stdout)), (0, 20), done.stderr)
                self.assertEqual([line for line in done.stderr.splitlines() if not re.match(r"I \d\d:\d\d:", line)], [])
                self.files = set()
                self.nothing_is_left()

    def test_local_ranks_end_with_the_process(self):
        """Ranks as threads: killing the process leaves nothing, and SIGTERM and SIGINT end it at once."""
        for how in signal.SIGKILL, signal.SIGTERM, signal.SIGINT:
            job = Job(["generate", "--model", MODEL, "--prompt", "In the", "--ignore-eos", *LONG], RANKS,
                      program=self.program)
            self.files = set()
            end = time.monotonic() + slack(60)
            while len(job.out) < 40 and time.monotonic() < end:
                time.sleep(0.02)
            start = time.monotonic()
            job.process.send_signal(how)
            job.wait()
            self.assertEqual(job.status, -how, job.err)
            self.assertLess(time.monotonic() - start, slack(2))
            self.nothing_is_left()


if __name__ == "__main__":
    main()
