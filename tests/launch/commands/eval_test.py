#!/usr/bin/env python3
"""eval_test.py PROGRAM: logits, routing and perplexities of the program against the golden files, and the same bits for
every number and kind of ranks."""

import array
import json
import math
import os
import unittest

from program import DATA, MODEL, ROOT, ProgramTest, main, read_safetensors, run

DOMAINS = ["bible", "source", "docs"]
# 2e-4 (max abs) is what the project promises for f32: noise of another order of summation over at most 512 terms of
# magnitude up to 10, times five layers.
GOLDEN_TOLERANCE = 2e-4
# The card's perplexities have five digits; another order of f32 sums changes less than 0.1 %.
PERPLEXITY_TOLERANCE = 1e-3
MPI_1, MPI_2, MPI_3, MPI_5 = [{"ranks": n, "via": "mpi"} for n in (1, 2, 3, 5)]


def floats(tensor):
    dtype, _, content = tensor
    assert dtype == "F32", dtype
    return array.array("f", content)


def ints(tensor):
    dtype, _, content = tensor
    assert dtype == "I32", dtype
    return array.array("i", content)


def heldout(domain):
    with open(os.path.join(DATA, f"heldout_{domain}.json")) as f:
        return [prompt["input_ids"] for prompt in json.load(f)["prompts"]]


class Eval(ProgramTest):
    def evaluate(self, ids, *flags, model=MODEL, **how):
        """The bytes of the file that eval writes."""
        out = self.path("out.safetensors")
        self.succeed("eval", "--model", model, "--ids", ids, "--out", out, *flags, **how)
        with open(out, "rb") as f:
            content = f.read()
        os.unlink(out)
        self.assertFalse(os.path.exists(out + ".partial"))
        return content

    def test_golden_prompts_in_the_same_bits_everywhere(self):
        golden = read_safetensors(os.path.join(DATA, "logits.safetensors"))
        ids = self.write_ids("ids.json", *(ints(golden[f"{d}.input_ids"]) for d in DOMAINS))
        alone = self.evaluate(ids, "--compute", "f32")
        for how in MPI_1, MPI_2, MPI_3, MPI_5, {"ranks": 2}, {"ranks": 3}, {"ranks": 5}:
            self.assertEqual(self.evaluate(ids, "--compute", "f32", **how), alone, how)
        self.assertEqual(self.evaluate(ids, "--compute", "f32", "--prefill-chunk", "7", "--threads", "2", ranks=2), alone)
        mine = read_safetensors(self.write("alone.safetensors", alone))
        self.assertEqual(sorted(mine), sorted(f"{kind}.{i}" for i in range(3)
                                              for kind in ("logits", "expert_idx", "expert_weight")))
        for i, domain in enumerate(DOMAINS):
            self.assertEqual(mine[f"logits.{i}"][:2], golden[f"{domain}.logits"][:2])
            furthest = max(abs(a - b) for a, b in zip(floats(mine[f"logits.{i}"]), floats(golden[f"{domain}.logits"])))
            print(f"{domain}: logits differ from the golden ones by at most {furthest:.2e}", flush=True)
            self.assertLessEqual(furthest, GOLDEN_TOLERANCE)
            self.check_routing(mine, golden, i, domain)

    def test_trace(self):
        """--trace adds what golden files have; it is the same for ranks and chunks, and changes nothing else."""
        model = os.path.join(ROOT, "tests", "data", "families", "deepseek_v3")
        golden = read_safetensors(os.path.join(model, "golden.safetensors"))
        prompts = ["long", "short"]
        ids = self.write_ids("ids.json", *(ints(golden[f"{p}.input_ids"]) for p in prompts))

        def evaluate(*flags, **how):
            return self.evaluate(ids, "--compute", "f32", *flags, model=model, **how)

        traced = evaluate("--trace")
        for flags, how in ([], {"ranks": 2}), (["--prefill-chunk", "7"], {"ranks": 3}), (["--prefill-chunk", "1"], MPI_2):
            self.assertEqual(evaluate("--trace", "--overlap", "two_batch", *flags, **how), traced, (flags, how))
        mine = read_safetensors(self.write("traced.safetensors", traced))
        plain = read_safetensors(self.write("plain.safetensors", evaluate()))
        self.assertEqual({name: mine[name] for name in plain}, plain)
        self.assertEqual(sorted(mine.keys() - plain.keys()),
                         ["hidden_states.0", "hidden_states.1", "router_logits.0", "router_logits.1"])
        for i, prompt in enumerate(prompts):
            # As in tests/data/families/README.md.
            for name, absolute, relative in ("hidden_states", 2e-4, 1e-4), ("router_logits", 1e-4, 0):
                got, want = mine[f"{name}.{i}"], golden[f"{prompt}.{name}"]
                self.assertEqual(got[:2], want[:2])
                for a, b in zip(floats(got), floats(want)):
                    self.assertLessEqual(abs(a - b), absolute + relative * abs(b), name)

    def check_routing(self, mine, golden, i, domain):
        """The golden files list a token's experts by falling weight: they are compared as sets with their weights."""
        _, shape, _ = golden[f"{domain}.router_indices"]
        self.assertEqual(mine[f"expert_idx.{i}"][1], shape)
        self.assertEqual(mine[f"expert_weight.{i}"][1], shape)
        k = shape[-1]
        columns = [ints(mine[f"expert_idx.{i}"]), floats(mine[f"expert_weight.{i}"]),
                   ints(golden[f"{domain}.router_indices"]), floats(golden[f"{domain}.router_weights"])]
        for t in range(0, len(columns[0]), k):
            idx, weight, golden_idx, golden_weight = (c[t:t + k] for c in columns)
            weight_of = dict(zip(golden_idx, golden_weight))
            self.assertEqual(sorted(idx), sorted(golden_idx), f"{domain}, selection {t // k}")
            for e, w in zip(idx, weight):
                self.assertAlmostEqual(w, weight_of[e], delta=GOLDEN_TOLERANCE)

    def test_beyond_the_original_context(self):
        """1600 tokens, where YaRN's original length is 1024: the same bits for ranks, chunks, threads and company."""
        windows = heldout("docs")
        long = [0] + [token for window in windows for token in window[1:]][:1599]
        ids = self.write_ids("long.json", long)
        scores = []
        for flags, how in ([], {}), (["--prefill-chunk", "64"], {"ranks": 3}), (["--prefill-chunk", "0"], MPI_2):
            out = self.path("scores.json")
            self.succeed("eval", "--model", MODEL, "--compute", "f32", "--ids", ids, "--json", out, *flags, **how)
            with open(out) as f:
                scores.append(json.load(f)["prompts"])
        self.assertEqual(scores[0][0]["tokens"], 1599)
        self.assertEqual(scores[1:], scores[:1] * 2)
        with_others = self.write_ids("more.json", windows[5][:100], long, windows[6][:33])
        self.succeed("eval", "--model", MODEL, "--compute", "f32", "--ids", with_others, "--json", out, ranks=2)
        with open(out) as f:
            self.assertEqual(json.load(f)["prompts"][1], scores[0][0])

    def test_a_prompt_of_one_token_has_nothing_to_predict(self):
        done = self.succeed("eval", "--model", MODEL, "--ids", self.write_ids("one.json", [5], [5, 9]), "--json", self.path("one"))
        self.assertRegex(done.text(), r"\n0 +0 +- +-\n1 +1 +[\d.]+ +[\d.]+\n")
        with open(self.path("one")) as f:
            self.assertIsNone(json.load(f)["prompts"][0]["perplexity"])

    def test_logits_beyond_the_original_context(self):
        ids = self.write_ids("long.json", [0] + [token for window in heldout("docs") for token in window[1:]][:1199])
        alone = self.evaluate(ids)
        self.assertEqual(self.evaluate(ids, "--prefill-chunk", "100", ranks=3), alone)

    def test_perplexity_of_the_model_card(self):
        with open(os.path.join(DATA, "results.json")) as f:
            card = json.load(f)["fp8"]["bible"]
        ids, out = os.path.join(DATA, "heldout_bible.json"), self.path("scores.json")
        done = self.succeed("eval", "--model", MODEL, "--compute", "f32", "--ids", ids, "--json", out, ranks=2)
        with open(out) as f:
            total = json.load(f)["total"]
        print(f"bible: perplexity {total['perplexity']:.4f}, by the card {card['ppl']}", flush=True)
        self.assertEqual(total["tokens"], card["tokens"])
        self.assertLess(abs(total["perplexity"] / card["ppl"] - 1), PERPLEXITY_TOLERANCE)
        self.assertAlmostEqual(total["perplexity"], math.exp(total["nll"] / total["tokens"]))
        shown = done.text().splitlines()[-1].split()
        self.assertEqual(shown[:2], ["total", str(card["tokens"])])
        self.assertAlmostEqual(float(shown[3]), total["perplexity"], places=4)

    def test_comparison_with_experts_as_they_are_stored(self):
        ids, out = self.write_ids("ids.json", *(window[:200] for window in heldout("docs")[:4])), self.path("scores.json")
        results = {}
        for dtype in "stored", "bf16", "fp8", "int8", "int4", "int2":
            # --compare-to with another folder: a copy of the same model.
            other = MODEL if dtype == "stored" else "unquantised"
            done = self.succeed("eval", "--model", MODEL, "--ids", ids, "--expert-dtype", dtype, "--compare-to", other,
                                "--json", out, ranks=1 if dtype == "stored" else 3)
            with open(out) as f:
                results[dtype] = json.load(f)
            other = results[dtype]["compared_to"]
            self.assertRegex(done.text(), r"\nother +796 ")
            share = sum(other["flips_by_layer"]) / sum(other["choices_by_layer"])
            print(f"{dtype}: perplexity {results[dtype]['total']['perplexity']:.4f}, KL {other['kl_per_token']:.6f}, "
                  f"{100 * share:.2f} % of the choices changed", flush=True)
            self.assertEqual(set(other["choices_by_layer"]), {800 * 4})
            self.assertAlmostEqual(other["perplexity"], results["stored"]["total"]["perplexity"], places=9)
        stored = results["stored"]
        self.assertEqual((stored["compared_to"]["kl_most"], set(stored["compared_to"]["flips_by_layer"])), (0, {0}))
        perplexity = {dtype: r["total"]["perplexity"] for dtype, r in results.items()}
        self.assertLess(abs(perplexity["int8"] / perplexity["bf16"] - 1), 0.01)
        kl = {dtype: r["compared_to"]["kl_per_token"] for dtype, r in results.items()}
        self.assertLess(kl["int8"], kl["int4"])
        self.assertLess(kl["int4"], kl["int2"])
        refused = run("eval", "--model", MODEL, "--ids", ids, "--compare-to", "unquantised")
        self.assertEqual(refused.status, 2)
        self.assertIn("give --expert-dtype too", refused.err)

    def test_comparison_of_dropped_choices(self):
        """A dropped choice is neither a flip nor a match, and is not counted."""
        ids, out = self.write_ids("ids.json", heldout("docs")[0][:200]), self.path("scores.json")
        self.succeed("eval", "--model", MODEL, "--ids", ids, "--compare-to", MODEL, "--overflow", "capacity",
                     "--capacity-factor", "0.5", "--json", out)
        with open(out) as f:
            other = json.load(f)["compared_to"]
        self.assertEqual(set(other["flips_by_layer"]), {0})
        for choices in other["choices_by_layer"]:
            self.assertGreater(choices, 0)
            self.assertLess(choices, 200 * 4)

    def test_text(self):
        """--text is what --ids is with the ids of the text, in windows of the model's context."""
        with open(os.path.join(DATA, "greedy.json")) as f:
            prompt = json.load(f)["bible"]
        scores = []
        bos = "<｜begin▁of▁sentence｜>"
        self.assertTrue(prompt["prompt"].startswith(bos))
        for flag, file in [("--ids", self.write_ids("ids.json", prompt["prompt_ids"])),
                           ("--text", self.write("with_bos.txt", prompt["prompt"])),
                           ("--text", self.write("without.txt", prompt["prompt"][len(bos):]))]:
            out = self.path("scores.json")
            self.succeed("eval", "--model", MODEL, flag, file, "--json", out)
            with open(out) as f:
                scores.append(json.load(f)["prompts"])
        self.assertEqual(scores[0][0]["tokens"], len(prompt["prompt_ids"]) - 1)
        self.assertEqual(scores[1:], scores[:1] * 2)

    def test_text_from_stdin(self):
        file = self.write("text.txt", "And it came to pass in those days.")
        from_file = self.succeed("eval", "--model", MODEL, "--text", file)
        with open(file) as stdin:
            self.assertEqual(self.succeed("eval", "--model", MODEL, "--text", "-", stdin=stdin).out, from_file.out)
        ids = self.write_ids("ids.json", [0, 5, 6, 7, 8])
        with open(ids) as stdin:
            self.assertEqual(self.succeed("eval", "--model", MODEL, "--ids", "-", stdin=stdin).out,
                             self.succeed("eval", "--model", MODEL, "--ids", ids).out)

    def test_text_longer_than_the_context(self):
        text = self.write("long.txt", "\n".join(f"{i} And it came to pass." for i in range(600)))
        out = self.path("scores.json")
        self.succeed("eval", "--model", MODEL, "--text", text, "--json", out, ranks=2)
        with open(out) as f:
            windows = json.load(f)["prompts"]
        self.assertGreater(len(windows), 1)
        self.assertEqual([w["tokens"] for w in windows[:-1]], [4095] * (len(windows) - 1))


if __name__ == "__main__":
    main()
