#!/usr/bin/env python3
"""install_test.py BUILD_DIR: `cmake --install` gives a program that runs and a package that a program outside the tree
builds and runs with."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(sys.argv[1])
MPIRUN = ["sh", "-c", f'. "{ROOT}/launch/scripts/mpirun_env.sh"; exec mpirun "$@"', "mpirun"]

# Uses `experts` alone, in a project of C++ only.
ROUTER = """
#include "experts/router/router.h"
int main() { return tokenferry::RouteArgs().top_k; }
"""
ROUTER_PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(router LANGUAGES CXX)
set(CMAKE_DISABLE_FIND_PACKAGE_MPI ON)
find_package(tokenferry 0.1 REQUIRED COMPONENTS experts)
add_executable(router router.cc)
target_link_libraries(router PRIVATE tokenferry::experts)
"""


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="tokenferry-install-")
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        cls.prefix = os.path.join(cls.dir, "prefix")
        cls.command("cmake", "--install", BUILD, "--prefix", cls.prefix)

    @classmethod
    def command(cls, *words):
        done = subprocess.run(words, capture_output=True, text=True, cwd=cls.dir)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def build(self, source, *flags):
        build = os.path.join(self.dir, "build-" + os.path.basename(source))
        self.command("cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}", *flags)
        self.command("cmake", "--build", build)
        return build

    def find(self, name):
        return [os.path.join(folder, name) for folder, _, files in os.walk(self.prefix) if name in files]

    def test_the_program_runs(self):
        program = os.path.join(self.prefix, "bin", "tokenferry")
        self.assertTrue(self.command(program, "--version").startswith("tokenferry 0.1.0"))
        out = self.command(program, "generate", "--model", os.path.join(ROOT, "models", "ferry-tiny-v3"), "--prompt", "In the",
                           "--max-tokens", "2")
        self.assertTrue(out.startswith("In the"), out)

    def test_the_manual_and_the_completion_are_installed(self):
        for flag, name in (["--man"], "tokenferry.1"), (["--completion", "bash"], "tokenferry"):
            said = self.command(os.path.join(self.prefix, "bin", "tokenferry"), *flag)
            files = [f for f in self.find(name) if "/bin/" not in f]
            self.assertEqual(len(files), 1, files)
            with open(files[0]) as f:
                self.assertEqual(f.read(), said)

    def test_nothing_of_this_build_is_in_the_package(self):
        (targets,) = self.find("tokenferry-targets.cmake")
        with open(targets) as f:
            text = f.read()
        for word in ROOT, BUILD, "tf_options", "COMPILE_OPTIONS", "LINK_OPTIONS", "nlohmann", "yaml", "CLI11":
            self.assertNotIn(word, text)
        self.assertEqual(text.count('INTERFACE_COMPILE_FEATURES "cxx_std_20"'), 3)

    def test_the_example_gives_the_same_bits_on_any_number_of_ranks(self):
        build = self.build(os.path.join(ROOT, "examples", "moe_layer"), "-DCMAKE_CXX_FLAGS=-Wall -Werror")
        for ranks in 1, 2, 3:
            out = self.command(*MPIRUN, "-n", str(ranks), os.path.join(build, "moe_layer"))
            self.assertEqual(out, f"{ranks} ranks, 8 experts, top-2: the same bits as one rank alone\n")

    def test_experts_need_no_mpi(self):
        source = os.path.join(self.dir, "router")
        os.mkdir(source)
        for name, text in ("router.cc", ROUTER), ("CMakeLists.txt", ROUTER_PROJECT):
            with open(os.path.join(source, name), "w") as f:
                f.write(text)
        self.command(os.path.join(self.build(source), "router"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
