#!/usr/bin/env python3
"""Jobs on emulated hosts (launch/scripts/local_cluster.sh): the same bits as on one, and what survivors say when a host or its
link fails.

  cluster_test.py TOKENFERRY EXCHANGE_LOOP EXCHANGE_TRAFFIC [unittest arguments]
"""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.append(os.path.join(ROOT, "tests", "support"))

from slack import deadline, send, slack  # noqa: E402

MODEL = os.path.join(ROOT, "models", "ferry-tiny-v3")
SKIPPED = 77
LINE = re.compile(r"layer (\d+), ([a-z ]+), step \d+, transfer \d+: rank (\d+) waits for (.*)")
AT = re.compile(r"ended at (\d+): ")
# path: {phase in which a rank of node2 is when its link is cut: phase in which node1 then waits for node2}
FLAT = {p: p for p in ("plan counts", "plan selections", "dispatch rows", "combine rows")} | {"experts": "combine rows"}
CUTS = {"alltoallv": FLAT, "allgather": FLAT,
        "two_level": FLAT | {"plan forwards": "dispatch rows", "forward rows": "combine rows", "combine inside": "combine rows"}}
# Who on node1 comes to that phase whatever the links do: what it waits for there is node2's.
PEERS = {"alltoallv": (0, 1), "allgather": (0, 1), "two_level": (0,)}
# In the environment of everything that is started here: other tests on this machine have their own clusters.
os.environ["TF_CLUSTER_TEST"] = f"{os.getpid()} {time.monotonic_ns()}"
MARK = b"TF_CLUSTER_TEST=" + os.environ["TF_CLUSTER_TEST"].encode()
TOKENFERRY = EXCHANGE_LOOP = EXCHANGE_TRAFFIC = ""


def cluster_args(options, command):
    return ["bash", os.path.join(ROOT, "launch/scripts/local_cluster.sh"), *options, "--", *command]


def run_cluster(options, command):
    done = subprocess.run(cluster_args(options, command), capture_output=True, text=True, timeout=slack(100), cwd=ROOT)
    if done.returncode == SKIPPED:
        raise unittest.SkipTest(done.stderr.strip())
    return done


def traffic(err):
    """{host: (sent, received)} as printed at the end."""
    return {host: (int(sent), int(received))
            for host, sent, received in re.findall(r"(node\d+) +sent +(\d+) +received +(\d+)", err)}


def everything():
    """What a cluster of this test could leave behind: interfaces, mounts, shared memory, and processes in other namespaces."""
    own = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "pid", "uts")}
    foreign = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if all(os.readlink(f"/proc/{pid}/ns/{kind}") == at for kind, at in own.items()):
                continue
            with open(f"/proc/{pid}/cmdline") as f, open(f"/proc/{pid}/environ", "rb") as environ:
                if MARK in environ.read().split(b"\0"):
                    foreign.add((int(pid), f.read().replace("\0", " ")))
        except OSError:  # it has ended, or is not ours
            pass
    with open("/proc/net/dev") as dev, open("/proc/self/mounts") as mounts:
        links = {line.split(":")[0].strip() for line in dev if ":" in line}
        return {"links": links, "mounts": set(mounts), "processes": foreign,
                "files": {f for f in os.listdir("/dev/shm") if "cluster" in f}}


class SameBits(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.ids = os.path.join(self.dir.name, "ids.json")
        with open(self.ids, "w") as f:
            json.dump({"prompts": [{"input_ids": [1 + (7 * i + n * i * i) % 200 for i in range(n)]} for n in (5, 1, 33)]}, f)

    def tearDown(self):
        self.dir.cleanup()

    def eval(self, run, name, *flags):
        out = os.path.join(self.dir.name, name)
        done = run([TOKENFERRY, "eval", "--model", MODEL, "--ids", self.ids, "--out", out, *flags])
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(out, "rb") as f:
            return f.read(), done

    def test_eval_and_generate(self):
        alone = lambda command: subprocess.run(command, capture_output=True, text=True, timeout=slack(100))
        expected, _ = self.eval(alone, "alone")
        generate = [TOKENFERRY, "generate", "--model", MODEL, "--prompt", "The river", "--max-tokens", "12"]
        text = alone(generate)
        self.assertEqual(text.returncode, 0, text.stderr)
        even, uneven = ["--hosts", "2", "--ranks-per-host", "2"], ["--hosts", "3", "--ranks-per-host", "1,3,1"]
        for options, path in ((even, "auto"), (even, "two_level"), (even, "allgather"), (uneven, "two_level")):
            with self.subTest(options=options, path=path):
                bits, done = self.eval(lambda command: run_cluster(options, command), "cluster", "--path", path, "--explain")
                if path == "auto":
                    self.assertRegex(done.stderr, r"network +latency [\d.]+ us.*\n(.*\n)* +two_level +\d+ us.*\n(.*\n)*path \w+: ")
                self.assertEqual(bits, expected)
                self.assertIn(f"on {options[1]} hosts", done.stderr)
                for host, (sent, received) in traffic(done.stderr).items():
                    self.assertGreater(min(sent, received), 10000, f"{host} has hardly taken part\n{done.stderr}")
                self.assertEqual(len(traffic(done.stderr)), int(options[1]))
        done = run_cluster(["--hosts", "2", "--ranks-per-host", "2"], generate)
        self.assertEqual((done.returncode, done.stdout), (0, text.stdout), done.stderr)


class Traffic(unittest.TestCase):
    def test_bytes_on_the_wire_are_the_formula(self):
        for path, reduction in (("alltoallv", "exact"), ("two_level", "exact"), ("two_level", "node")):
            with self.subTest(path=path, reduction=reduction):
                done = run_cluster(["--hosts", "4", "--ranks-per-host", "2", "--rate", "2gbit"],
                                   [EXCHANGE_TRAFFIC, path, reduction, "64", "2048", "64", "8", "2"])
                self.assertEqual(done.returncode, 0, done.stderr)
                report = json.loads(done.stdout)
                print(json.dumps(report), file=sys.stderr)
                self.assertEqual((report["path"], report["hosts"]), (path, 4))
                # Headers of Ethernet, IP and TCP, of up to 64 KiB segments, and acknowledgements: under 3 %.
                self.assertGreater(report["sent_bytes"], report["expected_bytes"])
                self.assertLess(report["sent_bytes"], 1.03 * report["expected_bytes"])


class Faults(unittest.TestCase):
    """Ranks 0 and 1 are on node1, which survives; 2 and 3 on node2, which is struck."""

    def strike(self, fault, timeout_s, path="alltoallv", phase=None):
        """At step 20, or when rank 2 is in `phase` and its peer on node1 where it then waits for it."""
        before, timeout_s = everything(), deadline(timeout_s)
        lines = ",".join(["strike", *(f"enter {rank} 1 {CUTS[path][phase]}" for rank in PEERS[path])]) if phase else "step 20"
        driver = [sys.executable, os.path.join(HERE, "strike.py"), fault, lines, EXCHANGE_LOOP,
                  f"{timeout_s}s", path, *(["hold", "2", phase] if phase else [])]
        done = run_cluster(["--hosts", "2", "--ranks-per-host", "2", "--rate", "1gbit", "--no-mpirun"], driver)
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        text = json.dumps(report, indent=1).replace("\\n", "\n")
        said, where, said_after = {}, set(), []
        for line in filter(LINE.search, report["said"].splitlines()):
            layer, at_phase, rank, rest = LINE.search(line).groups()
            if rank not in "01":
                continue
            said[int(rank)] = rest
            if re.search(r"rank [23] on host node2", rest):
                where.add((int(layer), at_phase))
        for at in map(AT.search, report["said"].splitlines()):
            if at:
                said_after.append((int(at[1]) - report["strike_ns"]) / 1e9)
        # Over a slow link bytes trickle on, of one transfer and then of the next one: each rank's deadline begins with the
        # wait that does not end, and only whoever speaks first has waited since the strike.
        in_time = min if fault == "slow-link" else max
        self.assertLess(in_time(said_after, default=0), timeout_s + slack(1), text)
        # mpirun ends a job whose host is lost, and names the host; ranks that waited for each other just then both name each other.
        named = where or (fault == "host-loss" and "node2" in report["err"] and sorted(said) == [0, 1])
        self.assertTrue(named, f"nobody on node1 names a rank of node2, layer and phase\n{text}")
        if phase:
            self.assertIn((1, CUTS[path][phase]), where, f"{phase} on {path}\n{text}")
        self.assertEqual(report["survivors_left"], [], text)
        # At the deadline survivors speak; then mpirun gives those it ends up to two seconds.
        self.assertLess(report["seconds"], timeout_s + slack(3), text)
        self.assertEqual(everything(), before)
        return report, said

    def test_host_loss(self):
        report, said = self.strike("host-loss", 20)
        self.assertNotIn(2, said, report["said"])

    def test_cut_link(self):
        cuts = [("alltoallv", "dispatch rows"), ("allgather", "plan selections"), ("two_level", "combine rows")]
        if os.environ.get("TF_CLUSTER_CUTS") == "all":
            cuts = [(path, phase) for path, phases in CUTS.items() for phase in phases]
        for path, phase in cuts:
            with self.subTest(path=path, phase=phase):
                self.strike("cut-link", 2, path, phase)

    def test_slow_link(self):
        self.strike("slow-link", 3)


class Script(unittest.TestCase):
    def test_is_gone_whatever_ends_it(self):
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
            with self.subTest(signal=number):
                before = everything()
                job = subprocess.Popen(cluster_args(["--hosts", "2"], [EXCHANGE_LOOP, "20s", "alltoallv"]), stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
                for line in job.stdout:
                    if line.startswith("step 10"):
                        break
                else:
                    err = job.stderr.read()
                    if job.wait() == SKIPPED:
                        self.skipTest(err.strip())
                    self.fail(err)
                self.assertNotEqual(everything()["processes"], before["processes"])
                self.assertTrue(send(number, job.pid), "it ended too early")
                _, err = job.communicate(timeout=slack(20))
                self.assertEqual(job.returncode, status, err)
                end = time.monotonic() + slack(10)
                while everything() != before and time.monotonic() < end:
                    time.sleep(0.05)
                self.assertEqual(everything(), before)

    def test_passes_status_input_and_output(self):
        done = subprocess.run(cluster_args(["--no-mpirun"], ["sh", "-c", "cat; exit 7"]), input="over\n", capture_output=True,
                              text=True, timeout=slack(60))
        if done.returncode == SKIPPED:
            self.skipTest(done.stderr.strip())
        self.assertEqual((done.returncode, done.stdout), (7, "over\n"), done.stderr)

    def test_refuses(self):
        for options, command, words in ((["--hosts", "0"], ["true"], "--hosts 0"), (["--hosts"], ["true"], "needs a value"),
                                        (["--ranks-per-host", "1,2,3"], ["true"], "3 numbers for 2 hosts"),
                                        (["--nodes", "3"], ["true"], "'--nodes'"), ([], [], "no command"),
                                        (["--rate", "fast"], ["true"], "--rate fast")):
            done = run_cluster(options, command)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(words, done.stderr)


if __name__ == "__main__":
    TOKENFERRY, EXCHANGE_LOOP, EXCHANGE_TRAFFIC = (os.path.abspath(path) for path in sys.argv[1:4])
    unittest.main(argv=sys.argv[:1] + sys.argv[4:], verbosity=2)
