#!/usr/bin/env python3
"""gpu_rank.sh on the devices of a made-up host: which processors and which adapter each rank gets. And the Slurm script, with
stand-ins for srun and the program."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
SCRIPT = os.path.join(ROOT, "launch/scripts/gpu_rank.sh")
SHOW = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)), os.environ.get('UCX_NET_DEVICES'))"]


class GpuRank(unittest.TestCase):
    """Two sockets, on each a bridge with two GPUs and an adapter. Node 0 has processor 0, node 1 the others."""

    def setUp(self):
        self.sysfs = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.sysfs)
        self.cpus = sorted(os.sched_getaffinity(0))
        if len(self.cpus) < 2:
            self.skipTest("one processor")
        self.nodes = [self.cpus[:1], self.cpus[1:]]
        for node, (domain, gpus, nic) in enumerate([("0000:00", ("01", "02"), "mlx5_0"), ("0000:80", ("81", "82"), "mlx5_1")]):
            self.write(f"devices/system/node/node{node}/cpulist", ",".join(map(str, self.nodes[node])))
            bridge = f"devices/pci{domain}/{domain}:01.0"
            for bus in gpus:
                self.write(f"{bridge}/0000:{bus}:00.0/numa_node", str(node))
                for folder in ("devices", "drivers/nvidia"):
                    self.link(f"bus/pci/{folder}/0000:{bus}:00.0", f"{bridge}/0000:{bus}:00.0")
            self.write(f"{bridge}/0000:{gpus[0][0]}f:00.0/infiniband/{nic}/port", "")
            self.link(f"class/infiniband/{nic}/device", f"{bridge}/0000:{gpus[0][0]}f:00.0")

    def write(self, path, text):
        path = os.path.join(self.sysfs, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text + "\n")

    def link(self, path, target):
        path = os.path.join(self.sysfs, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(os.path.join(self.sysfs, target), path)

    def shown(self, rank, **env):
        clean = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "UCX_NET_DEVICES")}
        done = subprocess.run([SCRIPT, *SHOW], capture_output=True, text=True,
                              env={**clean, "TF_SYSFS": self.sysfs, "OMPI_COMM_WORLD_LOCAL_RANK": str(rank), **env})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.strip()

    def test_each_rank_is_near_its_gpu(self):
        for rank, node in enumerate((0, 0, 1, 1)):
            self.assertEqual(self.shown(rank), f"{self.nodes[node]} mlx5_{node}:1", f"rank {rank}")

    def test_gpus_that_the_job_may_use(self):
        self.assertEqual(self.shown(0, CUDA_VISIBLE_DEVICES="3,0"), f"{self.nodes[1]} mlx5_1:1")
        self.assertEqual(self.shown(1, CUDA_VISIBLE_DEVICES="3,0"), f"{self.nodes[0]} mlx5_0:1")

    def test_the_environment_wins(self):
        self.assertEqual(self.shown(0, UCX_NET_DEVICES="eth0"), f"{self.nodes[0]} eth0")

    def test_without_gpus_nothing_changes(self):
        self.assertEqual(self.shown(0, TF_SYSFS="/nonexistent"), f"{self.cpus} None")

    def test_slurm_starts_a_rank_per_gpu(self):
        bin_dir = os.path.join(self.sysfs, "bin")
        os.mkdir(bin_dir)
        with open(os.path.join(bin_dir, "srun"), "w") as f:
            f.write('#!/bin/sh\necho "$@"\n')
        os.chmod(os.path.join(bin_dir, "srun"), 0o755)
        script = os.path.join(ROOT, "cluster-configs/gpu.slurm")
        done = subprocess.run(["bash", script, "generate", "--prompt", "two words"], capture_output=True, text=True,
                              env={**os.environ, "PATH": bin_dir + ":" + os.environ["PATH"], "SLURM_SUBMIT_DIR": ROOT})
        self.assertEqual(done.returncode, 0, done.stderr)
        words = done.stdout.split()
        program = words.index(SCRIPT)
        self.assertEqual(words[program + 1:], [f"{ROOT}/build/cuda/tokenferry", "generate", "--prompt", "two", "words"])
        self.assertIn("--gpu-bind=none", words[:program])
        with open(script) as f:
            options = [line.split()[1] for line in f if line.startswith("#SBATCH")]
        self.assertIn("--ntasks-per-node=8", options)
        self.assertIn("--gpus-per-node=8", options)

    def test_hostfiles_have_a_slot_per_gpu(self):
        for name, num_hosts in (("two", 2), ("eight", 8)):
            with open(os.path.join(ROOT, f"cluster-configs/gpu-{name}-hosts.example")) as f:
                hosts = [line.split() for line in f if not line.startswith("#")]
            self.assertEqual(len({host for host, _ in hosts}), num_hosts)
            self.assertEqual({slots for _, slots in hosts}, {"slots=8"})
            with open(os.path.join(ROOT, f"cluster-configs/gpu-{name}-hosts.yaml")) as f:
                self.assertIn(f"-n {num_hosts * 8} ", f.read())


unittest.main(verbosity=2)
