#!/usr/bin/env python3
"""Every kernel of kernels.txt was launched by a test of one operation.

    check_launched.py FOLDER

Each file in FOLDER has the mangled names of the kernels that a test launched (TF_FAKEGPU_LAUNCHED).
"""
import pathlib
import subprocess
import sys

from check_resources import TABLE, without_parameters


def main():
    names = sorted({name for path in pathlib.Path(sys.argv[1]).glob("*.txt") for name in path.read_text().split()})
    demangled = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    launched = {without_parameters(name) for name in demangled.splitlines()}
    kernels = [line.rsplit(" ", 2)[0] for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    absent = [name for name in kernels if name not in launched]
    for name in absent:
        print(f"{name}: no test of an operation launches it")
    print(f"{len(kernels)} kernels, {len(absent)} of them not launched")
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
