#!/usr/bin/env python3
"""small_shm_test.py PROGRAM: a /dev/shm that is too small for path peer.

Path peer says what it needs and what to do; path auto takes another one, says so, and gives the same text. Skips itself,
with the reason, where a mount namespace is not permitted.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.append(os.path.join(ROOT, "tests", "support"))

from slack import slack  # noqa: E402

# Ranks share files in /tmp instead, as launch/scripts/mpirun_env.sh arranges; the tmpfs ends with the namespace.
INSIDE = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'


def generate(program, path, *around):
    command = ["bash", os.path.join(ROOT, "tests/support/mpirun.sh"), "2", program, "generate", "--model",
               os.path.join(ROOT, "models/ferry-tiny-v3"), "--prompt", "The river", "--max-tokens", "8", "--path", path]
    return subprocess.run([*around, *command], capture_output=True, text=True, timeout=slack(60))


def main():
    program = os.path.abspath(sys.argv[1])
    inside = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "bash", "-c", INSIDE, "inside"]
    probe = subprocess.run([*inside, "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        print(f"skipped: no mount namespace here: {probe.stderr.strip()}")
        return
    usual = generate(program, "auto")
    assert usual.returncode == 0 and "not taking path peer" not in usual.stderr, usual.stderr

    refused = generate(program, "peer", *inside)
    print(refused.stderr)
    assert refused.returncode != 0, refused.stdout
    said = re.findall(r"peer memory needs (\d+) MiB in /dev/shm, where 0 MiB are free: enlarge it \(mount -o remount,"
                      r"size=(\d+)m /dev/shm; docker run --shm-size\), or choose path alltoallv", refused.stderr)
    assert len(said) == 1 and int(said[0][0]) <= int(said[0][1]), "the size needed is not told, once"

    fallback = generate(program, "auto", *inside)
    print(fallback.stderr)
    assert fallback.returncode == 0, fallback.stderr
    assert "not taking path peer: " in fallback.stderr and "peer memory needs" in fallback.stderr, fallback.stderr
    assert fallback.stdout == usual.stdout, f"{fallback.stdout!r} instead of {usual.stdout!r}"


if __name__ == "__main__":
    main()
