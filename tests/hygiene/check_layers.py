#!/usr/bin/env python3
"""Includes point down the layer diagram of docs/design.md, and code that differs by platform stays where it may."""

import os
import re
import sys

from common import lines_of, report, self_test, tree

# Who may include whom. A box may always include itself. A box of several stands for all of them, but among themselves for
# the files at its root: so a new folder has to be added here before it may include anything.
MAY_INCLUDE = {
    "core": set(),
    "core/formats": {"core"},
    "core/host": {"core"},
    "core/io": {"core", "core/formats"},
    "core/device": {"core", "core/host"},
    "core/moe": {"core", "core/formats", "core/io"},
    "core/kernels": {"core", "core/formats", "core/device"},
    "comm": set(),
    "comm/wait": {"core"},
    "comm/peer": {"core", "comm/wait"},
    "comm/transport": {"core", "comm/wait", "comm/peer"},
    "comm/plan": {"core", "comm/transport"},
    "comm/ops": {"core"},
    "comm/exchange": {"core", "comm/wait", "comm/peer", "comm/transport", "comm/plan", "comm/ops"},
    "comm/tuning": {"core", "comm/transport", "comm/exchange"},
    "experts": set(),
    "experts/router": {"core"},
    "experts/overflow": {"core", "experts/router"},
    "experts/ffn": {"core"},
    "runtime": set(),
    "runtime/checkpoint": {"core"},
    "runtime/text": {"core"},
    "runtime/ops": {"core"},
    "runtime/attention": {"core", "runtime/ops"},
    "runtime/model": {"core", "runtime/checkpoint", "runtime/ops", "runtime/attention"},
    "runtime/families": {"core", "runtime/checkpoint", "runtime/attention", "runtime/model"},
    "runtime/engine": {"core", "comm", "experts", "runtime/checkpoint", "runtime/ops", "runtime/attention", "runtime/model"},
    "runtime/serve": {"core", "runtime/text", "runtime/model", "runtime/families", "runtime/engine"},
    "bench": {"core", "comm", "experts", "runtime"},
    "launch": {"launch/cli", "launch/ranks", "launch/commands"},
    "launch/cli": {"core", "comm", "experts", "runtime"},
    "launch/ranks": {"core", "comm", "launch/cli"},
    "launch/session": {"core", "comm", "experts", "runtime", "launch/cli", "launch/ranks"},
    "launch/reports": {"core", "comm", "experts", "runtime", "launch/cli", "launch/ranks", "launch/session"},
    "launch/commands": {"core", "comm", "experts", "runtime", "bench", "launch/cli", "launch/ranks", "launch/session", "launch/reports"},
    "fuzz": {"core", "comm", "experts", "runtime", "bench"},
    "examples": {"core", "comm", "experts"},  # what the installed package has
}
# Groups of folders or files that may still include each other in a circle.
CIRCLES_ALLOWED = []
# Tests may include anything below them, launch too: its flags are tested.
MAY_INCLUDE["tests"] = {box for box in MAY_INCLUDE if box not in ("fuzz", "examples")}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
CONDITION = re.compile(r"^\s*#\s*(ifdef|ifndef|if|elif)\b(.*)")
# Where code may ask for the platform: the devices, what core wraps of the processor, and kernel files, which are named
# for it: *_ops.cc, *_kernels.cc, *_cpu.cc, *_simd.cc, *_<instruction set>.cc, and what they include.
MAY_ASK = re.compile(r"^(core/device/|core/kernels/|core/(formats/scalar\.h|host/(isa|wait|affinity)\.cc)$|tests/"
                     r"|.*_(ops|kernels?|cpu|simd|avx\w+|neon)\.(cc|h)$|.*-inl\.h$|.*\.cuh?$)")
# What tells the wall clock, or waits by it. Absl's timeouts are points of the wall clock too.
WALL_CLOCK = re.compile(r"\babsl::(Now|GetCurrentTimeNanos)\(|\bsystem_clock\b|\bCLOCK_REALTIME\b|\bgettimeofday\b"
                        r"|\b\w*(With|Until)(Timeout|Deadline)\(|\bsem_timedwait\b|\bstd::time\(")
MAY_TELL_TIME = {"tests/comm/transport/wall_clock_test.cc",  # steps it
                 "runtime/text/chat/local_time.cc",  # the date that chat templates print; nothing waits by it
                 "runtime/serve/front/wall_clock.cc"}  # what answers say of when they were made
# Flags are launch's: who has no command line cannot give them. Those of other programs, docker's here, may be named.
LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|//.*')
FLAG = re.compile(r"(?<![\w-])--([a-z][\w-]*)")
FLAGS_OF_OTHERS = {"ipc", "pid", "shm-size"}
# Conditions of Highway's dispatch, which compiles a kernel file several times, whatever its name.
SIMD_CONDITION = re.compile(r"\b(HWY_\w+|TF_SIMD_\w+)\b")


def box_of(path):
    for box in sorted(MAY_INCLUDE, key=len, reverse=True):
        if path.startswith(box + "/"):
            return box
    return None


def may_include(box, target):
    whole = target.split("/")[0]
    return target == box or target in MAY_INCLUDE[box] or (whole in MAY_INCLUDE[box] and whole != box.split("/")[0])


def check_line(path, line):
    """What is wrong with a line of the file `path`, or None."""
    box = box_of(path)
    include = INCLUDE.match(line)
    if include:
        target = box_of(include.group(1))
        if target is not None and not may_include(box, target):
            return f'{box} must not include "{include.group(1)}" of {target}'
        if include.group(1).startswith("."):
            return f'include "{include.group(1)}" from the root, not by a relative path'
    if box.split("/")[0] in ("comm", "experts", "core"):
        literals = [text for text in LITERAL.findall(line) if text.startswith('"')]
        flags = set(FLAG.findall(" ".join(literals))) - FLAGS_OF_OTHERS
        if flags:
            return f"--{min(flags)} is a flag of launch: say what is meant"
    if WALL_CLOCK.search(line) and path not in MAY_TELL_TIME:
        return "waits and times are by the steady clock (core/host/clock.h), which nobody can set"
    condition = CONDITION.match(line)
    if condition and not MAY_ASK.match(path) and not SIMD_CONDITION.search(condition.group(2)):
        return f"#{condition.group(1)} belongs into core/device and kernel files"
    return None


def own_header_problem(path, lines, paths):
    """What is wrong with the first include of the file `path`, or None: x.cc begins with x.h, which so compiles alone."""
    own = path[:-3] + ".h"
    if not path.endswith(".cc") or own not in paths or box_of(path) == "tests":
        return None
    first = next((INCLUDE.match(line) for line in lines if re.match(r"\s*#\s*include", line)), None)
    return None if first and first.group(1) == own else f'the first include must be "{own}"'


def circles(edges):
    """The groups of nodes that reach each other: {node: set of nodes} -> [set of nodes] (Tarjan's algorithm)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(edges.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = set(stack[stack.index(node):])
            del stack[stack.index(node):]
            if len(group) > 1:
                found.append(group)

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def circle_problems(includes, allowed):
    """`includes`: {file: files that it includes}. Complains about circles of files and of folders that no group in `allowed` holds."""
    folders = {}
    for path, targets in includes.items():
        folders.setdefault(os.path.dirname(path), set()).update(map(os.path.dirname, targets))
    found = circles(includes) + circles(folders)
    return [f"include each other in a circle: {', '.join(sorted(group))}" for group in found
            if not any(group <= set(names) for names in allowed)]


TYPE = re.compile(r"^(?:struct|class) (?:alignas\(\w+\) )?(\w+)(?: final)?(?: :.*)? \{")


def twice_defined(lines_per_header):
    """Types that two headers define at namespace level: the linker would take one for the other without a word."""
    first, problems = {}, []
    for path, lines in sorted(lines_per_header.items()):
        for number, line in enumerate(lines, 1):
            found = TYPE.match(line)
            if found and first.setdefault(found.group(1), path) != path:
                problems.append(f"{path}:{number}: {found.group(1)} is also a type of {first[found.group(1)]}")
    return problems


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test(([
            (("comm/a.cc", '#include "experts/router/router.h"'), True),
            (("experts/a.cc", '#include "comm/transport/transport.h"'), True),
            (("core/a.h", '#include "comm/transport/transport.h"'), True),
            (("runtime/model/a.cc", '#include "runtime/engine/b.h"'), True),
            (("runtime/model/a.cc", '  # include "experts/b.h"'), True),
            (("runtime/engine/a.cc", '#include "launch/cli/shared_flags.h"'), True),
            (("runtime/engine/a.cc", '#include "comm/transport/transport.h"'), False),
            (("launch/session/a.cc", '#include "runtime/engine/b.h"'), False),
            (("launch/ranks/a.cc", '#include "launch/session/b.h"'), True),
            (("launch/reports/a.cc", '#include "launch/session/b.h"'), False),
            (("comm/transport/a.cc", '#include "comm/plan/b.h"'), True),
            (("comm/plan/a.cc", '#include "comm/exchange/peer/b.h"'), True),
            (("comm/exchange/peer/a.cc", '#include "comm/plan/b.h"'), False),
            (("comm/exchange/a.cc", '#include "comm/tuning/b.h"'), True),
            (("comm/new/a.cc", '#include "comm/plan/b.h"'), True),
            (("core/io/a.cc", '#include "core/kernels/b.h"'), True),
            (("core/io/a.cc", '#include "core/check.h"'), False),
            (("experts/router/a.cc", '#include "experts/overflow/b.h"'), True),
            (("runtime/new/a.cc", '#include "core/check.h"'), True),
            (("fuzz/a.cc", '#include "launch/cli/b.h"'), True),
            (("fuzz/a.cc", '#include "bench/serve/b.h"'), False),
            (("examples/x/a.cc", '#include "runtime/engine/b.h"'), True),
            (("examples/x/a.cc", '#include "experts/ffn/b.h"'), False),
            (("bench/a.cc", '#include "launch/cli/shared_flags.h"'), True),
            (("tests/launch/a.cc", '#include "launch/cli/shared_flags.h"'), False),
            (("core/a.h", '#include "../b.h"'), True),
            (("core/a.h", "#include <vector>"), False),
            (("comm/a.cc", "#ifdef __x86_64__"), True),
            (("comm/a.cc", "#if defined(__CUDACC__)"), True),
            (("core/device/a.cc", "#ifdef __x86_64__"), False),
            (("experts/a.cc", "#if HWY_ONCE"), False),
            (("experts/a_ops.cc", "#if defined(__x86_64__)"), False),
            (("experts/a.cc", "#elif defined(__aarch64__)"), True),
            (("comm/a.cc", '  "use --transport mpi"));'), True),
            (("core/a.cc", '  Fail("\\"--path\\"");  // b'), True),
            (("core/a.cc", '  Fail("path auto");  // of "--path"'), False),
            (("core/a.cc", '  Fail("as docker run --ipc=host gives");'), False),
            (("core/a.cc", '  Fail("a -- b --", i--);'), False),
            (("launch/a.cc", '  "use --transport mpi"));'), False),
            (("launch/a.cc", "  const absl::Time start = absl::Now();"), True),
            (("comm/a.cc", "  if (done.WaitForNotificationWithTimeout(grace)) return;"), True),
            (("tests/comm/a.cc", "  auto now = std::chrono::system_clock::now();"), True),
            (("comm/a.cc", "  const Deadline deadline = Deadline::After(timeout);"), False),
            (("comm/a.cc", "  absl::SleepFor(delay);"), False),
        ], check_line), ([
            (("comm/a.cc", ["", "#include <vector>", '#include "comm/a.h"'], {"comm/a.h"}), True),
            (("comm/a.cc", ['#include "comm/b.h"'], {"comm/a.h"}), True),
            (("comm/a.cc", ["// A.", '#include "comm/a.h"', "#include <vector>"], {"comm/a.h"}), False),
            (("comm/a.cc", ["#include <vector>"], {"comm/b.h"}), False),
        ], own_header_problem), ([
            (({"comm/a.h": ["struct A {"], "comm/b.h": ["class A : public B {"]},), True),
            (({"comm/a.h": ["struct A;", "  struct A {"], "comm/b.h": ["struct A {"]},), False),
            (({"comm/a.h": ["struct alignas(64) A {"], "comm/b.h": ["struct B {", "A a;"]},), False),
        ], twice_defined), ([
            (({"a/x.h": ["b/y.h"], "b/y.h": ["b/z.h"], "b/z.h": ["a/x.h"]}, []), True),
            (({"a/x.h": ["b/y.h"], "b/y.h": [], "b/z.h": ["a/w.h"]}, []), True),  # only the folders
            (({"a/x.h": ["a/y.h"], "a/y.h": ["a/z.h"], "a/z.h": ["a/y.h"]}, []), True),  # only the files
            (({"a/x.h": ["a/y.h"], "a/y.h": ["a/x.h"]}, [{"a/x.h", "a/y.h", "a/z.h"}]), False),
            (({"a/x.h": ["a/y.h"], "a/y.h": ["a/x.h"]}, [{"a/x.h", "a/z.h"}]), True),
            (({"a/x.h": ["b/y.h", "c/z.h"], "b/y.h": ["c/z.h"], "c/z.h": []}, []), False),
        ], circle_problems))
    problems = []
    files = [p for p in tree([".h", ".cc", ".cu", ".cuh"]) if box_of(p)]
    for path in files:
        for number, line in enumerate(lines_of(path), 1):
            problem = check_line(path, line)
            if problem:
                problems.append(f"{path}:{number}: {problem}")
        problem = own_header_problem(path, lines_of(path), files)
        if problem:
            problems.append(f"{path}:1: {problem}")
        if path.endswith(".h") and "#pragma once" not in lines_of(path) and not path.endswith("-inl.h"):
            problems.append(f"{path}:1: a header begins with #pragma once")
    includes = {p: [m.group(1) for m in map(INCLUDE.match, lines_of(p)) if m] for p in files}
    problems += circle_problems(includes, CIRCLES_ALLOWED)
    headers = {p: lines_of(p) for p in files if p.endswith(".h") and box_of(p) != "tests" and not p.endswith("-inl.h")}
    problems += twice_defined(headers)
    report(problems, len(files), "layering problems")


if __name__ == "__main__":
    main()
