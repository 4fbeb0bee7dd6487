#!/usr/bin/env python3
"""bootstrap_test.py PROBE MPIRUN: how jobs end, seen from outside: status, what is printed once, who ends with whom."""

import os
import shutil
import subprocess
import sys
import time
import unittest

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))

from slack import deadline, slack  # noqa: E402

PROBE, MPIRUN = sys.argv[1], sys.argv[2]
ERROR = "file x.safetensors, tensor w:\\nscale 3 is nan"  # one line, though the message has two
LIMIT = 60  # seconds on an idle machine
NEVER = 3600  # the probe's deadline in seconds: errors end jobs at once, not when it has passed


def run(body, transport, ranks, launched=None, more=(), more_env=None, deadline_s=0):
    """`ranks` is the flag (0: not given); `launched` the number of ranks of mpirun, None: without it. `deadline_s`: of a wait
    that is to reach it."""
    command = [PROBE, body, transport, str(ranks), str(deadline_s or NEVER), *more]
    if launched is not None:
        command = [MPIRUN, str(launched), *command]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_COMM_", "PMI"))}
    environment.update(more_env or {})
    if launched is None and (transport == "mpi" or more_env):
        # Alone, Open MPI unloads plugins that still hold memory before the leak checker looks: nobody can name them then.
        environment["ASAN_OPTIONS"] = ":".join(filter(None, [environment.get("ASAN_OPTIONS"), "detect_leaks=0"]))
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        out, err = job.communicate(timeout=deadline_s + slack(LIMIT))
    except subprocess.TimeoutExpired:
        left = processes()
        job.kill()
        out, err = job.communicate()
        # Where several ranks end a job at once, mpirun (4.1.4) itself may crash, and once in a while hang, with no rank left.
        if launched is None or left:
            raise AssertionError(f"{command} does not end; left: {left}\n{out}\n{err}")
    return job.returncode, out.splitlines(), [line for line in err.splitlines() if line.startswith("tokenferry: ")]


def processes():
    """Probes that are still there (zombies of a foreign parent do not count)."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if f.read().split(b"\0")[0] == PROBE.encode():
                    found.append(pid)
        except OSError:
            pass  # it has ended meanwhile
    return found


class Bootstrap(unittest.TestCase):
    def tearDown(self):
        end = time.monotonic() + slack(10)
        while processes() and time.monotonic() < end:
            time.sleep(0.1)
        self.assertEqual(processes(), [], "orphans")

    def test_ranks_as_threads_and_as_processes(self):
        for ranks in 1, 2, 3, 5:
            for case in ("local", ranks, None), ("auto", 0, ranks), ("mpi", ranks, ranks):
                status, out, errors = run("ok", *case)
                self.assertEqual((status, errors), (0, []), case)
                self.assertEqual([line.split()[:4] for line in out], [["rank", str(r), "of", str(ranks)] for r in range(ranks)])
                self.assertEqual(len({line.split()[4] for line in out}), 1, out)  # one instruction set for all

    def test_alone_without_mpirun(self):
        for transport in "auto", "mpi":
            status, out, errors = run("ok", transport, 0)
            self.assertEqual((status, errors, len(out)), (0, [], 1))

    def test_instruction_set_is_restricted(self):
        status, out, errors = run("ok", "local", 3, more=["portable"])
        self.assertEqual((status, errors), (0, []))
        self.assertEqual({line.split()[4] for line in out}, {"portable"})
        other = "neon" if os.uname().machine == "x86_64" else "avx2"
        status, out, errors = run("ok", "auto", 0, 2, [other])
        self.assertNotEqual(status, 0)
        self.assertEqual(len(errors), 1, errors)
        self.assertIn(f"'{other}'", errors[0])

    def test_flags_against_the_launcher(self):
        status, _, errors = run("ok", "local", 0, 2)
        self.assertNotEqual(status, 0)
        self.assertIn("--ranks 2", errors[0])
        status, _, errors = run("ok", "mpi", 3, 2)
        self.assertNotEqual(status, 0)
        self.assertIn("mpirun -n 3", errors[0])

    def test_foreign_launcher(self):
        """MPICH's mpiexec starts processes that Open MPI takes for jobs of one rank each: here by its variables alone,
        and with the real one where there is one."""
        def told(status, errors):
            self.assertNotEqual(status, 0)
            self.assertEqual(len(errors), 1, errors)
            for word in "MPICH", "started 3 ranks", "MPI knows of 1", "--ranks 3":
                self.assertIn(word, errors[0])
        processes = []
        for rank in range(3):
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_COMM_", "PMI"))}
            environment.update(PMI_SIZE="3", PMI_RANK=str(rank), MPI_LOCALNRANKS="3", MPI_LOCALRANKID=str(rank))
            environment["ASAN_OPTIONS"] = ":".join(filter(None, [environment.get("ASAN_OPTIONS"), "detect_leaks=0"]))
            processes.append(subprocess.Popen([PROBE, "ok", "auto", "0", str(NEVER)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                              text=True, env=environment))
        outputs = [process.communicate(timeout=slack(LIMIT)) for process in processes]
        self.assertEqual([out for out, _ in outputs], ["", "", ""])
        told(max(p.returncode for p in processes),
             [line for _, err in outputs for line in err.splitlines() if line.startswith("tokenferry: ")])
        self.assertNotIn(0, [p.returncode for p in processes])
        hydra = shutil.which("mpiexec.hydra")
        if hydra:
            done = subprocess.run([hydra, "-n", "3", PROBE, "ok", "auto", "0", str(NEVER)], capture_output=True, text=True, timeout=slack(LIMIT))
            self.assertEqual(done.stdout.count("rank 0 of 1"), 0, done.stdout)
            told(done.returncode, [line for line in done.stderr.splitlines() if line.startswith("tokenferry: ")])

    def test_launcher_that_tells_no_size(self):
        """No rank takes itself for the only one, and each says why, since any of them may be the only one that is refused. A
        rank that is alone runs with --transport local, as the message says."""
        for variable, name in ("PALS_RANKID", "PALS"), ("PMIX_RANK", "a PMIx launcher"):
            for rank in range(2):
                status, out, errors = run("ok", "auto", 0, more_env={variable: str(rank)})
                self.assertEqual((status, out, len(errors)), (1, [], 1), (variable, errors))
                for word in f"rank {rank}: ", name, "does not tell how many", "MPI knows of 1", "--transport local":
                    self.assertIn(word, errors[0])
            status, out, errors = run("ok", "local", 0, more_env={variable: "0"})
            self.assertEqual((status, errors, len(out)), (0, [], 1))
            status, out, errors = run("ok", "local", 0, more_env={variable: "1"})
            self.assertEqual((status, out, len(errors)), (2, [], 1))
            self.assertIn("at least 2 separate jobs", errors[0])

    def test_agreed_error_is_printed_once(self):
        for case in ("local", 3, None), ("auto", 0, 3):
            status, _, errors = run("agreed", *case)
            self.assertEqual(errors, [f"tokenferry: load: rank 2: {ERROR}"], case)
            self.assertEqual(status, 1, case)
        status, _, errors = run("agreed", "local", 1)
        self.assertEqual((status, errors), (1, [f"tokenferry: load: rank 0: {ERROR}"]))

    def test_error_of_one_rank_ends_all(self):
        for body in "alone", "busy":
            for case in ("local", 3, None), ("auto", 0, 3):
                status, _, errors = run(body, *case)
                self.assertNotEqual(status, 0, case)
                self.assertIn(f"tokenferry: rank 2: {ERROR}", errors, (body, case))

    def test_lost_rank_is_named(self):
        for body, state, deadline_s in ("killed", "gone", 0), ("stopped", "stopped", deadline(2)):
            status, _, errors = run(body, "auto", 0, 3, deadline_s=deadline_s)
            self.assertNotEqual(status, 0)
            told = [e for e in errors if "layer 3, probe, step 17" in e and "rank 2" in e]
            self.assertTrue(told, (body, errors))
            if body == "stopped":  # a killed rank may be seen by mpirun before it is seen by its peers
                self.assertIn(state, " ".join(told))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
