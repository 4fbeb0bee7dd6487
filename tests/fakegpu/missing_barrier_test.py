#!/usr/bin/env python3
"""A kernel without any one of its barriers is found out by the tests that launch it.

    missing_barrier_test.py PROGRAM TESTS/KERNEL[-N..] ..

Runs those tests of PROGRAM that TESTS, a filter of Google Test, names, once for each bar.sync in the PTX of the kernels in whose mangled
name KERNEL occurs, and takes that one out (tests/fakegpu/cudart/missing_barrier.h): they have to fail, and
to say what was wrong. -N: all but barrier N, which orders global memory alone, of whose reads and writes the fakes keep no record.
"""
import os
import re
import subprocess
import sys


# A rule that the kernel broke, or a result that is not the reference's.
NOTICED = re.compile(r"^fake CUDA: kernel |: Failure$", re.M)


def run(program, tests, environment):
    command = [program, f"--gtest_filter={tests}", "--gtest_fail_fast", "--gtest_brief=1"]
    return subprocess.run(command, env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def main():
    program, *cases = sys.argv[1:]
    unnoticed = []
    for case in cases:
        tests, kernel = case.split("/")
        name, *left_out = kernel.split("-")
        number = num_barriers = 0
        while number == 0 or number < num_barriers:
            without = run(program, tests, {"TF_FAKEGPU_WITHOUT_BARRIER": f"{name}:{number}"})
            counts = {int(count) for count in re.findall(r"fake CUDA: .* without barrier \d+ of (\d+)", without.stdout)}
            if not counts:
                sys.exit(f"{tests} of {program} launch no kernel '{name}' that has a barrier {number}")
            num_barriers = max(counts)
            is_noticed = without.returncode != 0 and NOTICED.search(without.stdout)
            if not is_noticed and str(number) not in left_out:
                unnoticed.append(f"{name} passes without barrier {number} of {num_barriers}")
            number += 1
        print(f"{name}: {num_barriers} barriers, {len(left_out)} of them order global memory alone")
    sys.exit("\n".join(unnoticed) or 0)


if __name__ == "__main__":
    main()
