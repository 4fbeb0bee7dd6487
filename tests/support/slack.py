"""How much longer than on an idle machine something may take. For tests of how soon a job ends: others run beside them."""

import os

TIME_SCALE = float(os.environ.get("TF_TIME_SCALE", 1))  # how much longer everything may take: under sanitizers, more than 1


def slack(seconds):
    """`seconds`, which suffice on an idle machine, for this one as it is: as much longer as there are processes, now or on
    average of the last minute, that want to run on one processor."""
    with open("/proc/loadavg") as f:
        minute, _, _, now, _ = f.read().split()
    return seconds * TIME_SCALE * max(1, max(float(minute), int(now.split("/")[0])) / len(os.sched_getaffinity(0)))
