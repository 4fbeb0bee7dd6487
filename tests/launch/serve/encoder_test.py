"""A model with an encoder (Switch): eval against the golden files, generate, and serve, which says what generate does."""

import array
import json
import os

import server  # first: it finds the next
from program import ROOT, ProgramTest, main, read_safetensors, run
from server import Server

GOLDEN = os.path.join(ROOT, "tests", "data", "encoder_decoder", "switch_transformers_capacity")
PROMPTS = ["long", "short"]


def tokenizer():
    """All 320 tokens of the model; the prompt ends with </s>, as T5's do."""
    special = ["<pad>", "</s>", "<unk>"]
    pieces = special + ["\u2581"] + list("abcdefghijklmnopqrstuvwxyz") + [f"\u2581x{i}" for i in range(290)]
    added = [{"id": i, "content": piece, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, piece in enumerate(special)]
    ends = {"id": "</s>", "ids": [1], "tokens": ["</s>"]}
    template = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
            "post_processor": {"type": "TemplateProcessing", "single": template, "pair": template,
                               "special_tokens": {"</s>": ends}},
            "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
            "model": {"type": "Unigram", "unk_id": 2, "vocab": [[piece, -float(i)] for i, piece in enumerate(pieces[:320])],
                      "byte_fallback": False}}


def numbers(tensor):
    dtype, _, content = tensor
    return array.array({"F32": "f", "I32": "i"}[dtype], content)


class EncoderTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.model = self.path("switch")
        os.mkdir(self.model)
        for name in "config.json", "generation_config.json", "model.safetensors":
            os.symlink(os.path.join(GOLDEN, name), os.path.join(self.model, name))
        self.write("switch/tokenizer.json", json.dumps(tokenizer()))

    def test_eval(self):
        golden = read_safetensors(os.path.join(GOLDEN, "golden.safetensors"))
        ids = self.write("ids.json", json.dumps({"prompts": [
            {key: list(numbers(golden[f"{p}.{key}"])) for key in ("input_ids", "decoder_input_ids")} for p in PROMPTS]}))
        out = self.path("out.safetensors")

        def evaluate(*flags, **how):
            self.succeed("eval", "--model", self.model, "--compute", "f32", "--ids", ids, "--out", out, "--trace", *flags, **how)
            with open(out, "rb") as f:
                return f.read()

        alone = evaluate()
        for flags, how in (["--prefill-chunk", "7"], {"ranks": 2}), ([], {"ranks": 3, "via": "mpi"}):
            self.assertEqual(evaluate(*flags, **how), alone, (flags, how))
        mine = read_safetensors(self.write("alone.safetensors", alone))
        names = [f"{stack}{kind}.{i}" for i in range(2) for stack in ("", "encoder_")
                 for kind in ("expert_idx", "expert_weight", "hidden_states", "router_logits")]
        self.assertEqual(sorted(mine), sorted(names + ["logits.0", "logits.1"]))
        for i, prompt in enumerate(PROMPTS):
            for got, want in ("logits", "logits"), ("hidden_states", "decoder.hidden_states"), (
                    "encoder_hidden_states", "encoder.hidden_states"):
                self.assertEqual(mine[f"{got}.{i}"][:2], golden[f"{prompt}.{want}"][:2])
                for a, b in zip(numbers(mine[f"{got}.{i}"]), numbers(golden[f"{prompt}.{want}"])):
                    self.assertLessEqual(abs(a - b), 2e-4 + 1e-4 * abs(b), got)  # as in tests/data/families/README.md
            for got, want in ("expert_idx", "decoder.expert_index"), ("encoder_expert_idx", "encoder.expert_index"):
                self.assertEqual(numbers(mine[f"{got}.{i}"]), numbers(golden[f"{prompt}.{want}"]))
        self.succeed("eval", "--model", self.model, "--ids", ids, "--expert-dtype", "int8", "--compare-to", "unquantised")

    def test_what_eval_refuses(self):
        for flags, said in (["--ids", self.write_ids("ids.json", [3, 4])], "decoder_input_ids"), (
                ["--text", self.write("text.txt", "abc")], "input_ids and decoder_input_ids"):
            done = run("eval", "--model", self.model, *flags)
            self.assertEqual((done.status != 0, len(done.errors)), (True, 1), done.err)
            self.assertIn(said, done.errors[0])

    def test_generate_and_serve(self):
        flags = ["--model", self.model, "--compute", "f32"]
        prompt = "abc hello"
        ask = ["--prompt", prompt, "--max-tokens", "20", "--ignore-eos"]
        got = self.succeed("generate", *flags, *ask, "--json").json()["outputs"][0]
        self.assertEqual((got["prompt_ids"][-1], got["prompt_ids"].count(1), len(got["ids"])), (1, 1, 20))
        for how in {"ranks": 3}, {"ranks": 2, "via": "mpi"}:
            again = self.succeed("generate", *flags, *ask, "--json", **how).json()["outputs"][0]
            self.assertEqual((again["ids"], again["logprobs"]), (got["ids"], got["logprobs"]))
        self.assertEqual(self.succeed("generate", *flags, *ask).text(), got["text"] + "\n")  # without the prompt
        self.assertIn("4 of the layers are an encoder", self.succeed("inspect", "--model", self.model).text())
        # The front leaves a model's end of text out; with it ignored there is none in these.
        with Server("--compute", "f32", "--max-num-seqs", "4", "--max-model-len", "64", model=self.model, ranks=2) as serving:
            body = {"prompt": [prompt, "xyz", prompt], "temperature": 0, "max_tokens": 20, "ignore_eos": True}
            status, answer = serving.post("/v1/completions", body)
            self.assertEqual(status, 200, answer)
            self.assertEqual([answer["choices"][i]["text"] for i in (0, 2)], 2 * [got["text"]])
            self.assertEqual(answer["usage"]["completion_tokens"], 60)
            # Prompt and answer have positions of their own; the decoder's start takes one.
            for prompt_ids, max_tokens, expected in (64, 63, 200), (64, 64, 400), (65, 1, 400):
                body = {"prompt": [5] * prompt_ids, "max_tokens": max_tokens, "ignore_eos": True}
                status, answer = serving.post("/v1/completions", body)
                self.assertEqual(status, expected, answer)
            status, answer = serving.post("/v1/completions", {"prompt": prompt, "max_tokens": 2, "echo": True, "logprobs": 1})
            self.assertEqual((status, "scores of the prompt" in json.dumps(answer)), (400, True), answer)


if __name__ == "__main__":
    main()
