#!/usr/bin/env python3
"""Runs a job on an emulated cluster and strikes its last host when it has printed some lines.

  local_cluster.sh .. --no-mpirun -- strike.py host-loss|cut-link|slow-link LINE[,LINE ..] PROGRAM [ARG ..]

LINE is how a line of PROGRAM's output begins: "step 20"; or "strike" of a rank that holds in a phase until it finds
TF_SAID_DIR/struck, and "enter 0 1 dispatch rows" of one that has come to another (tests/comm/exchange/exchange_loop.cc). Prints one JSON object: when it struck (CLOCK_MONOTONIC, ns), seconds from then until no
process of PROGRAM was left on the other hosts, those that were still left a minute (on an idle machine) later, mpirun's stderr and the ranks' own.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "support"))

from slack import slack  # noqa: E402

CLUSTER = os.environ["LOCAL_CLUSTER"]
WAIT_S = 60  # on an idle machine


def read(name):
    with open(os.path.join(CLUSTER, name)) as f:
        return f.read()


def hosts():
    return [line.split()[0] for line in read("hostfile").splitlines()]


def strike(fault, host):
    link = host.replace("node", "link")
    if fault == "host-loss":
        os.kill(int(read(f"{host}.pid")), signal.SIGKILL)
    elif fault == "cut-link":
        subprocess.run(["ip", "link", "set", link, "down"], check=True)
    elif fault == "slow-link":  # a fraction of a message per deadline, once 2 KB have passed
        subprocess.run(["tc", "qdisc", "replace", "dev", link, "root", "handle", "1:", "tbf", "rate", "200bit", "burst",
                        "2kb", "limit", "10mb"], check=True)
    else:
        sys.exit(f"strike.py: unknown fault {fault}")


def processes(program, on_hosts):
    """Pids of `program` in the PID namespaces of these hosts."""
    inside = {os.readlink(f"/proc/{read(f'{host}.pid').strip()}/ns/pid") for host in on_hosts}
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                running = stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
            if running and os.readlink(f"/proc/{pid}/exe") == program and os.readlink(f"/proc/{pid}/ns/pid") in inside:
                found.append(int(pid))
        except OSError:  # it has ended
            pass
    return found


def main():
    with tempfile.TemporaryDirectory() as said_dir:
        run(said_dir)


def run(said_dir):
    fault, awaited, program = sys.argv[1], [line.split() for line in sys.argv[2].split(",")], os.path.realpath(sys.argv[3])
    *survivors, struck = hosts()
    slots = sum(int(line.split("slots=")[1]) for line in read("hostfile").splitlines())
    job = subprocess.Popen(["mpirun", "--hostfile", os.path.join(CLUSTER, "hostfile"), "-n", str(slots),
                            "-x", f"TF_SAID_DIR={said_dir}", program, *sys.argv[4:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    err = []
    reader = threading.Thread(target=lambda: err.extend(job.stderr), daemon=True)
    reader.start()
    for line in job.stdout:
        awaited = [begin for begin in awaited if line.split()[:len(begin)] != begin]
        if not awaited:
            break
    else:
        job.wait()
        reader.join()
        sys.exit(f"strike.py: the job ended by itself:\n{''.join(err)}")
    drain = threading.Thread(target=job.stdout.read, daemon=True)
    drain.start()
    start, strike_ns, wait_s = time.monotonic(), time.monotonic_ns(), slack(WAIT_S)
    strike(fault, struck)
    open(os.path.join(said_dir, "struck"), "w").close()
    while (left := processes(program, survivors)) and time.monotonic() < start + wait_s:
        time.sleep(0.02)
    seconds = time.monotonic() - start
    try:
        job.wait(timeout=slack(1))  # it may wait for the host that is gone
    except subprocess.TimeoutExpired:
        pass
    said = []
    for name in sorted(os.listdir(said_dir)):
        with open(os.path.join(said_dir, name)) as f:
            said.append(f.read())
    print(json.dumps({"strike_ns": strike_ns, "seconds": seconds, "survivors_left": left, "mpirun": job.poll(),
                      "err": "".join(err), "said": "".join(said)}))


if __name__ == "__main__":
    main()
