"""What a report of a benchmark says of the machine that it was taken on."""
import os
import platform


def machine():
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.machine())
    return f"{model}, {len(os.sched_getaffinity(0))} CPUs, Linux {platform.release()}"
