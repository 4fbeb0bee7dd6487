#!/usr/bin/env python3
"""manual_test.py PROGRAM: the man page and the completion say what --help says."""

import re
import shutil
import subprocess
import unittest

from program import PROGRAM, ProgramTest, main

SUBCOMMANDS = ["generate", "eval", "inspect", "bench engine", "bench alltoall", "bench moe", "bench serve", "serve", "launch"]

# Asks the completion as bash does: words, of which the last is being typed.
ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_tokenferry
printf '%s\\n' "${COMPREPLY[@]}"
"""


def flags_of_help(subcommand):
    text = subprocess.run([PROGRAM, *subcommand.split(), "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(?m)^ +(?:-\w,)?(--[\w-]+)", text))


class Manual(ProgramTest):
    def test_the_man_page_has_every_flag(self):
        page = self.succeed("--man").text()
        parts = re.split(r'(?m)^\.SH "TOKENFERRY (.+)"$', page)
        self.assertEqual(parts[1::2], SUBCOMMANDS)
        for name, part in zip(parts[1::2], parts[2::2]):
            tags = re.findall(r"(?m)^\.TP\n(.+)$", part)
            named = {re.search(r"--[\w-]+", tag.replace("\\-", "-")).group() for tag in tags}
            self.assertEqual(named | {"--help"}, flags_of_help(name), name)

    @unittest.skipUnless(shutil.which("groff"), "groff is not installed")
    def test_the_man_page_is_roff(self):
        page = self.succeed("--man").out
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, capture_output=True)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def complete(self, *words):
        with open(self.path("completion"), "w") as f:
            f.write(self.succeed("--completion", "bash").text())
        done = subprocess.run(["bash", "-c", ASK, "bash", self.path("completion"), *words], capture_output=True, text=True,
                              cwd=self.dir)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.split()

    def test_completion(self):
        self.assertEqual(self.complete("tokenferry", "b"), ["bench"])
        self.assertEqual(self.complete("tokenferry", "bench", "a"), ["alltoall"])
        self.assertEqual(self.complete("mpirun", "-n", "4", "build/cpu/tokenferry", "gen"), ["generate"])
        self.assertEqual(self.complete("tokenferry", "generate", "--overf"), ["--overflow"])
        self.assertEqual(self.complete("tokenferry", "generate", "--compute", ""), ["bf16", "f32"])
        self.assertEqual(self.complete("tokenferry", "bench", "alltoall", "--dtype", "f"), ["f32", "fp8"])
        for name in SUBCOMMANDS:
            self.assertEqual(set(self.complete("tokenferry", *name.split(), "--")), flags_of_help(name), name)
        self.write("prompt.txt", b"x")
        self.assertEqual(self.complete("tokenferry", "generate", "--prompt-file", "pro"), ["prompt.txt"])
        self.assertEqual(self.complete("tokenferry", "generate", "--no-such"), [])

    def test_another_shell_is_refused(self):
        done = subprocess.run([PROGRAM, "--completion", "fish"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--completion bash", done.stderr)


if __name__ == "__main__":
    main()
