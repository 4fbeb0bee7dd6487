#!/usr/bin/env python3
"""generate_test.py PROGRAM: text from prompts, as a user asks for it."""

import json
import os
import random
import re
import subprocess
import unittest

from program import DATA, LAUNCH, MODEL, PROGRAM, Job, ProgramTest, main, slack

BOS = "<｜begin▁of▁sentence｜>"


def greedy():
    with open(os.path.join(DATA, "greedy.json")) as f:
        return json.load(f)


class Generate(ProgramTest):
    def generate(self, *flags, **how):
        return self.succeed("generate", "--model", MODEL, *flags, **how)

    def outputs(self, *flags, **how):
        return self.generate("--json", *flags, **how).json()["outputs"]

    def test_golden_texts(self):
        """All golden prompts in one batch; they begin with the text of the begin-of-sentence token, which is not added
        a second time."""
        golden = greedy()
        flags = [word for case in golden.values() for word in ("--prompt", case["prompt"])]
        for how in {}, {"ranks": 3, "via": "mpi"}:
            got = self.outputs(*flags, "--compute", "f32", "--max-tokens", "64", **how)
            self.assertEqual(len(got), len(golden))
            for (name, case), output in zip(golden.items(), got):
                self.assertEqual(output["prompt"], case["prompt"], name)
                self.assertEqual(output["prompt_ids"], case["prompt_ids"], name)
                eos = output["finish_reason"] == "stop"
                self.assertEqual(output["ids"], case["ids"], name)
                self.assertEqual(output["text"], case["text"], name)
                self.assertEqual(eos, output["ids"][-1] == 1, name)
                self.assertEqual(len(output["logprobs"]), len(output["ids"]))
                self.assertTrue(all(p <= 0 for p in output["logprobs"]), name)

    def test_begin_of_sentence_stands_once(self):
        with_it, without = self.outputs("--prompt", BOS + "In the", "--prompt", "In the", "--max-tokens", "4")
        self.assertEqual(with_it["prompt_ids"], without["prompt_ids"])
        self.assertEqual((without["prompt_ids"][0], without["prompt_ids"].count(0)), (0, 1))
        self.assertEqual(with_it["ids"], without["ids"])
        twice = self.outputs("--prompt", BOS + BOS + "In the", "--max-tokens", "1")[0]
        self.assertEqual(twice["prompt_ids"].count(0), 2)  # what the user writes stays

    def test_prompt_file_and_stream(self):
        """Streamed, and from a file: the prompt, then the text, then the end of a line."""
        case = greedy()["bible"]
        file = self.write("prompt.txt", case["prompt"])
        done = self.generate("--prompt-file", file, "--compute", "f32", "--max-tokens", "64", ranks=2)
        self.assertEqual(done.text(), case["prompt"] + case["text"] + "\n")
        two = self.generate("--prompt", "In the", "--prompt-file", file, "--compute", "f32", "--max-tokens", "64", ranks=2)
        first, second = two.text().split("\n[1] ", 1)
        self.assertTrue(first.startswith("[0] In the"))
        self.assertEqual(second, case["prompt"] + case["text"] + "\n")

    def test_stop(self):
        plain = self.outputs("--prompt", "And God said", "--max-tokens", "24")[0]
        self.assertEqual((plain["finish_reason"], len(plain["ids"])), ("length", 24))
        stop = plain["text"][10:14]  # wherever its tokens begin
        at = plain["text"].index(stop)
        stopped = self.outputs("--prompt", "And God said", "--max-tokens", "24", "--stop", "no such text", "--stop", stop)[0]
        self.assertEqual((stopped["finish_reason"], stopped["text"]), ("stop", plain["text"][:at]))
        self.assertEqual(stopped["ids"], plain["ids"][:len(stopped["ids"])])
        self.assertLess(len(stopped["ids"]), 24)
        streamed = self.generate("--prompt", "And God said", "--max-tokens", "24", "--stop", stop, ranks=2)
        self.assertEqual(streamed.text(), "And God said" + plain["text"][:at] + "\n")

    def test_stop_at_special_tokens(self):
        """A stop text that is a special token, or has one in it, stops there, though special tokens are not shown."""
        end = "<｜end▁of▁sentence｜>"
        flags = ["--prompt", "<｜User｜>Who?<｜Assistant｜>", "--compute", "f32", "--max-tokens", "200", "--ignore-eos"]
        ended = self.outputs(*flags[:-1])[0]
        self.assertEqual(ended["ids"][-1], 1)
        for stop in end, ended["text"][-3:] + end:
            stopped = self.outputs(*flags, "--stop", stop)[0]
            shown = ended["text"] if stop == end else ended["text"][:-3]
            self.assertEqual((stopped["finish_reason"], stopped["text"], stopped["ids"]), ("stop", shown, ended["ids"]), stop)

    def test_json_is_read_by_people_too(self):
        """One token on four ranks: a few lines per rank, lists of numbers on one, and no pages of zeros."""
        text = self.generate("--prompt", "Once", "--max-tokens", "1", "--json", ranks=4).text()
        self.assertLess(text.count("\n"), 200)
        self.assertNotIn("dropped_per_expert", text)
        self.assertIn('"expert_rows_per_layer": [', text)

    def test_says_which_flags_do_nothing(self):
        done = self.generate("--prompt", "Once", "--max-tokens", "2", "--top-p", "0.5", "--seed", "3", ranks=2)
        self.assertIn("--top-p, --seed do nothing at temperature 0", done.err)
        self.assertEqual(done.err.count("at temperature 0"), 1)
        done = self.generate("--prompt", "Once", "--max-tokens", "2", "--top-p", "0.5", "--seed", "3", "--temperature", "1")
        self.assertNotIn("at temperature 0", done.err)
        # What is given counts, also where it is the default. The model samples conversations, never plain prompts.
        done = self.generate("--prompt", "Once", "--max-tokens", "1", "--top-p", "1", "--top-k", "0", "--seed", "0")
        self.assertIn("--top-k, --top-p, --seed do nothing at temperature 0", done.err)
        chat = ["--chat", self.write("chat.json", '[{"role": "user", "content": "Who?"}]'), "--max-tokens", "1", "--seed", "0"]
        self.assertNotIn("at temperature 0", self.generate(*chat).err)
        both = self.generate(*chat, "--prompt", "Once").err
        self.assertIn("--seed does nothing for plain prompts at temperature 0", both)

    def test_binding_to_a_core_is_told(self):
        """As mpirun binds one or two ranks unless it is told otherwise."""
        num_cpus = len(os.sched_getaffinity(0))
        if num_cpus < 2:
            self.skipTest("one CPU is all there is")
        start = 'unset OMPI_MCA_hwloc_base_binding_policy; exec mpirun -n 1 --bind-to core "$@"'
        bound = subprocess.run([*LAUNCH, "sh", "-c", start, "sh", PROGRAM, "inspect", "--model", MODEL], capture_output=True,
                               text=True, timeout=slack(100))
        self.assertEqual(bound.returncode, 0, bound.stderr)
        allowed = re.search(r"1 rank on 1 host.* (\d+) CPUs? allowed", bound.stderr)
        self.assertTrue(allowed, bound.stderr)
        if 2 * int(allowed[1]) > num_cpus:
            self.skipTest("a core is most of what there is")
        self.assertRegex(bound.stderr, rf"{num_cpus - int(allowed[1])} of this host's {num_cpus} CPUs are idle: Open MPI's mpirun .*--bind-to none")

    def test_end_of_sentence(self):
        """Some dialogues end by themselves, unless that is ignored. The end is not shown."""
        for question in "Who?", "What is a list?", "Who is he?", "What does Genesis 1:3 say?", "Why?":
            flags = ["--prompt", f"<｜User｜>{question}<｜Assistant｜>", "--compute", "f32", "--max-tokens", "200"]
            ended = self.outputs(*flags)[0]
            if ended["finish_reason"] == "stop":
                break
        self.assertEqual((ended["finish_reason"], ended["ids"][-1]), ("stop", 1), "no dialogue ends by itself")
        self.assertNotIn("end▁of▁sentence", ended["text"])
        on = self.outputs(*flags, "--ignore-eos", ranks=2)[0]
        self.assertEqual((on["finish_reason"], len(on["ids"])), ("length", 200))
        self.assertEqual(on["ids"][:len(ended["ids"])], ended["ids"])
        self.assertTrue(on["text"].startswith(ended["text"]))

    def test_seed(self):
        flags = ["--prompt", "It came to pass", "--prompt", "import os", "--max-tokens", "12", "--temperature", "1",
                 "--top-k", "50", "--top-p", "0.95"]
        first = self.outputs(*flags, "--seed", "7")
        for how in {"ranks": 3}, {"ranks": 2, "via": "mpi"}, {"ranks": 40}:
            self.assertEqual(self.outputs(*flags, "--seed", "7", **how), first, how)
        other = self.outputs(*flags, "--seed", str(2**64 - 1))
        self.assertNotEqual([o["ids"] for o in other], [o["ids"] for o in first])

    def test_more_ranks_than_experts(self):
        flags = ["--prompt", "In the beginning", "--max-tokens", "6", "--json"]
        alone = self.generate(*flags).json()
        for how in {"ranks": 40}, {"ranks": 40, "via": "mpi"}:
            many = self.generate(*flags, **how).json()
            self.assertEqual(many["outputs"], alone["outputs"])
            ranks = many["report"]["ranks"]
            self.assertEqual([r["experts_per_layer"] for r in ranks], [1] * 32 + [0] * 8)
            self.assertEqual(sum(r["expert_rows"] for r in ranks), alone["report"]["ranks"][0]["expert_rows"])
            self.assertEqual(sum(r["expert_rows"] for r in ranks[32:]), 0)

    def test_placement_and_threads(self):
        flags = ["--prompt", "In the beginning", "--max-tokens", "8"]
        alone = self.outputs(*flags)
        seed = random.randrange(2**32)
        shuffled = list(range(32))
        random.Random(seed).shuffle(shuffled)
        table = [shuffled[:3], shuffled[3:], [], shuffled[:5]]  # uneven, an idle rank, replicas
        file = self.write("placement.json", json.dumps({"experts_per_rank": table}))
        self.assertEqual(self.outputs(*flags, "--placement", file, ranks=4), alone, f"seed {seed}")
        self.assertEqual(self.outputs(*flags, "--placement", file, ranks=4, via="mpi"), alone, f"seed {seed}")
        self.assertEqual(self.outputs(*flags, "--threads", "2"), alone)
        self.assertEqual(self.outputs(*flags, "--threads", "2", "--prefill-chunk", "1", ranks=3), alone)

    def test_capacity(self):
        """The same drops for any number of ranks, counted and shown."""
        flags = ["--prompt", "In the beginning God created the heaven and the earth.", "--max-tokens", "4",
                 "--overflow", "capacity", "--capacity-factor", "0.5"]
        alone = self.generate(*flags, "--json").json()
        ranks = self.generate(*flags, "--json", ranks=3).json()
        self.assertEqual(ranks["outputs"], alone["outputs"])
        def totals(report, key):
            layers = [r["overflow_per_layer"] for r in report["report"]["ranks"]]
            return [sum(sum(rank[l].get(key, [])) for rank in layers) for l in range(len(layers[0]))]
        dropped = totals(alone, "dropped_per_expert")
        self.assertGreater(sum(dropped), 0)
        self.assertEqual(dropped, totals(ranks, "dropped_per_expert"))
        for a, b in zip(totals(alone, "lost_weight_per_expert"), totals(ranks, "lost_weight_per_expert")):
            self.assertAlmostEqual(a, b, places=9)
        table = self.generate(*flags, "--stats", ranks=3).text()
        self.assertIn(f"{sum(dropped)} selections dropped", table)

    def test_stats(self):
        text = self.generate("--prompt", "In the", "--max-tokens", "4", "--stats", ranks=3, via="mpi").text()
        words, table = text.split("\n\n", 1)
        self.assertTrue(words.startswith("In the"))
        self.assertRegex(table, r"(?m)^prefill +\d+ tokens +\d+\.\d tokens/s$")
        self.assertRegex(table, r"(?m)^decode +3 tokens +\d+\.\d tokens/s$")
        self.assertRegex(table, r"(?m)^ranks 3 on \S+, balancedness [01]\.\d+$")
        self.assertRegex(table, r"(?m)^ +\(MiB\) +\(MiB\) +\(s\) +\(MiB\) +\(MiB\)$")
        rows = re.findall(r"(?m)^(\d) +(\d+) +(\d+) +[\d.]+ +[\d.]+ +[\d.]+ +([\d.]+) +[\d.]+$", table)
        self.assertEqual([row[:2] for row in rows], [("0", "11"), ("1", "11"), ("2", "10")], table)
        self.assertRegex(table, r"(?m)^exchange: path peer, (\d+) exchanges in \1 layer calls; ")
        for phase in ("dispatch", "combine"):
            sent = re.findall(rf"(?m)^{phase} +([\d.]+) +([\d.]+) +0.00 +([\d.]+) +([\d.]+) +([\d.]+) +0.00$", table)
            self.assertEqual(len(sent), 1, table)
            own, host, selection, rank, node = map(float, sent[0])
            self.assertGreaterEqual(selection, rank)
            self.assertGreaterEqual(rank, node)
            self.assertAlmostEqual(own + host, rank if phase == "dispatch" else selection, delta=0.02)
        matrix = re.findall(r"(?m)^([012])((?: +\d+\.\d{3}){3})$", table.split("seconds waited in exchanges")[1])
        self.assertEqual([rank for rank, _ in matrix], ["0", "1", "2"], table)
        self.assertTrue(all(float(line.split()[int(rank)]) == 0 for rank, line in matrix), "nobody waits for itself")

    def test_exchange_budget_takes_several_exchanges_a_call(self):
        prompt = ["--prompt", "In the beginning of the day they went down to the river and saw", "--max-tokens", "3"]
        plain = self.generate(*prompt, "--json", ranks=3).json()
        tight = self.generate(*prompt, "--json", "--exchange-budget", "300000", ranks=3).json()
        self.assertEqual(plain["outputs"], tight["outputs"])
        for report, least in ((plain["report"], 1.0), (tight["report"], 1.5)):
            exchange = report["ranks"][0]["exchange"]
            self.assertGreaterEqual(exchange["exchanges"], least * exchange["layer_calls"])
        exchange = plain["report"]["ranks"][0]["exchange"]
        self.assertEqual(exchange["exchanges"], exchange["layer_calls"])

    def test_stats_as_json(self):
        report = self.generate("--prompt", "In the", "--max-tokens", "4", "--json", ranks=3, via="mpi").json()["report"]
        exchanges = [rank["exchange"] for rank in report["ranks"]]
        self.assertEqual(len({(e["path"], e["exchanges"], e["layer_calls"]) for e in exchanges}), 1)
        for own, e in enumerate(exchanges):
            self.assertEqual(sum(e["dispatch_bytes_per_link"].values()), e["rows_per_basis"]["rank"] * e["row_bytes"])
            self.assertEqual(e["dispatch_bytes_per_link"]["network"], 0)
            self.assertEqual((len(e["wait_seconds_per_rank"]), e["wait_seconds_per_rank"][own]), (3, 0))
        self.assertEqual(sum(sum(e["combine_bytes_per_link"].values()) for e in exchanges),
                         sum(e["rows_per_basis"]["selection"] * e["output_bytes"] for e in exchanges))

    def test_explain(self):
        flags = ["--prompt", "In the beginning", "--max-tokens", "2", "--json"]
        plain = self.generate(*flags, ranks=2)
        told = self.generate(*flags, "--explain", ranks=2)
        self.assertEqual(told.json()["outputs"], plain.json()["outputs"])
        self.assertIn("placement of 32 experts", told.err)
        self.assertIn("  rank 1: 16 experts: 16 17 18", told.err)
        plans = re.findall(r"layer 1, plan, step 0: exchange plan of rank 0 of 2: (\d+) tokens, sends (\d+) rows", told.err)
        self.assertEqual(len(plans), 1, told.err)
        self.assertEqual(plans[0][0], str(len(plain.json()["outputs"][0]["prompt_ids"])))
        sent = re.findall(r"(?m)^  rank \d: to (\d+) rows, (\d+) selections; from", told.err)
        self.assertEqual(sum(int(rows) for rows, _ in sent), int(plans[0][1]))
        self.assertEqual(sum(int(n) for _, n in sent), 4 * int(plans[0][0]))
        self.assertNotIn("plan", plain.err)

    def test_min_p_of_one_leaves_the_likeliest(self):
        greedy_ids = self.outputs("--prompt", "In the", "--max-tokens", "4")[0]["ids"]
        flags = ["--prompt", "In the", "--max-tokens", "4", "--temperature", "1", "--min-p", "1", "--seed", "7"]
        self.assertEqual(self.outputs(*flags)[0]["ids"], greedy_ids)

    def test_every_prompt_file_counts(self):
        files = [flag for i, text in enumerate(["In the", "1 And it", "The end"])
                 for flag in ("--prompt-file", self.write(f"{i}.txt", text))]
        outputs = self.outputs("--prompt", "First", *files, "--max-tokens", "1")
        self.assertEqual([o["prompt"] for o in outputs], ["First", "In the", "1 And it", "The end"])

    def test_prompt_from_stdin(self):
        for how in {}, {"ranks": 3}, {"ranks": 2, "via": "mpi"}:
            with open(self.write("prompt.txt", "In the beginning")) as stdin:
                outputs = self.outputs("--prompt-file", "-", "--max-tokens", "3", stdin=stdin, **how)
            self.assertEqual([o["prompt"] for o in outputs], ["In the beginning"])
        self.assertEqual(outputs[0]["ids"], self.outputs("--prompt", "In the beginning", "--max-tokens", "3")[0]["ids"])

    def test_nul_in_a_prompt(self):
        """A NUL is a byte like others: what stands behind it is neither lost nor unseen."""
        file = self.write("nul.txt", b"before\0after")
        output = self.outputs("--prompt-file", file, "--max-tokens", "2")[0]
        self.assertEqual(output["prompt"], "before\0after")
        self.assertGreater(len(output["prompt_ids"]), len(self.outputs("--prompt", "before", "--max-tokens", "1")[0]["prompt_ids"]))
        streamed = self.generate("--prompt-file", file, "--max-tokens", "2")
        self.assertEqual(streamed.text(), "before\0after" + output["text"] + "\n")

    def test_invalid_utf8_prompt(self):
        """Bytes that are no text become U+FFFD; the JSON stays JSON."""
        file = self.write("latin1.txt", b"caf\xe9 and na\xefve")
        output = self.outputs("--prompt-file", file, "--max-tokens", "2")[0]
        self.assertEqual(output["prompt"], "caf\ufffd and na\ufffdve")

    def test_every_flush_is_text(self):
        """Sampling at a high temperature yields many halves of characters: none is ever shown."""
        job = StreamJob(["generate", "--model", MODEL, "--prompt", "Ö ä", "--max-tokens", "200", "--temperature", "4",
                         "--seed", "3", "--ignore-eos"])
        job.wait()
        self.assertEqual(job.status, 0, job.err)
        self.assertGreater(len(job.pieces), 20)
        for piece in job.pieces:
            piece.decode()  # raises when it begins or ends within a character
        self.assertTrue(job.out.decode().startswith("Ö ä"))
        self.assertGreater(sum(byte > 127 for byte in job.out), 10)


class StreamJob(Job):
    """Keeps what every read of the program's output brought. Its writes are far apart, each after a step of the model,
    and smaller than a pipe's, so that a read brings whole writes."""

    def _read_out(self):
        self.pieces = []
        while piece := os.read(self.process.stdout.fileno(), 65536):
            self.pieces.append(piece)
            self.out += piece


if __name__ == "__main__":
    main()
