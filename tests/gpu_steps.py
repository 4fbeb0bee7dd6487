#!/usr/bin/env python3
"""gpu_steps.py STEP ARG ..: the steps of gpu.sh that have to read what programs say, and its report. Status 77: skipped, the
last line says why."""

import json
import os
import re
import signal
import subprocess
import sys
import time

SKIPPED = 77


def texts(program, model, file, *flags):
    """The golden texts of `file`. A decode step is a graph on path peer, which is the usual one; by messages it is not."""
    with open(file) as f:
        golden = json.load(f)
    prompts = [word for case in golden.values() for word in ("--prompt", case["prompt"])]
    done = subprocess.run([program, "generate", "--model", model, "--json", "--max-tokens", "64", "--compute", "f32", *flags, *prompts],
                          capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    print(done.stderr)
    outputs = json.loads(done.stdout)["outputs"]
    bad = [name for (name, case), got in zip(golden.items(), outputs) if got["ids"] != case["ids"]]
    print(f"{len(golden) - len(bad)} of {len(golden)} golden texts")
    sys.exit(f"wrong: {bad}" if bad else 0)


def rank_of(mpirun, rank):
    """The process of a rank, or None."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                parent = f.read().rsplit(")", 1)[1].split()[1]
            with open(f"/proc/{pid}/environ", "rb") as f:
                is_rank = f"OMPI_COMM_WORLD_RANK={rank}".encode() in f.read().split(b"\0")
        except OSError:
            continue  # it has ended meanwhile, or is somebody else's
        if int(parent) == mpirun and is_rank:
            return int(pid)
    return None


def killed_rank(program, model, *flags):
    """Kills rank 1 of 3 while they write: the others name it, within the deadline."""
    timeout = 10
    job = subprocess.Popen(["bash", "-c", 'ranks "$@"', "bash", "3", program, "generate", "--model", model, "--prompt", "In the beginning",
                            "--max-tokens", "4000", "--ignore-eos", "--comm-timeout", f"{timeout}s", *flags],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    written = os.read(job.stdout.fileno(), 1)  # the prompt comes before the first step
    for _ in range(20):
        written += os.read(job.stdout.fileno(), 1)
    end = time.monotonic() + 5
    while (victim := rank_of(job.pid, 1)) is None and job.poll() is None and time.monotonic() < end:
        time.sleep(0.05)  # what is read may be of another rank, while this one is still being started
    if victim is None:
        text = job.communicate()[1].decode(errors="replace").strip()
        absent = [line for line in text.splitlines() if re.search(os.environ["no_nccl"], line)]
        print(text, *absent[:1], sep="\n")
        sys.exit(SKIPPED if absent or job.returncode == SKIPPED else "rank 1 has ended before it was killed")
    os.kill(victim, signal.SIGKILL)
    begin = time.monotonic()
    err = job.communicate(timeout=3 * timeout)[1].decode(errors="replace")
    seconds = time.monotonic() - begin
    print(err)
    named = [line for line in err.splitlines() if line.startswith("tokenferry: ") and "rank 1" in line]
    print(f"the job was over {seconds:.1f} s after its rank 1")
    if job.returncode == 0 or not named:
        sys.exit("nobody names rank 1")
    if seconds > timeout + 5:
        sys.exit(f"that is not within the {timeout} s of --comm-timeout")


def graphs(program, model, out):
    """Decode steps as graphs against the same steps enqueued operation by operation, of 8 sequences. Routing is recorded for
    that, which copies each layer's choices to the host; by messages nothing is copied, but the exchange is another."""
    rates = {}
    for name, flags in (("graph", ["--path", "peer"]), ("eager_recording_routing", ["--path", "peer", "--record-routing", os.devnull]),
                        ("eager_by_messages", ["--path", "alltoallv"])):
        done = subprocess.run([program, "generate", "--model", model, "--device", "cuda", "--max-tokens", "64", "--ignore-eos", "--stats",
                               *flags, *["--prompt", "In the beginning"] * 8], capture_output=True, text=True)
        found = re.search(r"^decode +(\d+) tokens +([\d.]+) tokens/s", done.stdout + done.stderr, re.MULTILINE)
        if done.returncode != 0 or not found:
            sys.exit(f"{name}: {done.stderr}")
        rates[name] = {"tokens_per_second": float(found[2]), "microseconds_per_step": 8e6 / float(found[2])}
        print(f"{name:24} {rates[name]['microseconds_per_step']:10.0f} us per step")
    with open(out, "w") as f:
        json.dump(rates, f)


def report(out):
    """Writes gpu.json; status 1 when a step failed or was left out."""
    def log(name):
        with open(os.path.join(out, name + ".log"), errors="replace") as f:
            return f.read()

    with open(os.path.join(out, "steps.tsv")) as f:
        steps = [line.rstrip("\n").split("\t") for line in f]
    result = {"commit": None, "machine": log("machine").splitlines(), "steps": []}
    if os.path.exists("commit"):
        with open("commit") as f:
            result["commit"] = f.read().strip()
    for name, outcome, status, seconds in steps:
        text = log(name)
        step = {"name": name, "outcome": outcome, "status": int(status), "seconds": int(seconds), "log_end": text[-600:]}
        skipped = sorted(set(re.findall(r"^\[  SKIPPED \] (\S+\.\S+)", text, re.MULTILINE)))
        if skipped:
            step["skipped_tests"] = skipped
        if outcome == "skipped":
            step["why"] = text.strip().splitlines()[-1] if text.strip() else ""
        result["steps"].append(step)
    for name in ("kernels", "alltoall", "graphs"):
        file = os.path.join(out, name + ".json")
        if os.path.exists(file):
            with open(file) as f:
                result[name] = json.load(f)
    with open(os.path.join(out, "gpu.json"), "w") as f:
        json.dump(result, f, indent=1)
    bad = [name for name, outcome, _, _ in steps if outcome not in ("passed", "skipped")]
    print(f"{len(steps) - len(bad)} of {len(steps)} steps without a failure; {os.path.join(out, 'gpu.json')}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
