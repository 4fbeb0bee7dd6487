#!/usr/bin/env python3
"""Small files and functions' worth of lines, no leftovers, no paths of one machine, a README in every folder of code."""

import os
import re
import sys

from common import ROOT, lines_of, report, self_test, tree

MAX_LINES = {".h": 400, ".cc": 400, ".cu": 400, ".cuh": 400, ".py": 400, ".sh": 300, ".cmake": 300, ".txt": 300, ".md": 400}
TEXT = tuple(MAX_LINES) + (".yaml", ".json", ".clang-format", ".clang-tidy")
DATA = ("models/", "tests/data/")  # recipes and checkpoints, as they were made
MAX_README_LINES = {"README.md": 150, "bench/README.md": MAX_LINES[".md"]}  # bench: defines every figure; any other: 80
README_FOLDERS = ("core", "comm", "experts", "runtime", "runtime/engine", "runtime/serve", "launch", "bench", "tests", "cluster-configs")

# Written in pieces, so that this file does not find itself.
LEFTOVER = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK", "W" + "IP"]) + r")\b")
CONFLICT = re.compile(r"^(<{7}|>{7}|={7})( |$)")
MACHINE_PATH = re.compile(r"(^|[\s\"'=:(`])/(" + "|".join(["wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers", "mn" + "t"]) + r")/")


def check_line(path, line):
    if LEFTOVER.search(line):
        return "a mark of unfinished work: finish it or write an issue"
    if CONFLICT.match(line):
        return "a mark of a merge conflict"
    if MACHINE_PATH.search(line):
        return "a path of one machine"
    if line != line.rstrip() and not path.endswith(".md"):
        return "space at the end of the line"
    if len(line) > 120 and path.endswith((".h", ".cc", ".cu", ".cuh")):
        return f"{len(line)} columns, 120 are allowed"
    return None


def length_problem(path, lines):
    limit = MAX_LINES.get(os.path.splitext(path)[1])
    if os.path.basename(path) == "README.md":
        limit = MAX_README_LINES.get(path, 80)
    num_lines = len(lines) - (lines[-1] == "")  # what follows the last end of a line is none
    return f"{num_lines} lines, {limit} are allowed" if limit is not None and num_lines > limit else None


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test(([
            (("a.cc", "// TO" + "DO: later"), True),
            (("a.cc", "TO" + "DOS"), False),
            (("a.cc", "<" * 7 + " HEAD"), True),
            (("a.md", 'see "/ho' + 'me/x/y"'), True),
            (("a.md", "run bench/work/x"), False),
            (("a.cc", "int x; "), True),
            (("a.cc", "x" * 121), True),
            (("a.cc", "x" * 120), False),
        ], check_line), ([
            (("a.cc", 401 * ["x"]), True),
            (("a.cc", [*(400 * ["x"]), ""]), False),
            (("core/README.md", 81 * ["x"]), True),
            (("core/README.md", [*(80 * ["x"]), ""]), False),
            (("README.md", 151 * ["x"]), True),
            (("bench/README.md", 240 * ["x"]), False),
        ], length_problem))
    problems = []
    files = [p for p in tree() if p.endswith(TEXT) and not p.startswith(DATA)]
    for path in files:
        lines = lines_of(path)
        problem = length_problem(path, lines)
        if problem:
            problems.append(f"{path}:1: {problem}")
        for number, line in enumerate(lines, 1):
            problem = check_line(path, line)
            if problem:
                problems.append(f"{path}:{number}: {problem}")
    for folder in README_FOLDERS:
        if os.path.isdir(os.path.join(ROOT, folder)) and not os.path.isfile(os.path.join(ROOT, folder, "README.md")):
            problems.append(f"{folder}: has no README.md")
    report(problems, len(files), "problems")


if __name__ == "__main__":
    main()
