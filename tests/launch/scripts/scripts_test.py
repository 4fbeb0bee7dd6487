#!/usr/bin/env python3
"""The shell scripts, run with stand-ins for apt-get and id in front of PATH: what they install, refuse and say."""

import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
INSTALL = os.path.join(ROOT, "launch/scripts/install_deps.sh")


class InstallDeps(unittest.TestCase):
    def setUp(self):
        self.bin = tempfile.mkdtemp()
        self.log = os.path.join(self.bin, "apt.log")
        self.tool("apt-get", f'echo "$@" >>{self.log}')
        self.tool("apt-cache", "exit 0")
        self.tool("id", "echo 0")

    def tearDown(self):
        shutil.rmtree(self.bin)

    def tool(self, name, body):
        path = os.path.join(self.bin, name)
        with open(path, "w") as f:
            f.write(f"#!/bin/sh\n{body}\n")
        os.chmod(path, 0o755)

    def installed(self, packages):
        lines = "".join(f"echo '{p} installed'\n" for p in packages)
        self.tool("dpkg-query", lines + "echo 'gone config-files'\nexit 1")

    def run_install(self, *args):
        done = subprocess.run(["bash", INSTALL, *args], capture_output=True, text=True,
                              env={**os.environ, "PATH": self.bin + ":" + os.environ["PATH"]})
        calls = []
        if os.path.exists(self.log):
            with open(self.log) as f:
                calls = f.read().splitlines()
        return done, calls

    def packages(self, *args):
        done, calls = self.run_install("--print", *args)
        self.assertEqual((done.returncode, calls), (0, []))
        return done.stdout.split()

    def test_lists(self):
        build, tests = self.packages(), self.packages("--tests")
        self.assertEqual(tests[:len(build)], build)
        self.assertIn("libopenmpi-dev", build)
        self.assertNotIn("libgtest-dev", build)
        self.assertIn("libgtest-dev", tests)
        self.assertEqual(len(set(tests)), len(tests))

    def test_nothing_to_do(self):
        self.installed(self.packages("--tests"))
        done, calls = self.run_install("--tests")
        self.assertEqual((done.returncode, calls, done.stdout), (0, [], ""), done.stderr)

    def test_installs_what_is_missing_and_nothing_else(self):
        self.installed([p for p in self.packages() if p not in ("cmake", "libhwy-dev")])
        done, calls = self.run_install()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(calls), 1)
        self.assertTrue(calls[0].startswith("install --yes"), calls)
        self.assertTrue(calls[0].endswith(" cmake libhwy-dev"), calls)

    def test_fetches_the_index_when_it_does_not_know_a_package(self):
        self.installed([])
        self.tool("apt-cache", "exit 100")
        done, calls = self.run_install()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([c.split()[0] for c in calls], ["update", "install"])

    def test_without_root_names_the_packages_and_fails(self):
        self.installed([p for p in self.packages() if p != "cmake"])
        self.tool("id", "echo 1000")
        done, calls = self.run_install()
        self.assertEqual((done.returncode, calls), (1, []))
        self.assertIn("sudo apt-get install --yes --no-install-recommends cmake\n", done.stderr)

    def test_failing_install_fails(self):
        self.installed([])
        self.tool("apt-get", "exit 100")
        self.assertNotEqual(self.run_install()[0].returncode, 0)

    def test_unknown_argument(self):
        self.assertEqual(self.run_install("--test")[0].returncode, 2)


class MpirunEnv(unittest.TestCase):
    def source(self, script="", **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "TF_"))}
        done = subprocess.run(["bash", "-euc", f". launch/scripts/mpirun_env.sh; {script} env"], cwd=ROOT, capture_output=True,
                              text=True, env={**clean, **environment})
        self.assertEqual(done.returncode, 0, done.stderr)
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line), done.stderr

    def test_root_and_few_cores(self):
        env, _ = self.source()
        self.assertEqual(env["OMPI_ALLOW_RUN_AS_ROOT"], "1")
        self.assertEqual(env["OMPI_MCA_rmaps_base_oversubscribe"], "1")

    def test_the_users_settings_win(self):
        env, _ = self.source(OMPI_MCA_btl="self,tcp")
        self.assertEqual(env["OMPI_MCA_btl"], "self,tcp")

    def test_no_network_is_explained(self):
        """In a network namespace of its own, where the loopback is down."""
        alone = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
            self.skipTest("no network namespace is permitted here")
        done = subprocess.run([*alone, "sh", "-c", ". launch/scripts/mpirun_env.sh; tf_has_network || echo none"], cwd=ROOT,
                              capture_output=True, text=True)
        self.assertEqual(done.stdout, "none\n", done.stderr)
        self.assertIn("no network interface is up", done.stderr)
        self.assertIn("--ranks N", done.stderr)
        _, said = self.source("tf_has_network;")
        self.assertNotIn("network", said)

    def test_small_shared_memory_is_explained(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "df"), "w") as f:
                f.write("#!/bin/sh\necho 'Filesystem 1024-blocks Used Available Capacity Mounted'\n"
                        "echo 'shm 8192 0 8192 0% /dev/shm'\n")
            os.chmod(f.name, 0o755)
            env, said = self.source(PATH=folder + ":" + os.environ["PATH"], TF_NUM_RANKS="4")
            self.assertIn("8192 KiB", said)
            self.assertIn("--shm-size", said)
            self.assertTrue(os.path.isdir(env["OMPI_MCA_btl_vader_backing_directory"]))
            env, said = self.source(PATH=folder + ":" + os.environ["PATH"], TF_NUM_RANKS="1")
            self.assertNotIn("OMPI_MCA_btl_vader_backing_directory", env)


if __name__ == "__main__":
    unittest.main(verbosity=2)
