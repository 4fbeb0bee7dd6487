#!/usr/bin/env python3
"""bad_input_test.py PROGRAM: whatever is wrong with a checkpoint, a file or a flag is one line that says what and where,
ends all ranks, and leaves nothing half-written."""

import json
import os
import resource
import struct
import subprocess
import unittest

from program import MODEL, PROGRAM, ModelCopy, ProgramTest, main, run, slack

SECONDS_TO_END = 2.0  # from the error to the end of the last rank
# How the job is started: ranks, and by what.
ALONE, THREADS, PROCESSES = (1, "local"), (3, "local"), (3, "mpi")

NORM = "model.layers.2.input_layernorm.weight"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
LAST_EXPERT = "model.layers.3.mlp.experts.30.down_proj.weight"  # of three ranks, the last one's
SCALES = EXPERT + "_scale_inv"
INDEX = "model.safetensors.index.json"


class BadInput(ProgramTest):
    def refused(self, args, words, how, status=1):
        """Runs it and checks everything that holds for every error. Returns the error's line."""
        before = sorted(os.listdir(self.dir))
        done = run(*args, ranks=how[0], via=how[1])
        context = f"{str(args)[:400]} {how}\n{done.err}"
        self.assertEqual(done.status, status, context)
        self.assertEqual(len(done.errors), 1, context)
        self.assertEqual(done.out, b"", context)
        self.assertLess(done.seconds_to_end, slack(SECONDS_TO_END), context)
        self.assertEqual(sorted(os.listdir(self.dir)), before, context)
        for word in words:
            self.assertIn(word, done.errors[0], context)
        return done.errors[0]


class BadCheckpoint(BadInput):
    """Each refuses an eval that would write two files, in the three ways to run."""

    def check(self, change, words, ways=(ALONE, THREADS, PROCESSES), rank=0):
        model = ModelCopy(self.path("model"))
        change(model)
        ids = self.write_ids("ids.json", [0, 5, 6, 7])
        args = ["eval", "--model", model.path, "--ids", ids, "--out", self.path("out.safetensors"),
                "--json", self.path("out.json")]
        for how in ways:
            on = f"rank {rank if how[0] > 1 else 0}: "
            error = self.refused(args, words, how)
            self.assertEqual((error.count(on), error.count("rank ")), (1, 1), error)

    def test_truncated_shard(self):
        name = "model-00002-of-00004.safetensors"
        self.check(lambda m: m.write(name, m.read(name)[:-1000]), [name, "reach beyond", "q_b_proj", "complete?"])

    def test_truncated_within_the_header(self):
        name = "model-00003-of-00004.safetensors"
        self.check(lambda m: m.write(name, m.read(name)[:100]), [name, "100"])
        os.rename(self.path("model"), self.path("other"))
        self.check(lambda m: m.write(name, b""), [name, "0 bytes"], [ALONE])

    def test_index_names_a_missing_file(self):
        def change(m):
            m.change_json(INDEX, lambda index: index["weight_map"].update({NORM: "model-00009-of-00004.safetensors"}))
        self.check(change, [INDEX, "model-00009-of-00004.safetensors", NORM])

    def test_index_puts_a_tensor_where_it_is_not(self):
        def change(m):
            shards = json.loads(m.read(INDEX))["weight_map"]
            other = next(s for s in sorted(set(shards.values())) if s != shards[EXPERT])
            m.change_json(INDEX, lambda index: index["weight_map"].update({EXPERT: other}))
        self.check(change, [INDEX, EXPERT, "is needed"])

    def test_tensor_is_nowhere(self):
        def change(m):
            shard = m.shard_of(NORM)
            m.change_header(shard, lambda header: header.update({"spare": header.pop(NORM)}))
            m.change_json(INDEX, lambda index: index["weight_map"].update({"spare": index["weight_map"].pop(NORM)}))
        self.check(change, [NORM, "[256]", "missing"])

    def test_overlapping_offsets(self):
        def change(m):
            def overlap(header):
                begin, end = header[EXPERT]["data_offsets"]
                header[EXPERT]["data_offsets"] = [begin - 16, end - 16]
            m.change_header(m.shard_of(EXPERT), overlap)
        self.check(change, ["model-0000", "overlap"])

    def test_offsets_beyond_the_file(self):
        def change(m):
            def move(header):
                begin, end = header[EXPERT]["data_offsets"]
                header[EXPERT]["data_offsets"] = [begin + 10**9, end + 10**9]
            m.change_header(m.shard_of(EXPERT), move)
        self.check(change, ["model-0000", EXPERT])

    def test_enormous_header(self):
        name = "model-00001-of-00004.safetensors"
        self.check(lambda m: m.write(name, struct.pack("<Q", 1 << 60) + m.read(name)[8:]), [name, str(1 << 60)])

    def test_wrong_shape(self):
        def change(m):
            m.change_header(m.shard_of(EXPERT), lambda header: header[EXPERT].update(shape=[256, 128]))
        self.check(change, ["model-0000", EXPERT, "[256, 128]", "[128, 256]"])

    def test_wrong_dtype(self):
        def change(m):
            m.change_header(m.shard_of(NORM), lambda header: header[NORM].update(dtype="I16"))
        self.check(change, ["model-0000", NORM, "I16", "BF16"])

    def test_nan_scale(self):
        self.check(lambda m: m.poke(SCALES, 4, struct.pack("<f", float("nan"))),
                   ["model-0000", SCALES, "element 1 ", "NaN"])

    def test_infinite_norm(self):
        self.check(lambda m: m.poke(NORM, 2 * 17, b"\x80\x7f"), ["model-0000", NORM, "element 17", "inf"])

    def test_nan_weight_that_one_rank_alone_reads(self):
        self.check(lambda m: m.poke(LAST_EXPERT, 1000, b"\x7f"), ["model-0000", LAST_EXPERT, "element 1000 ", "NaN"],
                   rank=2)

    def test_weights_that_make_infinite_logits(self):
        """Found on one rank while all work, and told once. Of two rows of the largest numbers, one the other's negative,
        one gives +inf or NaN."""
        def change(m):
            for row, number in (3, b"\x7f\x7f"), (4, b"\x7f\xff"):
                m.poke("lm_head.weight", 2 * 256 * row, 256 * number)
        self.check(change, ["logit of token ", " at position 1 is "])

    def test_unknown_architecture(self):
        def change(m):
            m.change_json("config.json", lambda c: c.update(architectures=["LlamaForCausalLM"], model_type="llama"))
        self.check(change, ["config.json", "llama"])

    def test_config_that_is_no_config(self):
        self.check(lambda m: m.write("config.json", b'{"hidden_size": 256,'), ["config.json"])
        os.rename(self.path("model"), self.path("other"))
        self.check(lambda m: os.unlink(m.file("config.json")), ["config.json"], [ALONE])
        os.rename(self.path("model"), self.path("third"))
        self.check(lambda m: m.change_json("config.json", lambda c: c.update(kv_lora_rank=-128)),
                   ["config.json", "kv_lora_rank", "-128"], [ALONE])

    def test_no_model(self):
        for how in ALONE, THREADS:
            self.refused(["inspect", "--model", self.path("nowhere")], [self.path("nowhere")], how)

    def test_tokenizer_of_another_model(self):
        model = ModelCopy(self.path("model"))
        model.change_json("tokenizer.json", lambda t: t["added_tokens"].append(
            {"id": 2304, "content": "<extra>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}))
        for how in ALONE, THREADS, PROCESSES:
            self.refused(["generate", "--model", model.path, "--prompt", "In the beginning"],
                         ["token of its tokenizer is 2304", "vocab_size is 2304", "rank 0: "], how)

    def test_broken_tokenizer(self):
        model = ModelCopy(self.path("model"))
        model.write("tokenizer.json", b"{}")
        self.refused(["generate", "--model", model.path, "--prompt", "a"], ["tokenizer.json", "rank 0: "], THREADS)
        os.unlink(model.file("tokenizer.json"))
        self.refused(["generate", "--model", model.path, "--prompt", "a"], ["tokenizer.json", "rank 0: "], ALONE)


class BadRequest(BadInput):
    """What the files and texts of the request have wrong; found before a weight is read."""

    def check(self, args, words, ways=(ALONE, THREADS)):
        for how in ways:
            self.refused([args[0], "--model", MODEL, *args[1:]], words, how)

    def test_prompts(self):
        empty, missing = self.write("empty.txt", ""), self.path("missing.txt")
        long = self.write("long.txt", "In the beginning God created the heaven and the earth. " * 400)
        self.check(["generate", "--prompt-file", empty], ["empty.txt", "empty"], [ALONE, THREADS, PROCESSES])
        self.check(["generate", "--prompt-file", missing], ["missing.txt", "No such file"])
        self.check(["generate", "--prompt-file", self.dir], [self.dir, "directory"], [ALONE])
        self.check(["generate", "--prompt-file", long, "--max-tokens", "1"], ["long.txt", "4096"],
                   [ALONE, THREADS, PROCESSES])
        self.check(["generate", "--prompt", "short", "--max-tokens", "4096"], ["prompt 0", "4096"], [THREADS])
        self.check(["generate", "--prompt", "one", "--prompt", "two " * 20000], ["prompt 1", "4096"], [ALONE])
        self.check(["generate", "--prompt", "one two three four five", "--max-tokens", "64", "--kv-cache-tokens", "16"],
                   ["prompt 0", "--kv-cache-tokens", "16"], [THREADS])

    def test_prompt_that_is_empty_on_the_command_line(self):
        for how in ALONE, THREADS, PROCESSES:
            self.refused(["generate", "--model", MODEL, "--prompt", ""], ["--prompt", "empty"], how, status=2)

    def test_texts_in_wide_encodings(self):
        text = "And it came to pass in those days.\n"
        for name, content, encoding in [("mark.txt", text.encode("utf-16"), "UTF-16"),
                                        ("plain.txt", text.encode("utf-16-le"), "UTF-16LE"),
                                        ("big.txt", text.encode("utf-16-be"), "UTF-16BE")]:
            file = self.write(name, content)
            self.check(["generate", "--prompt-file", file], ["--prompt-file", name, encoding, "UTF-8"], [ALONE, THREADS])
            self.check(["eval", "--text", file], ["--text", name, encoding], [ALONE])
            self.check(["eval", "--ids", file], ["--ids", name, encoding], [ALONE])

    def test_ids(self):
        def bad(text, *words):
            self.check(["eval", "--ids", self.write("ids.json", text)], ["ids.json", *words], [ALONE])
        bad('{"prompts": [{"input_ids": [0, 1, 2304]}]}', "ids.json:1:35: prompts[0].input_ids[2]: ", "2304", "[0, 2303]")
        bad('{"prompts": [{"input_ids": [1]},\n{"input_ids": [-1]}]}', "ids.json:2:16: prompts[1].input_ids[0]: ", "-1")
        bad('{"prompts": [{"input_ids": [18446744073709551615]}]}', "prompts[0]", "18446744073709551615")
        bad('{"prompts": [{"input_ids": [1.5]}]}', "prompts[0]", "1.5")
        bad('{"prompts": [{"input_ids": ["a"]}]}', "prompts[0]", '"a"')
        bad('{"prompts": [{"input_ids": []}]}', "prompts[0].input_ids: ", "empty")
        bad('{"prompts": [{"ids": [1]}]}', "prompts[0]: lacks", "input_ids")
        bad('{"prompts": []}', "prompts: is empty")
        bad('{"prompt": [{"input_ids": [1]}]}', "prompts")
        bad('{"prompts": [{"input_ids": [1]}], "prompts": []}', "'prompts' twice")
        bad('[1, 2]', "must be an object")
        bad('{"prompts": [', "ids.json:1:14: is not JSON: the text ends too early")
        bad('', "is empty")
        bad('[' * 100000, "deep")
        bad(json.dumps({"prompts": [{"input_ids": [1] * 4097}]}), "prompts[0]", "4097", "4096")
        ids = self.write("ids.json", '{"prompts": [{"input_ids": [0, 99999]}]}')
        for how in THREADS, PROCESSES:
            self.refused(["eval", "--model", MODEL, "--ids", ids], ["rank 0: ", "ids.json", "99999"], how)
        self.check(["eval", "--ids", self.path("missing.json")], ["missing.json", "No such file"])

    def test_text(self):
        self.check(["eval", "--text", self.path("missing.txt")], ["--text", "missing.txt", "No such file"])
        self.check(["eval", "--text", self.write("empty.txt", "")], ["--text", "empty.txt"])

    def test_files_that_cannot_be_written(self):
        ids = self.write_ids("ids.json", [0, 5, 6])
        for flag in "--out", "--json":
            self.check(["eval", "--ids", ids, flag, self.path("no/such/file")], [flag, "no/such/file", "No such file"],
                       [ALONE, THREADS, PROCESSES])
            self.check(["eval", "--ids", ids, flag, self.dir], [flag, self.dir, "directory"], [ALONE, THREADS])
            self.check(["eval", "--ids", ids, flag, self.path("ids.json/file")], [flag, "ids.json/file"], [ALONE])
        self.check(["generate", "--prompt", "a", "--record-routing", self.path("no/file")], ["--record-routing", "no/file"])

    def test_devices_are_not_replaced(self):
        """Files are renamed into place, which must not happen to a device or a pipe."""
        ids, pipe = self.write_ids("ids.json", [0, 5, 6]), self.path("pipe")
        os.mkfifo(pipe)
        self.check(["eval", "--ids", ids, "--out", pipe], ["--out", pipe, "pipe"], [ALONE, THREADS])
        self.check(["eval", "--ids", ids, "--out", "/dev/null"], ["--out", "/dev/null", "device"], [ALONE])
        done = self.succeed("eval", "--model", MODEL, "--ids", ids, "--json", "/dev/stdout")
        self.assertEqual(json.loads(done.text()[done.text().index("{"):])["total"]["tokens"], 2)
        self.assertFalse(os.path.exists("/dev/stdout.partial"))

    def test_folder_that_is_read_only(self):
        ids = self.write_ids("ids.json", [0, 5, 6])
        os.mkdir(self.path("locked"), 0o555)
        os.chmod(self.dir, 0o755)
        user = 65534 if os.getuid() == 0 else None  # root may write everywhere
        for flag in "--out", "--json":
            done = run("eval", "--model", MODEL, "--ids", ids, flag, self.path("locked/file"), user=user)
            if done.status == 126 or "cannot be read" in done.err:
                self.skipTest("the folder of the tests is not readable for others")
            self.assertEqual((done.status, len(done.errors)), (1, 1), done.err)
            for word in flag, "locked/file", "Permission denied":
                self.assertIn(word, done.errors[0])

    def test_a_full_disk_for_results(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        for args in (["generate", "--prompt", "In the", "--max-tokens", "2"], ["inspect", "--json"],
                     ["eval", "--ids", self.write_ids("ids.json", [0, 5, 6])]):
            with open("/dev/full", "w") as full:
                done = subprocess.run([PROGRAM, args[0], "--model", MODEL, *args[1:]], stdout=full,
                                      stderr=subprocess.PIPE, text=True)
            self.assertEqual(done.returncode, 1, args)
            self.assertIn("tokenferry: the results could not all be written to stdout", done.stderr)

    def test_failing_late_keeps_what_was_there(self):
        """A run that fails after its files were opened: the old file stays, nothing new lies beside it."""
        ids, out = self.write_ids("ids.json", [0, 5, 6]), self.write("out.safetensors", "old")
        model = ModelCopy(self.path("model"))
        model.poke(LAST_EXPERT, 1000, b"\x7f")
        for how in ALONE, THREADS, PROCESSES:
            self.refused(["eval", "--model", model.path, "--ids", ids, "--out", out, "--json", self.path("new.json")],
                         [LAST_EXPERT], how)
            with open(out) as f:
                self.assertEqual(f.read(), "old")

    def test_placement_files(self):
        def bad(text, *words, ways=(THREADS,)):
            file = self.write("placement.json", text)
            self.check(["generate", "--prompt", "a", "--placement", file], ["placement.json", *words], ways)
        good = [list(range(0, 11)), list(range(11, 22)), list(range(22, 32))]
        bad("", "empty")
        bad('{"experts_per_rank": [[0], [1]', "placement.json:1:31: is not JSON")
        bad('{"experts": []}', "experts_per_rank")
        bad(json.dumps({"experts_per_rank": [*good[:2], 7]}), "experts_per_rank[2]: must be a list, not 7")
        bad(json.dumps({"experts_per_rank": [*good[:2], ["x"]]}), "experts_per_rank[2][0]: ", '"x"')
        bad(json.dumps({"experts_per_rank": [*good[:2], [-1]]}), "experts_per_rank[2][0]: ", "-1")
        bad(json.dumps({"experts_per_rank": [*good[:2], good[2] + [32]]}), "expert 32", "31")
        bad(json.dumps({"experts_per_rank": [*good[:2], good[2] + [22]]}), "expert 22", "twice")
        bad(json.dumps({"experts_per_rank": [*good[:2], good[2][1:]]}), "expert 22", "no rank")
        bad(json.dumps({"experts_per_rank": good[:2]}), "2 rows", "3 ranks", ways=(THREADS, PROCESSES))
        self.check(["inspect", "--placement", self.path("none.json")], ["none.json", "cannot be opened", "No such file"])


class BadMachine(BadInput):
    """What the machine has too little of."""

    def test_memory(self):
        """Refused before a weight is read, with the numbers; the ranks of a host count together."""
        model = ModelCopy(self.path("model"))
        model.poke(NORM, 2 * 17, b"\x80\x7f")  # an infinity, which reading would find
        for how in ALONE, THREADS, PROCESSES:
            line = self.refused(["generate", "--model", model.path, "--prompt", "a", "--kv-cache-tokens", "1000000000"],
                                ["not enough memory on host", "weights ", "cache ", "activations ", "available",
                                 "--kv-cache-tokens"], how)
            self.assertIn("1 rank needs" if how == ALONE else "3 ranks need", line)

    @unittest.skipIf(os.path.exists("/dev/nvidiactl"), "has a GPU")
    def test_no_gpu(self):
        for how in ALONE, PROCESSES:
            self.refused(["generate", "--model", MODEL, "--prompt", "a", "--device", "cuda"], ["no CUDA device: "], how)
        self.succeed("generate", "--model", MODEL, "--prompt", "a", "--max-tokens", "1", "--device", "auto")

    def test_open_files(self):
        """Ranks as threads open every shard each: 20 x 4 files. The soft limit is raised; a hard one is told."""
        args = [PROGRAM, "eval", "--model", MODEL, "--ids", self.write_ids("ids.json", [0, 5, 6]), "--ranks", "20"]

        def with_limit(soft, hard):
            return subprocess.run(args, capture_output=True, text=True, timeout=slack(100),
                                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        done = with_limit(64, hard)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = with_limit(64, 64)
        self.assertEqual(done.returncode, 1, done.stderr)
        told = [line for line in done.stderr.splitlines() if line.startswith("tokenferry: ")]
        self.assertEqual(len(told), 1, done.stderr)
        for word in MODEL, "Too many open files", "64 files", "ulimit -Hn":  # whichever file was one too many
            self.assertIn(word, told[0])


class BadCommandLine(BadInput):
    def test_values(self):
        generate = ["generate", "--model", MODEL, "--prompt", "a"]
        for flag, value, *words in [
                ("--compute", "fp32", "'f32'"), ("--transport", "mpii", "'mpi'"), ("--device", "gpu", "'cpu'"),
                ("--path", "alltoall", "'alltoallv'"), ("--overflow", "capacty", "'capacity'"),
                ("--log-level", "warn", "'warning'"), ("--threads", "-1", "nearest is 0"),
                ("--threads", "two", "integer"), ("--max-tokens", "0", "nearest is 1"),
                ("--max-tokens", "1e99", "1073741824"), ("--max-tokens", "1.5", "nearest is 2"),
                ("--comm-timeout", "5", "5s"), ("--comm-timeout", "0s", "1ms"), ("--comm-timeout", "-1s", "1ms"),
                ("--temperature", "nan", "number"), ("--temperature", "-0.1", "nearest is 0"),
                ("--top-p", "0", "nearest is 1e-09"), ("--top-p", "1.01", "nearest is 1"), ("--top-k", "-5", "nearest is 0"),
                ("--min-p", "2", "nearest is 1"), ("--seed", "-1", "2^64"), ("--seed", "0x10", "integer"),
                ("--repetition-penalty", "0", "nearest is 0.01"), ("--capacity-factor", "0", "above 0"),
                ("--ranks", "100000", "nearest is 4096"), ("--instruction-set", "avx3", "avx"),
                ("--stop", "", "empty"), ("--model", "", "empty")]:
            self.refused([*generate, flag, value], [flag, value, *words], ALONE, status=2)
        self.refused([*generate, "--stop", "\udca9"], ["--stop", "UTF-8"], ALONE, status=2)  # the byte a9

    def test_values_together(self):
        generate = ["generate", "--model", MODEL, "--prompt", "a"]
        two_batch = ["--overlap", "two_batch", "--overflow", "capacity"]
        self.refused([*generate, *two_batch], ["--overlap two_batch", "dropless"], ALONE, status=2)
        small = ["--exchange-budget", "1000"]
        self.refused([*generate, *small], ["budget of 1000 bytes", "one token per rank"], THREADS)

    def test_words(self):
        for args, words in [
                ([], ["no subcommand"]), (["generat"], ["'generat'", "'generate'"]), (["benchh"], ["'bench'"]), (["bench"], ["engine, alltoall, moe"]),
                (["plan"], ["'plan'", "not in this version yet"]), (["serve"], ["--model"]),
                (["bench", "engin"], ["'bench engin'", "'bench engine'"]), (["--model", "x"], ["'--model'"]),
                (["inspect"], ["--model"]), (["generate", "--model", MODEL], ["--prompt"]),
                (["eval", "--model", MODEL], ["--ids", "--text"]),
                (["eval", "--model", MODEL, "--ids", "a", "--text", "b"], ["--ids", "--text"]),
                (["generate", "--modle", MODEL], ["--modle", "--model"]),
                (["generate", "--model", MODEL, "--prompt", "a", "--maxtokens", "3"], ["--maxtokens", "--max-tokens"]),
                (["generate", "--model", MODEL, "--prompt", "a", "stray"], ["'stray'"]),
                (["generate", "--model"], ["--model"]),
                (["eval", "--model", MODEL, "--ids", "a", "--capacity-factor", "1"], ["--overflow capacity"]),
                (["inspect", "--model", MODEL, "--capacity-factor", "1"], ["inspect does not use --capacity-factor"]),
                (["generate", "--model", MODEL, "--prompt", "a", "--seed", "1", "--seed", "2"], ["--seed", "2 times"])]:
            self.refused(args, words, ALONE, status=2)
        self.refused(["generate", "--modle", MODEL], ["--modle", "--model"], PROCESSES, status=2)
        self.refused(["generate", "--modle", MODEL], ["--modle", "--model"], THREADS, status=2)

    def test_config_files(self):
        def bad(text, *words, how=ALONE):
            file = self.write("config.yaml", text)
            self.refused(["generate", "--config", file, "--prompt", "a"], ["config.yaml", *words], how, status=2)
        bad("model: x\ncomputee: f32\n", ":2:", "'computee'", "'compute'")
        bad("model: x\ncompute: f16\n", ":2:", "'f16'", how=PROCESSES)
        bad("model: x\ngenerate:\n  max-token: 3\n", ":3:", "'max-tokens'")
        bad("model: x\neval:\n  prompt: a\n", ":3:", "'prompt'")
        bad("model: [x\n", ":")
        bad("- a\n", "map")
        bad("model: x\nmodel: y\n", ":2:", "twice")
        self.refused(["inspect", "--config", self.path("none.yaml")], ["none.yaml", "No such file"], ALONE, status=2)
        for how in ALONE, PROCESSES:
            self.refused(["inspect", "--config", self.dir], ["--config", self.dir, "Is a directory"], how, status=2)


if __name__ == "__main__":
    main()
