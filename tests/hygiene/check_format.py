#!/usr/bin/env python3
"""check_format.py CLANG_FORMAT: every source file is as .clang-format would write it."""

import subprocess
import sys

from common import ROOT, report, tree


def main():
    files = tree([".h", ".cc", ".cu", ".cuh"])
    problems = []
    for begin in range(0, len(files), 50):
        done = subprocess.run([sys.argv[1], "--dry-run", "--Werror", *files[begin:begin + 50]], cwd=ROOT, capture_output=True, text=True)
        places = {line.split(": ")[0].rsplit(":", 1)[0] for line in done.stderr.split("\n") if "error:" in line}
        if done.returncode != 0 and not places:
            places = {done.stderr.strip()}
        problems += [f"{place}: run clang-format -i on this file" for place in sorted(places)]
    report(problems, len(files), "places to format")


if __name__ == "__main__":
    main()
