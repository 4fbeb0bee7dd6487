#!/usr/bin/env python3
"""readme_test.py BUILD_DIR: what the READMEs tell people to paste into a shell works.

Every ```sh block of README.md, CONTRIBUTING.md and examples/README.md is parsed, its files must exist, and the flags of
tokenferry must be there. Tests and targets that any page names are declared in a CMakeLists.txt. Blocks of README.md that need no other hosts and no installation are run from the root of the
tree, with build/cpu standing for the build that is tested."""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BUILD = os.path.abspath(sys.argv.pop(1))
PROGRAM = os.path.join(BUILD, "tokenferry")
FILES = ["README.md", "CONTRIBUTING.md", "examples/README.md"]
# Reading these words, a block is not run: it installs packages, takes minutes, or needs what a test has not.
NOT_RUN = ["quickstart.sh", "run.sh", "--hostfile"]
PAGES = sorted(os.path.relpath(path, ROOT) for pattern in ("README.md", "CONTRIBUTING.md", "docs/*.md", "*/README.md", "*/*/README.md",
                                                           "*/*/*/README.md") for path in glob.glob(os.path.join(ROOT, pattern)))
PAGES = [page for page in PAGES if not page.startswith(("build/", "shared/"))]


def blocks(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return re.findall(r"(?ms)^```sh\n(.*?)^```$", file.read())


def declared():
    """The targets, the names of tests, and what ctest calls these, that the files of CMake declare (of every preset, so no build
    has to be asked). What stands for a variable is any word."""
    targets, tests, called = set(), set(), set()
    for path in [*glob.glob(os.path.join(ROOT, "*", "CMakeLists.txt")), *glob.glob(os.path.join(ROOT, "tests", "**", "CMakeLists.txt"), recursive=True)]:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        for kind, name, rest in re.findall(r"\b(tf_\w+|add_\w+)\(\s*(?:NAME )?([\w.${}-]+)([^()]*)", text):
            name = re.escape(re.sub(r"\$\{\w+\}", "VARIABLE", name)).replace("VARIABLE", r"\w+")
            if kind in ("tf_script_test", "tf_test", "tf_fake_gpu_test", "tf_fuzz", "add_test"):
                tests.add(name)
                called.add(name + (r"\.np2" if " RANKS " in rest else r"\.fakegpu\.sm90" if kind == "tf_fake_gpu_test" else ""))
            if kind in ("tf_test", "tf_fuzz", "add_executable", "add_library", "add_custom_target"):
                targets.add(name)
            if kind == "tf_library":
                targets.add("tokenferry_" + name)
    return targets, tests, called


class Readme(unittest.TestCase):
    def test_blocks_are_shell(self):
        for name in FILES:
            self.assertTrue(blocks(name), name)
            for block in blocks(name):
                with self.subTest(name, block=block):
                    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
                    self.assertEqual((done.returncode, done.stderr), (0, ""))
                    self.assertNotRegex(block, r"(?<!\.)\.\.(?![./])")
                    self.assertNotRegex(block, r"<[a-z]+>|\bDIR\b")  # a placeholder is no command

    def test_files_exist(self):
        for name in FILES:
            for path in re.findall(r"(?<![\w/])(?:launch|models|bench|tests|cluster-configs|examples)/[\w./-]*\w", "\n".join(blocks(name))):
                self.assertTrue(os.path.exists(os.path.join(ROOT, path)), f"{name}: {path}")

    def test_flags_exist(self):
        commands = re.findall(r"tokenferry ((?:bench )?[a-z]+) ((?:[^\n\\]|\\\n)*)", "\n".join(map("\n".join, map(blocks, FILES))))
        self.assertGreater(len(commands), 2)
        for subcommand, words in commands:
            help_text = subprocess.run([PROGRAM, *subcommand.split(), "--help"], capture_output=True, text=True, check=True).stdout
            for flag in re.findall(r"--[\w-]+", re.sub(r"\"[^\"]*\"", "", words)):
                self.assertRegex(help_text, re.escape(flag) + r"\b", f"{subcommand} {flag}")

    def test_tests_and_targets_exist(self):
        targets, tests, called = declared()
        self.assertIn("comm_exchange_plan_test", targets & tests & called)
        self.assertIn("tokenferry_comm", targets)
        known = lambda name, names: any(re.fullmatch(pattern, name) for pattern in names)
        found = []
        for page in PAGES:
            with open(os.path.join(ROOT, page), encoding="utf-8") as file:
                text = file.read()
            for target in re.findall(r"--target ([\w.]+)", text):
                found.append(target)
                self.assertTrue(known(target, targets), f"{page}: no target {target}")
            for chosen in re.findall(r"ctest [^\n`]*-R ('[^']*'|[^\s`)]+)", text):
                found.append(chosen)
                names = [name.replace("\\.", ".") for name in called if r"\w" not in name]
                self.assertTrue(any(re.search(chosen.strip("'"), name) for name in names), f"{page}: -R {chosen} chooses no test")
            for name in re.findall(r"`((?!tf_)\w+_test)`", text):
                found.append(name)
                self.assertTrue(known(name, tests), f"{page}: no test {name}")
        self.assertGreater(len(found), 15)

    def test_links_lead_somewhere(self):
        for name in FILES + ["docs/faq.md", "docs/glossary.md", "docs/exchange-example.md", "bench/README.md"]:
            with open(os.path.join(ROOT, name), encoding="utf-8") as file:
                for link in re.findall(r"\]\(([^)#:]+)\)", file.read()):
                    self.assertTrue(os.path.exists(os.path.join(ROOT, os.path.dirname(name), link)), f"{name}: {link}")

    def test_the_readme_is_a_few_screens(self):
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            lines = file.read().split("\n")
        self.assertLessEqual(len(lines), 151)
        self.assertLessEqual(max(map(len, lines)), 100)

    def test_blocks_run(self):
        scratch = tempfile.mkdtemp(prefix="tokenferry-readme-")
        self.addCleanup(shutil.rmtree, scratch)
        ran = 0
        for block in blocks("README.md"):
            if any(word in block for word in NOT_RUN):
                continue
            script = block.replace("/tmp/", scratch + "/").replace("--preset 1b", "--preset tiny").replace("build/cpu", BUILD)
            script = "set -e\n. launch/scripts/mpirun_env.sh\n" + script
            done = subprocess.run(["bash"], input=script, capture_output=True, text=True, cwd=ROOT)
            self.assertEqual(done.returncode, 0, f"{script}\n{done.stdout}\n{done.stderr}")
            ran += 1
        self.assertGreaterEqual(ran, 3)


if __name__ == "__main__":
    unittest.main(verbosity=2)
