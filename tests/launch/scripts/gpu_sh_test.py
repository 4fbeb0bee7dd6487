#!/usr/bin/env python3
"""gpu.sh in a packed folder of stand-ins: what it refuses at once, what it calls skipped and what failed, and a rank that is
killed. What the real programs do on a GPU is for gpu.sh to show."""

import json
import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
PROGRAM = """
case "$*" in
  --version) echo "tokenferry 0" ;;
  inspect*) ;;
  *--transport\ nccl*) echo "tokenferry: rank 0: NCCL on this machine is 2.29.0; install 2.30.3 or newer" >&2; exit 1 ;;
  eval*) while [ "$1" != --out ]; do shift; done; echo logits >"$2" ;;
  generate*--json*) echo '{"outputs": []}' ;;
  generate*--comm-timeout*) echo "In the beginning God created"; exec sleep 60 ;;
  generate*) echo "on cuda:0"; echo "decode      8 tokens     100.0 tokens/s" ;;
esac
"""
# Three ranks; when the second one has ended, the others say so and end.
MPIRUN = """
n=$2; shift 2
for ((r = 0; r < n; ++r)); do OMPI_COMM_WORLD_RANK=$r "$@" & pids[r]=$!; done
if [ "$n" = 3 ]; then
  wait "${pids[1]}" || { echo "tokenferry: rank 0: the process of rank 1 has ended" >&2; kill "${pids[0]}" "${pids[2]}" 2>/dev/null; exit 1; }
fi
wait -n "${pids[0]}"
"""
SKIPPED = """echo '[ RUN      ] Peer.Works/cuda'
echo 'peer_test.cc:30: Skipped'
echo 'no CUDA device: {}'
echo '[  SKIPPED ] Peer.Works/cuda (0 ms)'
echo '[  PASSED  ] {} tests.'
"""
MANY = "number 4 was asked for, but there are 1"


class GpuSh(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.dir)
        for name in ("tests/gpu.sh", "tests/gpu_steps.py", "launch/scripts/mpirun_env.sh"):
            os.makedirs(os.path.dirname(os.path.join(self.dir, name)), exist_ok=True)
            shutil.copy(os.path.join(ROOT, name), os.path.join(self.dir, name))
        for name in ("greedy", "heldout_bible"):
            self.write(f"tests/data/ferry-tiny-v3/{name}.json", "{}")
        self.script("bin/tokenferry", PROGRAM)
        self.script("bin/cuda_kernels_bench", "")
        self.script("openmpi/mpirun", MPIRUN)
        self.script("openmpi/nvidia-smi", "echo GPU")
        self.script("openmpi/compute-sanitizer", 'echo "Error: Device not supported"; exit 1')
        self.script("gpu-tests/a_cuda_test", "echo '[  PASSED  ] 3 tests.'")
        self.script("mpi-tests/peer_mpi_test", "echo '[  PASSED  ] 3 tests.'")

    def write(self, path, text):
        path = os.path.join(self.dir, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)

    def script(self, path, text):
        self.write(path, "#!/usr/bin/env bash\n" + text)
        os.chmod(os.path.join(self.dir, path), 0o755)

    def archive(self):
        """What --pack leaves."""
        subprocess.run(["tar", "--create", "--gzip", "--remove-files", "--file", "files.tar.gz", "bin", "gpu-tests", "mpi-tests", "openmpi",
                        "tests/data"], cwd=self.dir, check=True)

    def run_it(self):
        done = subprocess.run(["bash", "tests/gpu.sh"], cwd=self.dir, capture_output=True, text=True, timeout=200)
        file = os.path.join(self.dir, "gpu-results/gpu.json")
        if not os.path.exists(file):
            return done, {}
        with open(file) as f:
            return done, {step["name"]: step for step in json.load(f)["steps"]}

    def test_outcomes(self):
        self.script("gpu-tests/all", SKIPPED.format(MANY, 0))
        self.script("gpu-tests/gone", SKIPPED.format("cudaGetDeviceCount: cudaErrorNoDevice", 0))
        self.script("gpu-tests/some", SKIPPED.format(MANY, 5))
        self.archive()
        done, steps = self.run_it()
        self.assertEqual(done.returncode, 1, done.stdout)
        failed = [name for name, step in steps.items() if step["outcome"] not in ("passed", "skipped")]
        self.assertEqual(failed, ["gone"], done.stdout)
        skipped = {name: step["why"] for name, step in steps.items() if step["outcome"] == "skipped"}
        nccl = "tokenferry: rank 0: NCCL on this machine is 2.29.0; install 2.30.3 or newer"
        sanitizer = "compute-sanitizer says: Device not supported"
        self.assertEqual(skipped, {"all": "no CUDA device: " + MANY, "killed_rank_nccl": nccl,
                                   **{f"bf16_nccl_processes.np{n}": nccl for n in (1, 2, 4)},
                                   "memcheck_a_cuda_test": sanitizer, "racecheck_a_cuda_test": sanitizer})
        self.assertEqual(steps["some"]["skipped_tests"], ["Peer.Works/cuda"])
        self.assertIn("the process of rank 1 has ended", steps["killed_rank_peer"]["log_end"])

    def refused(self, words):
        done, steps = self.run_it()
        self.assertEqual((done.returncode, steps, done.stderr.count("\n")), (2, {}, 1), done.stderr)
        self.assertIn(words, done.stderr)

    def test_without_a_gpu(self):
        self.script("bin/tokenferry", PROGRAM.replace("inspect*) ;;", "inspect*) echo 'tokenferry: no CUDA device: why' >&2; exit 1 ;;"))
        self.refused("no GPU to test: tokenferry: no CUDA device: why")

    def test_an_archive_that_is_cut_off(self):
        self.archive()
        archive = os.path.join(self.dir, "files.tar.gz")
        os.truncate(archive, os.path.getsize(archive) // 2)
        self.refused("files.tar.gz is not whole")

    def test_a_program_that_does_not_start(self):
        self.script("bin/tokenferry", "echo \"version 'GLIBC_2.36' not found\" >&2; exit 1")
        self.refused("the program does not start: version 'GLIBC_2.36' not found")


unittest.main()
