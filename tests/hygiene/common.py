"""What the checks of the source tree share."""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIPPED_FOLDERS = {".git", "build", ".cache", "__pycache__", "third_party"}


def tree(suffixes=None):
    """Paths of the project's files, relative to its root: what git knows or would add; without git, what is there."""
    found = subprocess.run(["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
                           capture_output=True)
    if found.returncode == 0:
        names = [n for n in found.stdout.decode().split("\0") if n]
    else:
        names = []
        for folder, folders, files in os.walk(ROOT):
            folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS]
            names += [os.path.relpath(os.path.join(folder, f), ROOT) for f in files]
    names = sorted(n for n in set(names) if os.path.isfile(os.path.join(ROOT, n)))
    return [n for n in names if suffixes is None or n.endswith(tuple(suffixes))]


def lines_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read().split("\n")


def report(problems, num_checked, what):
    for problem in problems:
        print(problem)
    print(f"{num_checked} files, {len(problems)} {what}")
    sys.exit(1 if problems or num_checked == 0 else 0)


def self_test(*checks):
    """Each: (cases, check); a case: (arguments of `check`, whether it must complain)."""
    results = [(args, check(*args), bad) for cases, check in checks for args, bad in cases]
    wrong = [(args, got) for args, got, bad in results if bool(got) != bad]
    for args, got in wrong:
        print(f"{args}: {got or 'accepted'}")
    print(f"{len(results)} cases, {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)
