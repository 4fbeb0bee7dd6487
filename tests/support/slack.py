"""How much longer than on an idle machine something may take, and signals to who may have ended. For tests of jobs of several
processes: others run beside them. slack.h has the same rule for C++."""

import math
import os

TIME_SCALE = float(os.environ.get("TF_TIME_SCALE", 1))  # how much longer everything may take: under sanitizers, more than 1


def slack(seconds):
    """`seconds`, which suffice on an idle machine, for this one as it is: as much longer as there are processes, now or on
    average of the last minute, that want to run on one processor."""
    with open("/proc/loadavg") as f:
        minute, _, _, now, _ = f.read().split()
    return seconds * TIME_SCALE * max(1, max(float(minute), int(now.split("/")[0])) / len(os.sched_getaffinity(0)))


def deadline(seconds):
    """For a program's flag: who waits for a processor as long as a short deadline lasts has not been lost. Half of the slack,
    since a rank needs its turns, not all of a processor; many tests wait until it is over. Whoever passes it keeps the value,
    for what the test then expects."""
    return math.ceil(max(seconds * TIME_SCALE, slack(seconds) / 2))


def send(how, pid):
    """Whether the signal found its process: a job may end at any moment."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return False
    return True
