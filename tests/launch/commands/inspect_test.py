#!/usr/bin/env python3
"""inspect_test.py PROGRAM: what inspect says of the model of the tests, and what loading it reads and shows."""

import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import unittest

from program import MODEL, PROGRAM, ROOT, ProgramTest, main, run, slack

MAX_BYTES_READ_PER_BYTE_KEPT = 1.05
MAX_WEIGHT_BYTES_PER_BYTE_STORED = 1.03
# Of resident memory at its peak, less what the program took before, to the buffers that were declared.
MAX_PEAK_PER_BYTE_DECLARED = 1.05
DTYPE_BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1}


def headers():
    """name -> (dtype, elements, bytes) of all tensors, read without the program."""
    tensors = {}
    for name in sorted(os.listdir(MODEL)):
        if not name.endswith(".safetensors"):
            continue
        with open(os.path.join(MODEL, name), "rb") as f:
            (size,) = struct.unpack("<Q", f.read(8))
            for tensor, info in json.loads(f.read(size)).items():
                if tensor == "__metadata__":
                    continue
                elements = 1
                for dim in info["shape"]:
                    elements *= dim
                tensors[tensor] = (info["dtype"], elements, elements * DTYPE_BYTES[info["dtype"]])
    return tensors


PARTS = {"weights": "bytes", "cache": "cache_bytes", "activations": "activation_bytes", "logits": "logit_bytes",
         "exchanges": "exchange_bytes"}


def in_words(num_bytes):
    mib = num_bytes / 2**20
    return f"{mib:.1f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def is_mtp(name):
    return name.startswith("model.layers.5.")


class Inspect(ProgramTest):
    def test_numbers(self):
        """Parameters and bytes, summed up here from the headers: 20.7 M in the files, 15.9 M without the MTP module."""
        tensors = headers()
        weights = {n: t for n, t in tensors.items() if not n.endswith("_scale_inv")}
        in_files = sum(t[1] for t in weights.values())
        main_model = sum(t[1] for n, t in weights.items() if not is_mtp(n))
        self.assertEqual((round(in_files / 1e6, 1), round(main_model / 1e6, 1)), (20.7, 15.9))
        told = self.succeed("inspect", "--model", MODEL, "--json").json()
        self.assertEqual(told["model_type"], "deepseek_v3")
        self.assertEqual(told["parameters"], main_model)
        self.assertEqual(told["bytes"], sum(t[2] for n, t in tensors.items() if not is_mtp(n)))
        self.assertEqual(told["skipped_bytes"], sum(t[2] for n, t in tensors.items() if is_mtp(n)))
        self.assertEqual(told["unknown_tensors"], 0)
        self.assertEqual(told["generation"], {"eos_token_ids": [1], "do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": None,
                                              "min_p": None, "repetition_penalty": None, "max_new_tokens": None})
        self.assertIn("sampled at temperature 0.6, top-p 0.95; ends at token 1\n", self.succeed("inspect", "--model", MODEL).text())
        self.assertEqual(sum(told["bytes_by_dtype"].values()), told["bytes"])
        for dtype in DTYPE_BYTES:
            self.assertEqual(told["bytes_by_dtype"][dtype], sum(t[2] for n, t in tensors.items()
                                                                if t[0] == dtype and not is_mtp(n)))
        experts = {n: t for n, t in weights.items() if ".mlp.experts." in n and not is_mtp(n)}
        self.assertEqual(told["parts"]["routed experts"]["parameters"], sum(t[1] for t in experts.values()))
        # "about 4.2 M take part per token, besides the embedding": 4 of 32 experts, everything else whole.
        active = main_model - sum(t[1] for t in experts.values()) * 28 // 32
        self.assertEqual(told["active_parameters"], active)
        self.assertAlmostEqual((active - told["parts"]["embedding"]["parameters"]) / 1e6, 4.2, delta=0.1)
        self.assertEqual(sum(part["parameters"] for part in told["parts"].values()), main_model)

    def test_ranks(self):
        alone = self.succeed("inspect", "--model", MODEL, "--json").json()
        told = self.succeed("inspect", "--model", MODEL, "--json", ranks=3, via="mpi").json()
        self.assertEqual({k: v for k, v in told.items() if k != "ranks"}, {k: v for k, v in alone.items() if k != "ranks"})
        self.assertEqual([r["experts"] for r in told["ranks"]], [list(range(11)), list(range(11, 22)), list(range(22, 32))])
        self.assertEqual([(r["experts"], r["bytes"]) for r in alone["ranks"]], [(list(range(32)), alone["bytes"])])
        experts_bytes = alone["parts"]["routed experts"]["bytes"]
        everywhere = alone["bytes"] - experts_bytes
        for rank, count in zip(told["ranks"], (11, 11, 10)):
            self.assertEqual(rank["bytes"], everywhere + experts_bytes * count // 32)

    def test_table(self):
        for how in {"ranks": 3}, {"ranks": 3, "via": "mpi"}:
            text = self.succeed("inspect", "--model", MODEL, **how).text()
            self.assertIn("deepseek_v3, 5 layers of hidden size 256 (4 with experts), context 4096, vocabulary 2304", text)
            self.assertIn("experts: 32 routed of width 128, 4 per token; shared width 128; groups 4 of which 2", text)
            rows = re.findall(r"(?m)^([012]) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", text)
            self.assertEqual([row[:2] for row in rows], [("0", "11"), ("1", "11"), ("2", "10")], text)
            for row in rows:
                parts = [float(value) for value in row[2:]]
                self.assertAlmostEqual(sum(parts[:5]), parts[5], delta=0.03, msg=text)  # each is rounded to 0.01

    def test_config_alone(self):
        """Without weights the numbers are those of the types that config.json implies."""
        for name in "config.json", "generation_config.json":
            shutil.copy(os.path.join(MODEL, name), self.path(name))
        there = self.succeed("inspect", "--model", MODEL, "--json", ranks=3).json()
        alone = self.succeed("inspect", "--model", self.dir, "--json", ranks=3).json()
        self.assertEqual((there["weights_there"], alone["weights_there"]), (True, False))
        for key in "parameters", "active_parameters", "parts", "bytes", "ranks":
            self.assertEqual(alone[key], there[key], key)
        self.assertIn("no weights here", self.succeed("inspect", "--model", self.dir).text())
        refused = run("eval", "--model", self.dir, "--ids", self.write_ids("ids.json", [0, 5]))
        self.assertEqual(refused.status, 1)
        self.assertIn("model.safetensors", refused.err)

    def test_memory_that_is_told_is_declared(self):
        """inspect's sum is a part of what an engine of the same options declares: what the router asks for comes on top."""
        flags = ["--model", MODEL, "--kv-cache-tokens", "4096", "--prefill-chunk", "16", "--json"]
        told = self.succeed("inspect", *flags, "--max-num-seqs", "1", ranks=3).json()
        self.assertEqual(told["cache_tokens_per_rank"], 4096)
        run_json = self.succeed("generate", *flags, "--prompt", "a", "--max-tokens", "1", ranks=3).json()
        for planned, rank in zip(told["ranks"], run_json["report"]["ranks"]):
            self.assertEqual(planned["bytes"], rank["weight_bytes"])
            self.assertEqual(planned["cache_bytes"], rank["cache_bytes"])
            self.assertEqual(planned["logit_bytes"], 64 * 2304 * 4)
            self.assertGreater(planned["exchange_bytes"], 0)
            self.assertGreater(rank["declared_bytes"], sum(planned[part] for part in PARTS.values()))

    def test_the_sum_is_that_of_the_check(self):
        """What a run with the same flags is refused by, part by part."""
        flags = ["--model", MODEL, "--kv-cache-tokens", "1000000000", "--prefill-chunk", "32", "--expert-dtype", "int4"]
        for ranks in 1, 3:
            told = self.succeed("inspect", *flags, "--max-num-seqs", "1", "--json", ranks=ranks).json()["ranks"]
            refused = run("generate", *flags, "--prompt", "a", "--max-tokens", "100", ranks=ranks)
            self.assertEqual(refused.status, 1)
            sums = {name: sum(rank[key] for rank in told) for name, key in PARTS.items()}
            parts = ", ".join(f"{name} {in_words(total)}" for name, total in sums.items())
            self.assertIn(f"{in_words(sum(sums.values()))} ({parts}; ", refused.err)
            stored = self.succeed("inspect", "--model", MODEL, "--json", ranks=ranks).json()["ranks"]
            for key in PARTS.values():
                if key != "logit_bytes":
                    self.assertNotEqual(told[0][key], stored[0][key], key)
        self.assertEqual(self.succeed("inspect", "--model", MODEL, "--json").json()["cache_tokens_per_rank"], 16384)  # serve's


class Loading(ProgramTest):
    def test_reads_what_it_keeps(self):
        """No rank reads more than 1.05 times what it keeps; together they keep every expert once."""
        flags = ["generate", "--model", MODEL, "--prompt", "a", "--max-tokens", "1", "--json"]
        for how in {}, {"ranks": 4}, {"ranks": 4, "via": "mpi"}, {"ranks": 40}:
            expected = self.succeed("inspect", "--model", MODEL, "--json", ranks=how.get("ranks", 1)).json()["ranks"]
            ranks = self.succeed(*flags, **how).json()["report"]["ranks"]
            self.assertEqual(len(ranks), how.get("ranks", 1))
            for rank, planned in zip(ranks, expected):
                self.assertLessEqual(rank["load_bytes"], MAX_BYTES_READ_PER_BYTE_KEPT * rank["weight_bytes"], how)
                self.assertEqual(rank["weight_bytes"], planned["bytes"], how)
                self.assertGreaterEqual(rank["declared_bytes"], rank["weight_bytes"] + rank["cache_bytes"], how)
                self.assertGreaterEqual(rank["peak_resident_bytes"], rank["resident_bytes"], how)

    def test_memory_at_its_peak(self):
        """The kernel's figure for the process. 400 MiB of weights, so that the pages of the program's own code, which come
        in while it runs, are a small part of what is allowed besides."""
        model = self.path("model")
        subprocess.run([sys.executable, os.path.join(ROOT, "bench", "make_model.py"), model, "--preset", "tiny", "--hidden", "1024",
                        "--experts", "32", "--expert-width", "1024", "--layers", "5"], check=True, stdout=subprocess.DEVNULL)
        ids, out = self.write_ids("ids.json", list(range(2, 130))), self.path("report.json")
        stored = self.succeed("inspect", "--model", model, "--json").json()["bytes"]
        self.assertGreater(stored, 400 << 20)
        for dtype in "stored", "int4":
            self.succeed("eval", "--model", model, "--ids", ids, "--expert-dtype", dtype, "--json", out)
            with open(out) as f:
                (rank,) = json.load(f)["report"]["ranks"]
            peak = rank["peak_resident_bytes"] - rank["base_bytes"]
            print(f"{dtype}: weights {rank['weight_bytes'] / stored:.3f} and bytes read {rank['load_bytes'] / stored:.3f} of those stored; "
                  f"peak {peak / rank['declared_bytes']:.3f} of {rank['declared_bytes'] >> 20} MiB declared; "
                  f"{rank['load_bytes'] / rank['load_seconds'] / 1e9:.2f} GB/s", flush=True)
            self.assertLessEqual(rank["load_bytes"], MAX_BYTES_READ_PER_BYTE_KEPT * stored, dtype)
            if dtype == "stored":
                self.assertLessEqual(rank["weight_bytes"], MAX_WEIGHT_BYTES_PER_BYTE_STORED * stored)
            self.assertLessEqual(peak, MAX_PEAK_PER_BYTE_DECLARED * rank["declared_bytes"], dtype)

    def test_plain_lines_without_a_terminal(self):
        done = self.succeed("generate", "--model", MODEL, "--prompt", "a", "--max-tokens", "1", ranks=2)
        self.assertNotIn("\r", done.err)
        self.assertNotIn("\033", done.err)
        for line in done.err_lines:
            self.assertRegex(line, r"^[DIWE] \d\d:\d\d:\d\d\.\d{3} ")
        quiet = self.succeed("generate", "--model", MODEL, "--prompt", "a", "--max-tokens", "1", "--log-level", "off")
        self.assertEqual(quiet.err_lines, [])

    def test_terminal(self):
        """On a terminal everything goes to one place: what a terminal shows at the end is log lines and text."""
        for extra in [], ["--transport", "local", "--ranks", "3"]:
            master, slave = pty.openpty()
            process = subprocess.Popen([PROGRAM, "generate", "--model", MODEL, "--prompt", "In the", "--max-tokens", "3",
                                        *extra], stdin=slave, stdout=slave, stderr=slave)
            os.close(slave)
            shown = b""
            try:
                while piece := os.read(master, 65536):
                    shown += piece
            except OSError:
                pass  # the other end is closed
            os.close(master)
            self.assertEqual(process.wait(timeout=slack(60)), 0, shown)
            # What remains of each line after its last return to the first column.
            lines = [line.rstrip("\r").rsplit("\r", 1)[-1].replace("\033[K", "") for line in shown.decode().split("\n")]
            self.assertEqual(lines[-1], "", lines)
            self.assertTrue(lines[-2].startswith("In the"), lines)
            for line in lines[:-2]:
                self.assertRegex(line, r"^[DIWE] \d\d:\d\d:\d\d\.\d{3} ")


if __name__ == "__main__":
    main()
