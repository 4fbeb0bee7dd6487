#!/usr/bin/env python3
"""Kills or stops one rank of a running job and looks at what the others say.

  rank_death_test.py EXCHANGE_LOOP PATH

The survivors must name the rank, the layer and the phase; the job must end within the deadline and two seconds; no
process and no shared memory of it may remain.
"""
import os
import re
import signal
import subprocess
import sys
import threading
import time

RANKS = 3
PHASES = ["plan counts", "plan selections", "dispatch rows", "combine rows"]


class Job:
    """The processes of one mpirun, and everything they print."""

    def __init__(self, program, path, timeout_s, delay):
        env = dict(os.environ)
        # What a test in a container on a small machine needs; all else is mpirun as a user calls it.
        env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1")
        self.pids, self.step, self.err = {}, -1, ""
        self.proc = subprocess.Popen(["mpirun", "-n", str(RANKS), program, f"{timeout_s}s", path, *delay], stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, text=True, env=env)
        self.readers = [threading.Thread(target=self._read_out), threading.Thread(target=self._read_err)]
        for reader in self.readers:
            reader.start()

    def _read_out(self):
        for line in self.proc.stdout:
            words = line.split()
            if words[:1] == ["rank"]:
                self.pids[int(words[1])] = int(words[3])
            elif words[:1] == ["step"]:
                self.step = int(words[1])

    def _read_err(self):
        for line in self.proc.stderr:
            self.err += line

    def wait_for_step(self, step):
        end = time.monotonic() + 60
        while time.monotonic() < end and (self.step < step or len(self.pids) < RANKS):
            assert self.proc.poll() is None, f"the job ended by itself:\n{self.err}"
            time.sleep(0.01)
        assert self.step >= step, f"the job does not get to step {step}:\n{self.err}"

    def shared_memory(self):
        """Files of /dev/shm that its processes have mapped."""
        files = set()
        for pid in self.pids.values():
            with open(f"/proc/{pid}/maps") as maps:
                # Without what has no name any more ("... (deleted)").
                files |= set(re.findall(r"(/dev/shm/\S+)$", maps.read(), re.MULTILINE))
        return files


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def check(program, path, name, signal_number, timeout_s, state, victim, phase=None):
    """With `phase`, the victim is slow in that phase, so that the signal finds it there."""
    job = Job(program, path, timeout_s, [str(victim), phase] if phase else [])
    try:
        job.wait_for_step(2 if phase else 20)
        files = job.shared_memory()
        if phase:
            time.sleep(0.05)  # a step has just ended: now the victim is late to the phase in the next one's first layer
        start = time.monotonic()
        os.kill(job.pids[victim], signal_number)
        job.proc.wait(timeout=timeout_s + 60)
        seconds = time.monotonic() - start
        for reader in job.readers:
            reader.join()
    finally:
        if job.proc.poll() is None:
            job.proc.kill()
            for pid in job.pids.values():
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)
    print(f"{name} of rank {victim}: ended after {seconds:.2f} s with {job.proc.returncode}\n{job.err}", flush=True)
    assert job.proc.returncode != 0
    # Survivors speak at the deadline. Then mpirun wakes a stopped rank, sends SIGTERM and gives it two seconds to go.
    assert seconds < timeout_s + 3, f"took {seconds:.2f} s with a deadline of {timeout_s} s"
    lines = re.findall(rf"layer \d+, (?:{phase or '|'.join(PHASES)}), step \d+, transfer \d+: rank (\d+) waits for .*rank {victim} on host "
                       rf"\S+ \((.*)\)", job.err)
    survivors = {int(rank) for rank, _ in lines}
    assert survivors, f"no survivor names rank {victim}, layer and phase"
    assert victim not in survivors
    assert any(state in text for _, text in lines), f"nobody says that its process is {state}"
    end = time.monotonic() + 2  # mpirun does not wait for the processes that it has killed
    while any(alive(pid) for pid in job.pids.values()) and time.monotonic() < end:
        time.sleep(0.02)
    left = [pid for pid in job.pids.values() if alive(pid)]
    assert not left, f"processes remain: {left}"
    remaining = [file for file in files if os.path.exists(file)]
    assert not remaining, f"shared memory remains: {remaining}"
    return survivors


def main():
    program, path = sys.argv[1:]
    kill, stop = ("SIGKILL", signal.SIGKILL, 20, "gone"), ("SIGSTOP", signal.SIGSTOP, 2, "stopped (SIGSTOP?)")
    for victim in (2, 0):
        check(program, path, *kill, victim)
        check(program, path, *stop, victim)
    if path == "peer":
        for phase in ("plan counts", "dispatch rows", "combine rows"):
            check(program, path, *kill, 1, phase)
            check(program, path, *stop, 1, phase)


if __name__ == "__main__":
    main()
