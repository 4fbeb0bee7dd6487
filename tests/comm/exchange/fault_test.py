#!/usr/bin/env python3
"""One rank of a running job stops or dies in a given phase of a given path: what the others say, when, and what is left.

  fault_test.py EXCHANGE_LOOP [--full]

Without --full every path and every phase is struck once, by SIGSTOP and SIGKILL in turn; with it by both.

Survivors must name the rank, the layer and the phase within the deadline and a second, from the strike or from when they came
to that phase, whichever was later: by the clock that victim and survivors print, since mpirun takes up to two seconds more to
end a job. The job must end, and leave no process and no
shared memory.
"""
import concurrent.futures
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))

from slack import deadline, send, slack  # noqa: E402

VICTIM, FAULT_LAYER = 1, 1
TIMEOUT_S = 1  # of a wait on an idle machine
JOBS_AT_ONCE = 3  # they do little but wait
PLAN = ["plan counts", "plan selections"]
# path: {phase in which the victim is struck: phase in which somebody then waits for it}
PHASES = {
    # Headers and index arrays go together; what an exchange reads last is missed by the next one.
    "peer": {"plan counts": "plan counts", "plan selections": "dispatch rows", "dispatch rows": "dispatch rows",
             "experts": "combine rows", "combine rows": "combine rows", "combine sums": "plan counts"},
    "alltoallv": {p: p for p in [*PLAN, "dispatch rows", "combine rows"]} | {"experts": "combine rows"},
    "allgather": {p: p for p in [*PLAN, "dispatch rows", "combine rows"]} | {"experts": "combine rows"},
    "two_level": {p: p for p in [*PLAN, "plan forwards", "dispatch rows", "forward rows",
                                 "combine inside", "combine rows"]} | {"experts": "combine inside"},
}
ENTER = re.compile(r"enter (\d+) (\d+) ([a-z ]+) at (\d+)$")
SAID = re.compile(r"layer (\d+), ([a-z ]+), step \d+, transfer \d+: rank (\d+) waits for (.*)")
AT = re.compile(r"ended at (\d+): ")


class Job:
    """The processes of one mpirun, and everything they print. What ranks say goes to files: mpirun may lose the words of one when
    it ends a job, and every survivor's are wanted."""

    def __init__(self, num_ranks, timeout_s, program, args):
        env = dict(os.environ)
        # What a test in a container on a small machine needs; all else is mpirun as a user calls it.
        env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1",
                   OMPI_MCA_hwloc_base_binding_policy="none")
        self.timeout_s, self.pids, self.files, self.strike_ns, self.err = timeout_s, {}, set(), None, []
        self.entered_ns = {}  # of (rank, layer, phase)
        self.said = tempfile.TemporaryDirectory()
        env["TF_SAID_DIR"] = self.said.name
        self.proc = subprocess.Popen(["mpirun", "-n", str(num_ranks), program, f"{timeout_s}s", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                     text=True, env=env)
        self.readers = [threading.Thread(target=self._read_out), threading.Thread(target=self._read_err)]
        for reader in self.readers:
            reader.start()

    def _read_out(self):
        for line in self.proc.stdout:
            words = line.split()
            if words[:1] == ["rank"]:
                self.pids[int(words[1])] = int(words[3])
            elif words == ["step", "0"]:
                self.files = self._shared_memory()
            elif words[:1] == ["strike"]:
                self.strike_ns = int(words[1])
            elif enter := ENTER.match(line):
                self.entered_ns[int(enter[1]), int(enter[2]), enter[3]] = int(enter[4])

    def _read_err(self):
        self.err.extend(self.proc.stderr)

    def _shared_memory(self):
        """Files of /dev/shm that its processes have mapped, without those that have no name ("... (deleted)")."""
        files = set()
        for pid in list(self.pids.values()):
            try:
                with open(f"/proc/{pid}/maps") as maps:
                    files |= set(re.findall(r"(/dev/shm/\S+)$", maps.read(), re.MULTILINE))
            except OSError:  # it has ended
                pass
        return files

    def wait(self):
        try:
            self.proc.wait(timeout=self.timeout_s + slack(60))
            return True
        except subprocess.TimeoutExpired:
            return False
        finally:
            if self.proc.poll() is None:
                self.proc.kill()
            for reader in self.readers:
                reader.join()
            for path in sorted(pathlib.Path(self.said.name).iterdir()):
                self.err.extend(path.read_text().splitlines(keepends=True))
            self.said.cleanup()

    def left(self):
        """Processes and files that remain; mpirun does not wait for the processes that it has killed."""
        end = time.monotonic() + slack(3)
        while any(map(alive, self.pids.values())) and time.monotonic() < end:
            time.sleep(0.02)
        processes = [pid for pid in self.pids.values() if alive(pid)]
        for pid in processes:
            send(signal.SIGKILL, pid)
        return processes + [file for file in self.files if os.path.exists(file)]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def problems(job, fault, path, phase, ended):
    """What is wrong with the way a job ended: a list of sentences."""
    found = []
    if job.strike_ns is None:
        return ["the victim has never come to the phase"]
    if not ended:
        found.append("the job does not end")
    if job.proc.returncode == 0:
        found.append("the job ended with status 0")
    expected, late, state = PHASES[path][phase], [], "gone" if fault == "kill" else "stopped (SIGSTOP?)"
    expected_layer = FAULT_LAYER + (phase == "combine sums")
    lines = [(*SAID.search(line).groups(), AT.search(line)) for line in job.err if SAID.search(line)]
    named = [(layer, where) for layer, where, rank, rest, _ in lines
             if int(rank) != VICTIM and re.search(rf"rank {VICTIM} on host \S+ \([^)]*{re.escape(state)}", rest)]
    if (str(expected_layer), expected) not in named:
        found.append(f"nobody names rank {VICTIM}, {state}, layer {expected_layer}, {expected}: {named}")
    if not set(job.pids) - {VICTIM} <= {int(line[2]) for line in lines}:  # mpirun wakes the victim: it may speak too
        found.append("not every survivor says for whom it waits")
    for layer, where, rank, _, at in lines:
        if int(rank) == VICTIM:
            continue  # stopped until mpirun has woken it, when the survivors had spoken
        since = max(job.strike_ns, job.entered_ns.get((int(rank), int(layer), where), 0))
        seconds = (int(at[1]) - since) / 1e9 if at else 0
        if seconds > job.timeout_s + slack(1):
            found.append(f"rank {rank} said so {seconds:.2f} s after the strike and its entry, with a deadline of {job.timeout_s} s")
    left = job.left()
    if left:
        found.append(f"left behind: {left}")
    return found


def run(case):
    program, fault, path, phase = case
    # On two hosts of two ranks everybody sends to somebody on every leg of the way.
    job = Job(4 if path == "two_level" else 3, deadline(TIMEOUT_S), program, [path, fault, str(VICTIM), phase])
    ended = job.wait()
    found = problems(job, fault, path, phase, ended)
    at = [int(AT.search(line)[1]) for line in job.err if AT.search(line) and f": rank {VICTIM} waits" not in line]
    said = f"said after {(max(at) - job.strike_ns) / 1e9:.2f} s" if at and job.strike_ns else "nothing said"
    print(f"{'FAILED' if found else 'ok':7}{fault} in {phase} on {path}: {said}", flush=True)
    if found:
        print("  " + "\n  ".join(found) + "\n" + "".join(job.err), flush=True)
    return bool(found)


def main():
    program, full = sys.argv[1], sys.argv[2:] == ["--full"]
    cases = []
    for path, phases in PHASES.items():
        for i, phase in enumerate(phases):
            cases += [(program, fault, path, phase) for n, fault in enumerate(("stop", "kill")) if full or i % 2 == n]
    with concurrent.futures.ThreadPoolExecutor(JOBS_AT_ONCE) as pool:
        failed = sum(pool.map(run, cases))
    print(f"{len(cases) - failed} of {len(cases)} cases passed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
