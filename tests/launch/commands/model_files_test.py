#!/usr/bin/env python3
"""model_files_test.py PROGRAM: what stands in a model's folder, and what is taken for one. Faults of what the model needs
are one line that says what to do; faults of what it does not need are warnings, and the results stay the same."""

import json
import os
import re
import shutil

from program import MODEL, ModelCopy, ProgramTest, main, run

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 23216112\n"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
MTP = "model.layers.5.enorm.weight"  # of the multi-token-prediction module, which nothing needs


class ModelFilesTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.model = ModelCopy(self.path("model"))
        self.ids = self.write_ids("ids.json", [0, 5, 6, 7, 8])

    def nll(self, model):
        """Of five ids, and the warnings."""
        done = self.succeed("eval", "--compute", "f32", "--model", model, "--ids", self.ids)
        return re.findall(r"^total .*", done.text(), re.M), [l for l in done.err_lines if l.startswith("W ")]

    def refused(self, args, *words):
        done = run(*args)
        self.assertEqual((done.status, len(done.errors)), (1, 1), f"{args}\n{done.err}")
        for word in words:
            self.assertIn(word, done.errors[0])


class NotNeeded(ModelFilesTest):
    def check(self, *words):
        expected, none = self.nll(MODEL)
        self.assertEqual(none, [])
        got, warnings = self.nll(self.model.path)
        self.assertEqual(got, expected)
        self.assertEqual(len(warnings), 1, warnings)
        for word in words:
            self.assertIn(word, warnings[0])

    def mtp_shard(self):
        """The shard that has nothing but tensors of the module."""
        shards = json.loads(self.model.read(INDEX))["weight_map"]
        needed = {shard for tensor, shard in shards.items() if not tensor.startswith("model.layers.5.")}
        (shard,) = set(shards.values()) - needed
        return shard

    def test_missing_shard(self):
        shard = self.mtp_shard()
        os.unlink(self.model.file(shard))
        self.check("1 of 4 shards are missing", shard, "not needed: ")

    def test_truncated_shard(self):
        shard = self.mtp_shard()
        self.model.write(shard, self.model.read(shard)[:-7])
        self.check(shard, "reach beyond", "not needed: ")

    def test_pointer_in_place_of_a_shard(self):
        shard = self.mtp_shard()
        self.model.write(shard, POINTER)
        self.check(shard, "Git LFS pointer", "not needed: ")

    def test_tensor_that_the_index_has_and_its_shard_lacks(self):
        extra, shard = "model.layers.5.mlp.experts.99.up_proj.weight", self.model.shard_of(EXPERT)
        self.model.change_json(INDEX, lambda index: index["weight_map"].update({extra: shard}))
        self.check(INDEX, extra, "(not needed: 1 tensor)")

    def test_tensor_that_stands_in_two_shards(self):
        here, other = self.model.shard_of(MTP), self.mtp_shard()
        self.assertNotEqual(here, other)
        self.model.change_json(INDEX, lambda index: index["weight_map"].update({MTP: other}))
        self.check(MTP, "not needed: ")

    def test_unknown_dtype(self):
        def change(header):
            header[MTP]["dtype"] = "F5_E1M3"
        self.model.change_header(self.model.shard_of(MTP), change)
        self.check("a tensor has the unknown dtype 'F5_E1M3'", "(not needed: 1 tensor)")

    def test_dtypes_that_are_known_and_not_used(self):
        for dtype, shape in ("F4", [1024]), ("U16", [256]), ("C64", [64]), ("F8_E8M0", [512]), ("F64", [64]):
            self.model.change_header(self.model.shard_of(MTP),
                                     lambda header: header[MTP].update(dtype=dtype, shape=shape))
            self.assertEqual(self.nll(self.model.path), self.nll(MODEL))


class Needed(ModelFilesTest):
    """The same faults, of tensors that the model needs."""

    def check(self, *words):
        self.refused(["eval", "--model", self.model.path, "--ids", self.ids], "rank 0: ", *words)

    def test_missing_shard(self):
        shard = self.model.shard_of(EXPERT)
        os.unlink(self.model.file(shard))
        self.check("1 of 4 shards are missing", shard, "is needed")

    def test_tensor_that_stands_in_two_shards(self):
        shards = json.loads(self.model.read(INDEX))["weight_map"]
        other = next(s for s in sorted(set(shards.values())) if s != shards[EXPERT])
        self.model.change_json(INDEX, lambda index: index["weight_map"].update({EXPERT: other}))
        self.check(f"'{EXPERT}' is needed")

    def test_unknown_dtype(self):
        self.model.change_header(self.model.shard_of(EXPERT),
                                 lambda header: header[EXPERT].update(dtype="F5_E1M3"))
        self.check(f"tensor '{EXPERT}' has the unknown dtype 'F5_E1M3', and it is needed")

    def test_packed_dtype(self):
        self.model.change_header(self.model.shard_of(EXPERT),
                                 lambda header: header[EXPERT].update(dtype="F4", shape=[128, 512]))
        self.check(EXPERT, "F4 [128, 512]")


class StandIns(ModelFilesTest):
    def test_git_lfs_pointers(self):
        for name in self.model_files():
            self.model.write(name, POINTER)
            self.refused(["inspect", "--model", self.model.path], name, "Git LFS pointer", "git lfs pull")
            shutil.copyfile(os.path.join(MODEL, name), self.model.file(name))
        self.model.write("tokenizer.json", POINTER)
        self.refused(["generate", "--model", self.model.path, "--prompt", "a"], "tokenizer.json:1:1: ", "Git LFS pointer")
        self.nll(self.model.path)  # needs no tokenizer

    def model_files(self):
        return self.model.shard_of(EXPERT), INDEX, "config.json"

    def test_other_tokenizers(self):
        os.unlink(self.model.file("tokenizer.json"))
        generate = ["generate", "--model", self.model.path, "--prompt", "a"]
        self.refused(generate, "tokenizer.json", "No such file")
        open(self.model.file("tekken.json"), "w").close()
        self.refused(generate, "no tokenizer.json but tekken.json, a Tekken vocabulary, which cannot be read yet")
        open(self.model.file("tiktoken.model"), "w").close()
        self.refused(generate, "tiktoken.model: has no token for the byte 0")
        self.model.write("tiktoken.model", POINTER)
        self.refused(generate, "tiktoken.model: is a Git LFS pointer", "git lfs pull")
        os.unlink(self.model.file("tiktoken.model"))
        with open(self.model.file("tokenizer.model"), "w") as f:
            f.write("<!DOCTYPE html><html><body>401</body></html>")
        self.refused(generate, "tokenizer.model: is an HTML page", "download the file again")

    def test_paths_that_are_no_folder_of_a_model(self):
        for path, *words in [
                (self.model.file("config.json"), "is a file; give the folder that it is in", self.model.path),
                (self.model.file(self.model.shard_of(EXPERT)), "is a file; give the folder"),
                (self.write("model.Q4_K_M.gguf", "GGUF"), "ends after 4 bytes", "is it complete?"),
                ("some-org/Some-Model", "hf download some-org/Some-Model"),
                (self.path("none"), "there is no such folder")]:
            for command in ["inspect"], ["eval", "--ids", self.ids], ["generate", "--prompt", "a"]:
                self.refused([*command, "--model", path], path, *words)
        os.mkdir(self.path("empty"))
        self.refused(["inspect", "--model", self.path("empty")], "is an empty folder")


class Settings(ModelFilesTest):
    def test_two_values_for_one_setting(self):
        expected = self.nll(MODEL)

        def config(**keys):
            self.model.change_json("config.json", lambda c: c.update(keys))
            return ["eval", "--model", self.model.path, "--ids", self.ids]
        yarn = json.loads(self.model.read("config.json"))["rope_scaling"]
        config(rope_parameters={**yarn, "rope_theta": 10000}, dtype="bfloat16")
        self.assertEqual(self.nll(self.model.path), expected)
        self.refused(config(rope_parameters={"rope_type": "default", "rope_theta": 10000}),
                     "config.json:1:", "'rope_scaling.rope_type' is yarn", "'rope_parameters.rope_type' is default")
        config(rope_parameters={"rope_theta": 10000})  # says nothing about scaling
        self.assertEqual(self.nll(self.model.path), expected)
        config(rope_parameters={**yarn, "rope_theta": 10000}, rope_scaling={})
        self.assertEqual(self.nll(self.model.path), expected)
        config(rope_parameters=None, rope_scaling=None)
        self.assertNotEqual(self.nll(self.model.path), expected)  # no YaRN: another model
        self.refused(config(dtype="float32"), "'torch_dtype' is", "but 'dtype' is")

    def test_generation_settings_matter_to_generate_alone(self):
        for settings in {"top_p": 0}, {"temperature": -1}, {"eos_token_id": 99999}:
            self.model.write("generation_config.json", json.dumps(settings).encode())
            self.nll(self.model.path)
            self.succeed("inspect", "--model", self.model.path)
        self.refused(["generate", "--model", self.model.path, "--prompt", "a"],
                     "generation_config.json:1:18: 'eos_token_id' is 99999")


if __name__ == "__main__":
    main()
