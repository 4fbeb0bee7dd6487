#!/usr/bin/env python3
"""What ptxas gives each kernel: registers and static shared memory as in kernels.txt, no spills, no local memory.

    check_resources.py [--update] --ptxas PTXAS --arch 90a LIBRARY ..

Reads the PTX that nvcc left, as text, in the objects of the libraries. A kernel may need less than its line allows, not
more (shared memory is aligned to what the largest variable of all kernels in a file wants, so that a file by itself may
need less); --update writes the table anew. The table is sm_90a's: of other architectures only spills and local memory
are looked at.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

TABLE = pathlib.Path(__file__).with_name("kernels.txt")
HEAD = "# kernel, registers per thread, bytes of static shared memory; by check_resources.py --update\n"


def ptx_texts(library):
    """The PTX texts in an archive: each ends with a zero byte."""
    data = pathlib.Path(library).read_bytes()
    for match in re.finditer(rb"\.version \d+\.\d+\s+\.target sm_[^\0]*", data):
        yield match.group().decode()


def target_of(text):
    return re.search(r"^\.target sm_(\w+)", text, re.M).group(1)


def demangled(name):
    return without_parameters(subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip())


def without_parameters(name):
    """Readable, and without the hash that nvcc gives the anonymous namespace of a file."""
    name = re.sub(r"\(anonymous namespace\)|_GLOBAL__N__\w+", "", name).replace("::::", "::")
    depth, end = 0, len(name)
    for i, c in enumerate(name):  # up to the parameters
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            end = i
            break
    return re.sub(r"^void ", "", name[:end]).replace("tokenferry::", "").replace(" ", "")


def resources(ptxas, text, arch):
    """{kernel: (registers, shared bytes, stack bytes, spill bytes)}"""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "kernels.ptx"
        source.write_text(text)
        run = subprocess.run([ptxas, "-v", f"-arch=sm_{arch}", str(source), "-o", f"{folder}/out"], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"ptxas: {run.stderr}")
    found, kernel, stack, spills = {}, None, 0, 0
    for line in run.stderr.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = demangled(match.group(1))
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, spills = int(match.group(1)), int(match.group(2)) + int(match.group(3))
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found[kernel] = (int(match.group(1)), int(shared.group(1)) if shared else 0, stack, spills)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--ptxas", required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("libraries", nargs="+")
    args = parser.parse_args()
    kernels = {}
    for library in args.libraries:
        for text in ptx_texts(library):
            if target_of(text) == args.arch:
                for name, used in resources(args.ptxas, text, args.arch).items():  # files may share a name: the larger counts
                    kernels[name] = max(used, kernels.get(name, used))
    if not kernels:
        sys.exit(f"no PTX of sm_{args.arch} in {', '.join(args.libraries)}")
    has_table = args.arch == "90a"
    if args.update and has_table:
        lines = [f"{name} {kernels[name][0]} {kernels[name][1]}\n" for name in sorted(kernels)]
        TABLE.write_text(HEAD + "".join(lines))
    table = {}
    for line in TABLE.read_text().splitlines():
        if has_table and not line.startswith("#"):
            name, registers, shared = line.rsplit(" ", 2)
            table[name] = (int(registers), int(shared))
    problems = [f"{name}: in the table, but no kernel" for name in table.keys() - kernels.keys()]
    largest = max(kernels, key=kernels.get)
    for name, (registers, shared, stack, spills) in kernels.items():
        if stack or spills:
            problems.append(f"{name}: {stack} bytes of local memory, {spills} of spills")
        if not has_table:
            continue
        if name not in table:
            problems.append(f"{name}: not in the table ({registers} registers, {shared} bytes)")
        elif registers > table[name][0] or shared > table[name][1]:
            problems.append(f"{name}: {registers} registers and {shared} bytes of shared memory, the table says {table[name][0]} and {table[name][1]}")
    for problem in sorted(problems):
        print(problem)
    print(f"{len(kernels)} kernels of sm_{args.arch}, at most {kernels[largest][0]} registers ({largest}), {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
