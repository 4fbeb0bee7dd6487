"""bench alltoall and bench moe as commands: ranks as threads and under mpirun, JSON and plot, traces, refused flags."""

import csv
import json
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

PROGRAM = os.path.abspath(sys.argv.pop(1))
SOURCE = os.environ["TF_SOURCE_DIR"]
sys.path.append(os.path.join(SOURCE, "tests", "support"))

from slack import slack  # noqa: E402

MPIRUN = os.path.join(SOURCE, "tests/support/mpirun.sh")
SMALL = ["--hidden", "64", "--experts", "8", "--top-k", "2", "--warmup", "1", "--iters", "2"]


def run(*args, ranks=None):
    """Ranks under mpirun, or none."""
    command = ([MPIRUN, str(ranks)] if ranks else []) + [PROGRAM, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=slack(100))


class BenchCommands(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def run_json(self, *args, ranks=None):
        result = run(*args, "--json", self.path("out.json"), ranks=ranks)
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(self.path("out.json"), encoding="utf-8") as file:
            return json.load(file), result.stdout

    def test_axes_are_crossed_and_plotted(self):
        report, table = self.run_json("bench", "alltoall", *SMALL, "--ranks", "3", "--tokens", "1,4", "--dtype", "bf16,f32",
                                      "--path", "alltoallv,auto", "--traffic", "uniform,zipf:1.5", "--plot",
                                      self.path("out.svg"))
        axes = {(r["tokens"], r["dtype"], r["path"], r["traffic"]) for r in report["results"]}
        self.assertEqual(len(axes), 16)
        self.assertEqual(len(report["results"]), 16)
        for r in report["results"]:
            self.assertTrue(r["verified"])
            self.assertEqual(r["ranks"], 3)
            self.assertIn("unavailable", r["baselines"]["mpi_row_per_rank"])
        self.assertIn("zipf:1.5", table)
        self.assertLessEqual(max(map(len, table.split("\n"))), 120)
        root = xml.etree.ElementTree.parse(self.path("out.svg")).getroot()
        self.assertTrue(root.tag.endswith("svg"))

    def test_under_mpirun_with_baselines(self):
        report, _ = self.run_json("bench", "alltoall", *SMALL, "--tokens", "5", "--path", "alltoallv", ranks=2)
        (result,) = report["results"]
        self.assertEqual(result["ranks"], 2)
        for name in ("memcpy", "mpi_alltoallv", "mpi_row_per_rank", "mpi_row_per_expert"):
            self.assertGreater(result["baselines"][name]["round_trip"]["median_us"], 0)
        self.assertGreater(result["baselines"]["mpi_row_per_rank"]["round_trip_over_this"], 0)
        self.assertEqual(result["bytes"]["dispatch"]["selection"], 2 * 5 * 2 * 64 * 2)

    def test_sizes_in_bytes(self):
        """-b, -e and -f as nccl-tests take them: rows of 64 bf16 numbers are 128 bytes."""
        flags = ["bench", "alltoall", *SMALL, "--no-baselines", "--path", "alltoallv"]
        report, _ = self.run_json(*flags, "-b", "1K", "-e", "20K", "-f", "4")
        self.assertEqual([r["tokens"] for r in report["results"]], [8, 32, 128])
        report, _ = self.run_json(*flags, "--minbytes", "100")
        self.assertEqual([r["tokens"] for r in report["results"]], [1])
        for wrong, word in ((["-b", "1K", "-e", "512"], "less than --minbytes"), (["-e", "1K"], "go with -b"),
                            (["-b", "1K", "--tokens", "4"], "give one"), (["-b", "1Q"], "'1Q'"), (["-b", "0"], "'0'"),
                            (["-b", "1K", "-f", "1"], "2 or more"), (["-b", "1K", "--hidden", "64,128"], "one --hidden"),
                            (["-b", "1K", "-e", "9999G"], "at most")):
            result = run(*flags, *wrong)
            self.assertEqual(result.returncode, 2, wrong)
            self.assertIn(word, result.stderr, wrong)

    def test_csv_and_ranks(self):
        """A line of the CSV file for every path and baseline; every rank's own times in the table and in the JSON."""
        report, table = self.run_json("bench", "alltoall", *SMALL, "--tokens", "0,5", "--path", "alltoallv", "--per-rank",
                                      "--csv", self.path("out.csv"), ranks=3)
        with open(self.path("out.csv"), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = ["alltoallv", "mpi_row_per_rank", "memcpy", "mpi_alltoallv", "mpi_row_per_expert"]
        self.assertEqual([(r["tokens"], r["path"]) for r in rows], [(t, n) for t in ("0", "5") for n in names])
        self.assertEqual([r["wrong"] for r in rows], ["0", "0", "", "", "0"] * 2)
        nothing, some = rows[0], rows[5]
        self.assertEqual((nothing["size_bytes"], nothing["algbw_gbps.dispatch"], nothing["of_memory_bound"]), ("0", "", ""))
        # As nccl-tests define them: algbw = size / time, busbw = algbw * (ranks - 1) / ranks.
        algbw = float(some["size_bytes"]) / float(some["phases.dispatch.median_us"]) / 1e3
        self.assertAlmostEqual(float(some["algbw_gbps.dispatch"]) / algbw, 1, places=6)
        self.assertAlmostEqual(float(some["busbw_gbps.dispatch"]) / algbw, 2 / 3, places=6)
        bandwidths = [line for line in table[table.index("DeepEP"):].split("\n") if line.startswith("      0          0 alltoallv")]
        self.assertEqual([line.split()[3:9] for line in bandwidths], [["-"] * 6])  # nothing was moved
        for result in report["results"]:
            for phase in "dispatch", "combine", "round_trip":
                times = result["per_rank"][phase]
                self.assertEqual([len(times[k]) for k in ("min_us", "avg_us", "max_us")], [3] * 3)
                for low, mean, high in zip(*times.values()):
                    self.assertTrue(0 <= low <= mean + 1e-3 and mean <= high + 1e-3, (low, mean, high))
        self.assertEqual(len([l for l in table.split("\n") if "alltoallv" in l and l.count("/") == 6]), 2 * 3)

    def test_paths_that_are_not_there_are_reported(self):
        report, table = self.run_json("bench", "alltoall", *SMALL, "--tokens", "3", "--path",
                                      "alltoallv,peer,allgather,two_level", "--no-baselines", "--ranks", "2")
        self.assertEqual([r["path"] for r in report["results"]], ["alltoallv", "peer", "allgather", "two_level"])
        self.assertNotIn("unavailable", report["results"][0])
        for r in report["results"]:
            self.assertNotEqual("unavailable" in r, "phases" in r)
            if "unavailable" in r:
                self.assertIn("not available", table)

    def test_presets_give_way_to_flags(self):
        report, table = self.run_json("bench", "alltoall", "--preset", "deepep-ll", "--tokens", "2", "--warmup", "0", "--iters",
                                      "1", "--no-baselines")
        (r,) = report["results"]
        self.assertEqual((r["tokens"], r["hidden"], r["top_k"], r["experts"]), (2, 7168, 8, 256))
        self.assertEqual((r["dtype"], r["combine_dtype"]), ("fp8", "bf16"))
        self.assertIn("DeepEP, RDMA", table)
        self.assertEqual(report["published"]["figures"][0]["dispatch_us"], 77)
        self.assertLessEqual(max(map(len, table.split("\n"))), 120)

    def test_moe(self):
        report, table = self.run_json("bench", "moe", "--tokens", "1,3", "--hidden", "64", "--intermediate", "32", "--experts",
                                  "5", "--top-k", "2", "--weights", "bf16,fp8", "--warmup", "0", "--iters", "2", ranks=3)
        self.assertEqual(len(report["results"]), 4)
        for r in report["results"]:
            self.assertTrue(r["verified"])
            self.assertGreater(r["tokens_per_second"], 0)
            self.assertGreater(r["expert_gflops"], 0)
        self.assertLessEqual(max(map(len, table.split("\n"))), 120)

    def test_moe_routers(self):
        for router, top_k in (("noisy_top_k", 2), ("expert_choice", 2), ("hash", 1)):
            with self.subTest(router=router):
                report, _ = self.run_json("bench", "moe", "--router", router, "--tokens", "0,1,5", "--hidden", "64",
                                          "--intermediate", "32", "--experts", "5", "--top-k", str(top_k), "--warmup", "0",
                                          "--iters", "2", ranks=3)
                self.assertEqual(report["router"], router)
                self.assertEqual([(r["tokens"], r["top_k"]) for r in report["results"]], [(0, top_k), (1, top_k), (5, top_k)])
                for r in report["results"]:
                    self.assertTrue(r["verified"])

    def test_recorded_routing_is_traffic(self):
        traces = []
        for ranks in (1, 2):
            path = self.path(f"trace{ranks}.jsonl")
            result = run("generate", "--model", os.path.join(SOURCE, "models/ferry-tiny-v3"), "--prompt", "Hello there",
                         "--prompt", "One two", "--max-tokens", "4", "--ignore-eos", "--ranks", str(ranks), "--record-routing",
                         path)
            self.assertEqual(result.returncode, 0, result.stderr)
            with open(path, encoding="utf-8") as file:
                lines = [json.loads(line) for line in file]
            # Tokens of a step come rank by rank: the same rows, in another order.
            k = lines[0]["top_k"]
            rows = sorted((r["layer"], *r["expert_idx"][i:i + k]) for r in lines[1:]
                          for i in range(0, len(r["expert_idx"]), k))
            traces.append((lines[0]["num_experts"], k, rows))
        self.assertEqual(traces[0], traces[1])
        report, _ = self.run_json("bench", "alltoall", "--traffic", f"trace:{path}", "--tokens", "16", "--hidden", "32",
                                  "--warmup", "0", "--iters", "1", "--ranks", "2")
        (r,) = report["results"]
        self.assertEqual((r["experts"], r["top_k"]), traces[0][:2])

    def test_shipped_trace(self):
        trace = os.path.join(SOURCE, "bench/traces/ferry-tiny-v3.jsonl")
        self.assertLess(os.path.getsize(trace), 200_000)
        report, _ = self.run_json("bench", "alltoall", "--traffic", f"trace:{trace}", "--tokens", "512", "--hidden", "32",
                                  "--warmup", "0", "--iters", "1", "--ranks", "2", "--no-baselines")
        (r,) = report["results"]
        self.assertGreater(r["imbalance"]["expert"], 1.05)  # a real model's load is not even

    def test_bad_flags_are_refused(self):
        for args, why in (
            (["alltoall", "--tokens", "1,x"], "--tokens 'x': must be an integer"),
            (["alltoall", "--tokens", "1,,2"], "--tokens '1,,2': has an empty item"),
            (["alltoall", "--tokens", "-1"], "the nearest is 0"),
            (["alltoall", "--path", "per"], "the nearest is 'peer'"),
            (["alltoall", "--dtype", "fp16"], "must be one of bf16, f32"),
            (["alltoall", "--traffic", "zip:1"], "--traffic 'zip:1' is none of"),
            (["alltoall", "--placement", "random:x"], "--placement 'random:x' is none of"),
            (["alltoall", "--experts", "4", "--top-k", "5"], "cannot choose so many"),
            (["alltoall", "--traffic", "trace:/nowhere"], "/nowhere"),
            (["alltoall", "--preset", "deepep"], "must be one of none, deepep-normal, deepep-ll"),
            (["alltoall", "--iters", "0"], "the nearest is 1"),
            (["alltoal"], "the nearest is 'bench alltoall'"),
            (["alltoall", "--dispatch-dtype", "fp8"], "bench alltoall does not use --dispatch-dtype"),
            (["alltoall", "--overflow", "capacity"], "bench alltoall does not use --overflow"),
            (["alltoall", "--explain"], "bench alltoall does not use --explain"),
            (["moe", "--experts", "2", "--top-k", "3"], "there are not so many"),
            (["moe", "--traffic", "uniform"], "bench moe does not use --traffic"),
            (["moe", "--router", "hash", "--top-k", "2"], "--router hash has one expert for a token, but --top-k is 2"),
            (["moe", "--router", "switch"], "must be one of top_k, noisy_top_k, expert_choice, hash"),
            (["engine", "--router", "expert_choice"], "bench engine does not use --router"),
        ):
            with self.subTest(args=args):
                result = run("bench", *args, "--ranks", "2")
                self.assertNotEqual(result.returncode, 0)
                self.assertIn(why, result.stderr)
                self.assertEqual(result.stdout, "")

    def test_loading_of_every_layout(self):
        """Everything that is needed is read, and read once."""
        for ranks, layouts in ("1", ["copy", "transpose", "gptq", "awq", "packed", "mxfp4", "int8", "int4"]), ("3", ["copy", "mxfp4"]):
            done = subprocess.run([sys.executable, os.path.join(SOURCE, "bench/load.py"), PROGRAM, "--hidden", "256", "--layers", "1",
                                   "--repeats", "1", "--ranks", ranks, "--only", *layouts, "--json", self.path("load.json")],
                                  capture_output=True, text=True, timeout=slack(100))
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(self.path("load.json"), encoding="utf-8") as file:
                report = json.load(file)["layouts"]
            self.assertEqual(list(report), layouts)
            for name, layout in report.items():
                self.assertEqual(layout["read_of_needed"], 1, name)
                self.assertIn(name, done.stdout)


if __name__ == "__main__":
    unittest.main()
