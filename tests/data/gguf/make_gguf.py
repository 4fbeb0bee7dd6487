#!/usr/bin/env python3
"""Makes the GGUF files of this folder with ggml's Python package (pip install gguf==0.19.0 numpy sentencepiece==0.2.3
tokenizers tiktoken): blocks of random bits with what the package makes of them, models of ../families as llama.cpp's
converter would write them, and a tokenizer of SentencePiece with what that makes of texts."""

import io
import json
import pathlib
import random
import struct
import sys

import gguf
import numpy as np
import sentencepiece

HERE = pathlib.Path(__file__).parent
FAMILIES = HERE.parent / "families"
Type = gguf.GGMLQuantizationType
BLOCK_TYPES = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL,
               Type.MXFP4]
# Where the 16-bit scales of a block lie; all else may be any bits.
HALVES = {Type.Q4_1: (0, 2), Type.Q5_1: (0, 2), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,), Type.MXFP4: ()}


def random_blocks(qtype, rows, blocks, rng, least=-12, most=2):
    """[rows, bytes]: random bits with scales between 2^least and 2^most, of both signs."""
    _, size = gguf.GGML_QUANT_SIZES[qtype]
    data = rng.integers(0, 256, (rows * blocks, size), dtype=np.uint8)
    for at in HALVES.get(qtype, (0,)):
        scales = np.exp2(rng.uniform(least, most, rows * blocks)) * rng.choice([-1, 1], rows * blocks)
        data[:, at:at + 2] = scales.astype(np.float16).view(np.uint8).reshape(-1, 2)
    if qtype == Type.MXFP4:
        data[:, 0] = rng.integers(0, 255, rows * blocks)  # 255 is NaN in OCP's definition
    return data.reshape(rows, blocks * size)


def make_blocks():
    rng = np.random.default_rng(6)
    out = gguf.GGUFWriter(HERE / "blocks.gguf", "blocks")
    for qtype in BLOCK_TYPES:
        elements, _ = gguf.GGML_QUANT_SIZES[qtype]
        data = random_blocks(qtype, 4, 512 // elements, rng)
        values = gguf.quants.dequantize(data, qtype).astype(np.float32)
        assert np.isfinite(values).all()
        out.add_tensor(qtype.name, data, raw_dtype=qtype)
        out.add_tensor(qtype.name + ".values", values)
    finish(out)


def finish(out):
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def read_safetensors(path):
    """{name: (dtype, array)}; BF16 as bits."""
    raw = path.read_bytes()
    length, = struct.unpack("<Q", raw[:8])
    tensors = {}
    for name, entry in json.loads(raw[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + n for n in entry["data_offsets"])
        kind = {"BF16": np.uint16, "F32": np.float32}[entry["dtype"]]
        tensors[name] = (entry["dtype"], np.frombuffer(raw[begin:end], kind).reshape(entry["shape"]))
    return tensors


class Model:
    """A model of ../families, written tensor by tensor."""

    def __init__(self, family, arch, name=None):
        self.config = json.loads((FAMILIES / family / "config.json").read_text())
        self.tensors = read_safetensors(FAMILIES / family / "model.safetensors")
        self.arch = arch
        self.out = gguf.GGUFWriter(HERE / f"{name or family}.gguf", gguf.MODEL_ARCH_NAMES[arch])
        self.names = gguf.get_tensor_name_map(arch, self.config["num_hidden_layers"])
        self.rng = np.random.default_rng(12)

    def common_keys(self):
        c, out = self.config, self.out
        out.add_block_count(c["num_hidden_layers"])
        out.add_context_length(c["max_position_embeddings"])
        out.add_embedding_length(c["hidden_size"])
        out.add_feed_forward_length(c["intermediate_size"])
        out.add_head_count(c["num_attention_heads"])
        out.add_head_count_kv(c["num_key_value_heads"])
        out.add_layer_norm_rms_eps(c["rms_norm_eps"])
        out.add_rope_freq_base(float(c["rope_theta"]))
        out.add_expert_used_count(c["num_experts_per_tok"])
        out.add_vocab_size(c["vocab_size"])
        if "bos_token_id" in c:
            out.add_bos_token_id(c["bos_token_id"])
        out.add_eos_token_id(c["eos_token_id"])

    def name(self, hub_name):
        found = self.names.get_name(hub_name, try_suffixes=(".weight", ".bias"))
        assert found, hub_name
        return found

    def add(self, name, dtype, values, qtype=None):
        """As the converter: vectors and routers in F32; with `qtype`, the values of random blocks of it instead."""
        if qtype is not None:
            elements, _ = gguf.GGML_QUANT_SIZES[qtype]
            rows, cols = int(np.prod(values.shape[:-1])), values.shape[-1]
            data = random_blocks(qtype, rows, cols // elements, self.rng, -11, -10)
            if qtype == Type.MXFP4:  # scales of 2^-6 and 2^-5
                data.reshape(-1, 17)[:, 0] = self.rng.integers(122, 124, data.size // 17)
            self.out.add_tensor(name, data.reshape(*values.shape[:-1], -1), raw_dtype=qtype)
        elif dtype == "BF16" and (values.ndim == 1 or "ffn_gate_inp" in name):
            self.out.add_tensor(name, (values.astype(np.uint32) << 16).view(np.float32))
        elif dtype == "BF16":
            self.out.add_tensor(name, values.view(np.uint8), raw_dtype=Type.BF16)
        else:
            self.out.add_tensor(name, values)

    def add_all(self, qtype=lambda name: None):
        experts = {}
        for hub_name, (dtype, values) in self.tensors.items():
            parts = hub_name.split(".")
            if "experts" in parts and parts[parts.index("experts") + 1].isdigit():
                at = parts.index("experts")
                merged = ".".join(parts[:at + 1] + parts[at + 2:])
                experts.setdefault(merged, {})[int(parts[at + 1])] = (dtype, values)
                continue
            name = self.name(hub_name)
            self.add(name, dtype, values, qtype(name))
        for merged, by_idx in experts.items():
            stack = np.stack([by_idx[e][1] for e in range(len(by_idx))])
            name = self.name(merged)
            self.add(name, by_idx[0][0], stack, qtype(name))
        finish(self.out)


def make_qwen3():
    """Types that blocks of 32 allow, each somewhere; a hidden size of 64 has no room for K blocks."""
    m = Model("qwen3_moe", gguf.MODEL_ARCH.QWEN3MOE, "qwen3_moe_blocks")
    m.common_keys()
    m.out.add_key_length(m.config["head_dim"])
    m.out.add_value_length(m.config["head_dim"])
    m.out.add_expert_count(m.config["num_experts"])
    m.out.add_expert_feed_forward_length(m.config["moe_intermediate_size"])
    types = {"token_embd": Type.Q8_0, "attn_output.": Type.Q4_0, "output.": Type.Q8_0, "attn_q.": Type.Q4_1,
             "attn_k.": Type.Q5_0, "attn_v.": Type.Q5_1, "ffn_gate_exps": Type.IQ4_NL, "ffn_up_exps": Type.MXFP4,
             "ffn_down_exps": Type.Q5_0}
    m.add_all(qtype=lambda name: next((t for part, t in types.items() if part in name), None))


def make_deepseek():
    m = Model("deepseek_v2_lite", gguf.MODEL_ARCH.DEEPSEEK2)
    c, out = m.config, m.out
    m.common_keys()
    out.add_leading_dense_block_count(c["first_k_dense_replace"])
    out.add_kv_lora_rank(c["kv_lora_rank"])
    out.add_key_length(c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
    out.add_value_length(c["v_head_dim"])
    out.add_rope_dimension_count(c["qk_rope_head_dim"])
    out.add_expert_count(c["n_routed_experts"])
    out.add_expert_feed_forward_length(c["moe_intermediate_size"])
    out.add_expert_shared_count(c["n_shared_experts"])
    out.add_expert_weights_scale(c["routed_scaling_factor"])
    out.add_expert_weights_norm(c["norm_topk_prob"])
    out.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
    scaling = c["rope_scaling"]
    out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    out.add_rope_scaling_factor(scaling["factor"])
    out.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    out.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])
    m.add_all()


def make_sentencepiece():
    """As Llama's and Mixtral's: BPE with bytes, text as it is, a space before it."""
    sys.path.insert(0, str(HERE.parent))
    from make_tokenizer_cases import CORPUS, random_text
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines() * 3), model_writer=model, model_type="bpe", vocab_size=500,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.99,
        minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    types = [gguf.TokenType.UNKNOWN if sp.is_unknown(i) else gguf.TokenType.CONTROL if sp.is_control(i)
             else gguf.TokenType.BYTE if sp.is_byte(i) else gguf.TokenType.NORMAL for i in range(sp.vocab_size())]
    out = gguf.GGUFWriter(HERE / "sentencepiece.gguf", "llama")
    out.add_tokenizer_model("llama")
    out.add_tokenizer_pre("default")
    out.add_token_list([sp.id_to_piece(i) for i in range(sp.vocab_size())])
    out.add_token_scores([sp.get_score(i) for i in range(sp.vocab_size())])
    out.add_token_types(types)
    out.add_bos_token_id(sp.bos_id())
    out.add_eos_token_id(sp.eos_id())
    out.add_unk_token_id(sp.unk_id())
    out.add_chat_template("{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    finish(out)
    rng = random.Random(3)
    texts = [line for line in CORPUS.splitlines() if line] + [random_text(rng, ["  ", "\n", " the"]) for _ in range(150)]
    cases = [{"text": text, "ids": sp.encode(text)} for text in texts if "\u2581" not in text and "\0" not in text]
    (HERE / "sentencepiece.json").write_text(json.dumps({"cases": cases}, indent=0) + "\n")


if __name__ == "__main__":
    make_blocks()
    make_qwen3()
    make_deepseek()
    make_sentencepiece()
