#!/usr/bin/env python3
"""mpirun_test.py PROGRAM: the program on the fake GPUs and the fake NCCL, as processes of mpirun: a model's logits and
texts, bench alltoall, who says what when a rank goes, and what is refused at the start."""

import csv
import json
import os
import re
import signal
import sys
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, "tests", "launch", "commands"))
from program import DATA, MODEL, Job, ProgramTest, deadline, main, send, slack  # noqa: E402

IDS = '{"prompts": [{"input_ids": [5, 6, 7, 8, 9, 10, 11, 12, 13]}, {"input_ids": [7]}, {"input_ids": [3, 9, 200, 11]}]}'
SWITCH = os.path.join(ROOT, "tests", "data", "encoder_decoder", "switch_transformers_capacity")
CUDA = ["--device", "cuda"]
NCCL = [*CUDA, "--transport", "nccl", "--path", "alltoallv"]
PEER = [*CUDA, "--path", "peer"]
# Where a step is a graph, which is of many, its number stands before the place.
PLACE = r"(?:layer \d+, [a-z ]+|step \d+: layer \d+, [a-z ]+|[a-z ]+)(?:, step \d+)?, transfer \d+: rank (\d+) waits for (.*)"


class FakeGpuTest(ProgramTest):
    def start(self, args, ranks, **env):
        return Job(args, ranks, "mpi", env={"TF_FAKEGPU_DEVICES": str(ranks), **{k: str(v) for k, v in env.items()}})

    def job(self, args, ranks, **env):
        return self.start(args, ranks, **env).wait()

    def eval(self, name, args, ranks, **env):
        with open(self.path("ids.json"), "w") as f:
            f.write(IDS)
        out = self.path(name)
        job = self.job(["eval", "--model", MODEL, "--ids", self.path("ids.json"), "--out", out, *args], ranks, **env)
        self.assertEqual(job.status, 0, job.err)
        with open(out, "rb") as f:
            return f.read(), job

    def generate(self, ranks, *args, **env):
        return self.job(["generate", "--model", MODEL, "--prompt", "In the beginning", "--max-tokens", "12", "--ignore-eos",
                         *args], ranks, **env)


class Nccl(FakeGpuTest):
    def test_logits(self):
        cpu, _ = self.eval("cpu", ["--device", "cpu", "--compute", "f32"], 1)
        for ranks in (1, 2, 3):
            cuda, job = self.eval("cuda", [*NCCL, "--compute", "f32"], ranks, TF_FAKEGPU_SEED=ranks)
            self.assertEqual(cuda, cpu, f"{ranks} ranks")
            self.assertIn(", NCCL; ", job.err)
        one, _ = self.eval("one", [*NCCL, "--compute", "bf16"], 1)
        for ranks in (2, 3):
            several, _ = self.eval("several", [*NCCL, "--compute", "bf16"], ranks, TF_FAKEGPU_ORDER="random")
            self.assertEqual(several, one, f"{ranks} ranks, bf16")

    def test_inspect_tells_the_logits_of_a_gpu(self):
        job = self.job(["inspect", "--model", MODEL, *CUDA, "--json"], 2)
        self.assertEqual(job.status, 0, job.err)
        self.assertEqual([rank["logit_bytes"] for rank in json.loads(job.out)["ranks"]], [64 * (2304 + 1) * 4] * 2)

    def test_auto_takes_nccl(self):
        _, job = self.eval("auto", [], 2)
        self.assertIn(", NCCL; ", job.err)
        _, job = self.eval("explained", ["--explain"], 2)
        self.assertEqual(job.err.count(": exchange plan of rank 0 of 2: "), 1, job.err)
        _, job = self.eval("shared", ["--share-gpus"], 2, TF_FAKEGPU_DEVICES=1)
        self.assertNotIn(", NCCL; ", job.err)
        self.assertIn("2 ranks share a GPU", job.err)

    def test_refused_at_the_start(self):
        cases = [
            ([*NCCL], {"TF_FAKENCCL_VERSION": 21300}, "--transport nccl: rank 0: NCCL on this machine is 2.13.0; install 2.14 or newer"),
            ([*NCCL], {"TF_FAKEGPU_DEVICES": 2}, "has 2 GPUs for 3 ranks"),
            ([*NCCL, "--share-gpus"], {"TF_FAKEGPU_DEVICES": 2}, "install 2.30.3 or newer"),
            (["--device", "cpu", "--transport", "nccl"], {}, "rows lie on cpu"),
            ([*CUDA, "--transport", "mpi", "--path", "two_level"], {}, "choose the nccl transport, or path alltoallv"),
            ([*NCCL, "--kv-cache-tokens", "100000000"], {}, "not enough memory on a GPU of host"),
        ]
        for args, env, words in cases:
            job = self.generate(3, *args, **env)
            self.assertEqual(job.status, 1, job.err)
            self.assertEqual(len(job.errors), 1, job.err)
            self.assertIn(words, job.errors[0])

    def lose(self, call, how, state):
        job = self.generate(3, *NCCL, "--comm-timeout", f"{deadline(5)}s", TF_FAKENCCL_FAULT=f"1:{call}:{how}")
        self.assertNotEqual(job.status, 0, job.err)
        told = [m for m in (re.search(PLACE, line) for line in job.errors) if m and "rank 1 on host" in m[2]]
        self.assertTrue(told, f"{how} at call {call}: nobody names rank 1, the phase and the step:\n{job.err}")
        self.assertTrue(any(state in m[2] for m in told), job.err)

    def test_a_rank_is_killed(self):
        for call in (1, 4, 23, 57):
            self.lose(call, "kill", "gone")

    def test_a_rank_is_stopped(self):
        for call in (3, 40):
            self.lose(call, "stop", "stopped")


class Peer(FakeGpuTest):
    """Ranks that map each other's memory."""

    def test_logits(self):
        cpu, _ = self.eval("cpu", ["--device", "cpu", "--compute", "f32"], 1)
        messages, _ = self.eval("messages", [*NCCL, "--compute", "bf16"], 1)
        for ranks in (1, 2, 3):
            seed = {"TF_FAKEGPU_ORDER": "random", "TF_FAKEGPU_SEED": ranks}
            cuda, _ = self.eval("cuda", [*PEER, "--compute", "f32"], ranks, **seed)
            self.assertEqual(cuda, cpu, f"{ranks} ranks")
            bf16, _ = self.eval("bf16", [*PEER, "--compute", "bf16"], ranks, **seed)
            self.assertEqual(bf16, messages, f"{ranks} ranks, bf16")

    def test_two_level(self):
        """On one host nothing is sent: rows are pulled from the rank whose tokens they are."""
        cpu, _ = self.eval("cpu", ["--device", "cpu", "--compute", "f32"], 1)
        messages, _ = self.eval("messages", [*NCCL, "--compute", "bf16"], 1)
        for ranks in (1, 2, 3):
            for compute, expected in ("f32", cpu), ("bf16", messages):
                cuda, _ = self.eval("cuda", [*CUDA, "--transport", "nccl", "--path", "two_level", "--compute", compute], ranks,
                                    TF_FAKEGPU_SEED=ranks)
                self.assertEqual(cuda, expected, f"{ranks} ranks, {compute}")

    def test_an_encoder(self):
        """Switch, both stacks: the ranks drop what exceeds a sequence's capacity, each for its own."""
        with open(os.path.join(SWITCH, "golden.json")) as f:
            prompts = json.load(f)["prompts"].values()
        keys = ("input_ids", "decoder_input_ids")
        ids = self.write("switch.json", json.dumps({"prompts": [{key: p[key] for key in keys} for p in prompts]}))
        out = self.path("switch.out")

        def evaluate(ranks, *flags):
            job = self.job(["eval", "--model", SWITCH, "--ids", ids, "--out", out, "--trace", "--compute", "f32", *flags], ranks)
            self.assertEqual(job.status, 0, job.err)
            with open(out, "rb") as f:
                return f.read()

        cpu = evaluate(1, "--device", "cpu")
        self.assertEqual(evaluate(1, *PEER), cpu)
        self.assertEqual(evaluate(2, *PEER, "--prefill-chunk", "7"), cpu)
        self.assertEqual(evaluate(2, *NCCL), cpu)

    def test_where_memory_cannot_be_mapped(self):
        cpu, _ = self.eval("cpu", ["--device", "cpu", "--compute", "f32"], 1)
        cuda, job = self.eval("cuda", [*CUDA, "--compute", "f32"], 2, TF_FAKEGPU_IPC="refused")
        self.assertEqual(cuda, cpu)
        self.assertRegex(job.err, "not taking path peer: rank .: memory of rank .*cudaIpcOpenMemHandle.*--ipc=host")
        job = self.generate(2, *PEER, TF_FAKEGPU_IPC="refused")
        self.assertEqual((job.status, len(job.errors)), (1, 1), job.err)
        self.assertIn("cudaIpcOpenMemHandle", job.errors[0])

    def lose(self, how, state):
        job = self.start(["generate", "--model", MODEL, "--prompt", "In the beginning", "--max-tokens", "4000", "--ignore-eos",
                          *PEER, "--comm-timeout", f"{deadline(5)}s"], 3)
        end = time.monotonic() + slack(60)
        while len(job.out) < 10 and job.process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        victim = job.ranks().get(1)
        self.assertTrue(victim is not None and send(how, victim), f"the job ended too early:\n{job.err}")
        job.wait()
        self.assertNotEqual(job.status, 0, job.err)
        told = [m for m in (re.search(PLACE, line) for line in job.errors) if m and "rank 1 on host" in m[2]]
        self.assertTrue(told, f"nobody names rank 1, the phase and the step:\n{job.err}")
        self.assertTrue(any(state in m[2] for m in told), job.err)

    def test_a_rank_is_killed(self):
        self.lose(signal.SIGKILL, "gone")

    def test_a_rank_is_stopped(self):
        self.lose(signal.SIGSTOP, "stopped")


class Bench(FakeGpuTest):
    """bench alltoall with rows on GPUs: results are checked, times are those of an interpreter."""

    AXES = ["--hidden", "72", "--experts", "8", "--top-k", "3", "--warmup", "0", "--iters", "2"]

    def bench(self, ranks, *args, **env):
        job = self.job(["bench", "alltoall", *CUDA, *args, "--json", self.path("out.json"), "--csv", self.path("out.csv")],
                       ranks, **env)
        self.assertEqual(job.status, 0, job.err)
        with open(self.path("out.json")) as f:
            report = json.load(f)
        with open(self.path("out.csv"), newline="") as f:
            return report, list(csv.DictReader(f)), job

    def test_paths_and_baselines(self):
        for ranks in (1, 2, 3):
            report, lines, job = self.bench(ranks, *self.AXES, "--transport", "nccl", "--path", "peer,alltoallv",
                                            "--tokens", "0,5", "--dtype", "f32,fp8", "--combine-dtype", "bf16",
                                            TF_FAKEGPU_ORDER="random", TF_FAKEGPU_SEED=ranks)
            self.assertTrue(report["machine"]["device"].startswith("cuda:"), report["machine"])
            self.assertEqual(len(report["results"]), 2 * 2 * 2)
            for r in report["results"]:
                self.assertEqual((r["ranks"], r["verified"], r["wrong"], r["chosen_path"]), (ranks, True, 0, r["path"]))
                self.assertEqual(r["bytes"]["dispatch"]["selection"] > 0, r["tokens"] > 0)
                self.assertEqual(set(r["baselines"]), {"memcpy", "nccl_sendrecv", "nccl_padded"})
                for baseline in r["baselines"].values():
                    self.assertGreaterEqual(baseline["round_trip"]["min_us"], 0)
            names = ["peer", "nccl_sendrecv", "alltoallv", "nccl_sendrecv", "memcpy", "nccl_padded"]
            self.assertEqual([line["path"] for line in lines], names * (2 * 2))
            self.assertEqual([line["wrong"] for line in lines], ["0", "", "0", "", "", ""] * (2 * 2))
            self.assertLessEqual(max(map(len, job.out.decode().split("\n"))), 120)

    def test_skewed_traffic(self):
        """One rank gets nearly everything: what is sent differs from the padded blocks, and buffers are at their limits."""
        report, _, _ = self.bench(3, *self.AXES, "--transport", "nccl", "--path", "peer,alltoallv", "--tokens", "7",
                                  "--traffic", "hot:1,silent-rank")
        self.assertEqual([r["wrong"] for r in report["results"]], [0] * 4)

    def test_moe(self):
        job = self.job(["bench", "moe", *CUDA, "--path", "peer,alltoallv", "--tokens", "3", "--hidden", "64", "--intermediate", "32",
                        "--experts", "5", "--top-k", "2", "--weights", "bf16", "--warmup", "0", "--iters", "1", "--json",
                        self.path("out.json")], 2)
        self.assertEqual(job.status, 0, job.err)
        with open(self.path("out.json")) as f:
            report = json.load(f)
        self.assertTrue(report["machine"]["device"].startswith("cuda:"))
        self.assertNotIn("gflops", report["machine"])
        self.assertEqual([(r["verified"], r["chosen_path"]) for r in report["results"]], [(True, "peer"), (True, "alltoallv")])
        for r in report["results"]:
            self.assertGreaterEqual(r["phases"]["layer"]["min_us"], r["phases"]["experts"]["min_us"])

    def test_what_was_published_stands_beside(self):
        report, _, job = self.bench(2, *self.AXES, "--path", "peer", "--preset", "deepep-ll", "--tokens", "3")
        self.assertEqual([f["ranks"] for f in report["published"]["figures"]], [8, 16, 32, 64, 128, 256])
        self.assertRegex(job.out.decode(), r"here, 3 tokens, peer +2 ")
        self.assertRegex(job.out.decode(), r"DeepEP, RDMA +8 +77\.0 +98\.00 +114\.0 +127\.00")

    def test_what_cannot_run(self):
        report, _, _ = self.bench(2, *self.AXES, "--share-gpus", "--tokens", "3", "--path", "alltoallv,two_level",
                                  TF_FAKEGPU_DEVICES=1)
        messages, two_level = report["results"]
        self.assertTrue(messages["verified"])
        self.assertEqual(messages["baselines"]["nccl_sendrecv"], {"unavailable": "rank 0: needs --transport nccl"})
        self.assertIn("unavailable", two_level)


class Texts(ProgramTest):
    WHOLE = 64  # tokens of each text, which take more than a minute to interpret
    BEGINNING = 12

    def test_golden(self):
        with open(os.path.join(DATA, "greedy.json")) as f:
            golden = json.load(f)
        prompts = [word for case in golden.values() for word in ("--prompt", case["prompt"])]
        # On path peer decode steps are graphs.
        for ranks, flags, tokens in ((1, NCCL, self.BEGINNING), (2, NCCL, self.BEGINNING), (3, NCCL, self.WHOLE), (2, PEER, self.WHOLE)):
            job = Job(["generate", "--model", MODEL, "--json", "--max-tokens", tokens, "--compute", "f32", *flags, *prompts],
                      ranks, "mpi", env={"TF_FAKEGPU_DEVICES": str(ranks)}).wait(limit=400)
            self.assertEqual(job.status, 0, job.err)
            got = [output["ids"] for output in json.loads(job.out)["outputs"]]
            self.assertEqual(got, [case["ids"][:tokens] for case in golden.values()], f"{ranks} ranks, {flags}")


main()
