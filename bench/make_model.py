#!/usr/bin/env python3
"""Writes a random-weight checkpoint of the DeepSeek-V3 architecture, for benchmarks of any size.

    bench/make_model.py OUT_DIR --preset 1b
    bench/make_model.py OUT_DIR --hidden 2048 --layers 12 --experts 64 --expert-width 704

FP8 E4M3 projections in 128x128 blocks with F32 scales, BF16 for the rest, as DeepSeek-V3 is published. Scales bring the
outputs of a projection to about the size of its inputs, so activations neither vanish nor overflow; the text is
nonsense. Python's standard library only; writes about as fast as os.urandom. `--vocab 2304` (or more) takes along the
tokenizer of models/ferry-tiny-v3.
"""
import argparse
import json
import math
import os
import shutil
import struct
import sys
from array import array

BLOCK = 128
CHUNK = 1 << 24
# Random E4M3 codes are cut to exponents below 2^1 (bit 6 cleared: |x| < 2), which also excludes both NaN codes.
MASK_FP8 = bytes(c & 0xBF for c in range(256))
RMS_FP8 = math.sqrt(sum(((1 + m / 8) * 2.0 ** (e - 7) if e else m * 2.0 ** -9) ** 2 for e in range(8) for m in range(8)) / 64)
# BF16 elements are (low byte, high byte): with the high byte 0x3C or 0xBC and any low byte they are +-2^-7 .. 2^-5, whose
# root mean square is about 0.019.
MASK_BF16_HIGH = bytes(0x3C | (c & 0x80) for c in range(256))

PRESETS = {  # approximate parameters; hidden, layers, dense layers, experts, top-k, expert width, dense width, heads, vocab
    "tiny": dict(hidden=512, layers=4, dense_layers=1, experts=16, top_k=4, expert_width=256, dense_width=1024, heads=4, vocab=2304),
    "1b": dict(hidden=1024, layers=12, dense_layers=1, experts=64, top_k=6, expert_width=448, dense_width=4096, heads=8, vocab=8192),
    "4b": dict(hidden=1536, layers=16, dense_layers=1, experts=96, top_k=6, expert_width=576, dense_width=6144, heads=12, vocab=16384),
    "16b": dict(hidden=2048, layers=27, dense_layers=1, experts=64, top_k=6, expert_width=1408, dense_width=10944, heads=16, vocab=102400),
}


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out_dir")
    p.add_argument("--preset", choices=sorted(PRESETS), default="1b")
    for name in ("hidden", "layers", "dense-layers", "experts", "top-k", "expert-width", "dense-width", "heads", "vocab"):
        p.add_argument("--" + name, type=int, help="instead of the preset's")
    p.add_argument("--groups", type=int, default=4, help="of experts; half of them are kept per token")
    p.add_argument("--shared-experts", type=int, default=1)
    p.add_argument("--kv-rank", type=int, default=512)
    p.add_argument("--q-rank", type=int, default=768)
    p.add_argument("--head-dim", type=int, default=128, help="of the part without rotation, and of values")
    p.add_argument("--rope-dim", type=int, default=64)
    p.add_argument("--max-position", type=int, default=16384)
    p.add_argument("--shard-gb", type=float, default=4.0)
    p.add_argument("--force", action="store_true", help="write into a directory that is not empty")
    args = p.parse_args()
    for name, value in PRESETS[args.preset].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.experts % args.groups or (args.groups > 1 and args.experts // args.groups < 2):
        p.error(f"--groups {args.groups} must divide --experts {args.experts} into groups of at least 2")
    if args.top_k > max(1, args.groups // 2) * (args.experts // args.groups):
        p.error(f"--top-k {args.top_k} is more than the experts of the groups kept")
    if os.path.isdir(args.out_dir) and os.listdir(args.out_dir) and not args.force:
        p.error(f"{args.out_dir} is not empty (--force writes into it)")
    return args


def config(a):
    return {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_act": "silu",
        "attention_bias": False, "bos_token_id": 0, "eos_token_id": 1, "first_k_dense_replace": a.dense_layers,
        "hidden_size": a.hidden, "intermediate_size": a.dense_width, "kv_lora_rank": a.kv_rank,
        "max_position_embeddings": a.max_position, "moe_intermediate_size": a.expert_width, "moe_layer_freq": 1,
        "n_group": a.groups, "n_routed_experts": a.experts, "n_shared_experts": a.shared_experts,
        "norm_topk_prob": True, "num_attention_heads": a.heads, "num_experts_per_tok": a.top_k,
        "num_hidden_layers": a.layers, "num_key_value_heads": a.heads, "num_nextn_predict_layers": 0,
        "q_lora_rank": a.q_rank, "qk_nope_head_dim": a.head_dim, "qk_rope_head_dim": a.rope_dim,
        "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                "weight_block_size": [BLOCK, BLOCK]},
        "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 10000, "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid", "tie_word_embeddings": False, "topk_group": max(1, a.groups // 2),
        "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "v_head_dim": a.head_dim, "vocab_size": a.vocab,
    }


def ffn(prefix, hidden, width):
    yield prefix + "gate_proj.weight", [width, hidden], "F8_E4M3"
    yield prefix + "up_proj.weight", [width, hidden], "F8_E4M3"
    yield prefix + "down_proj.weight", [hidden, width], "F8_E4M3"


def attention(p, a):
    yield p + "q_a_proj.weight", [a.q_rank, a.hidden], "F8_E4M3"
    yield p + "q_a_layernorm.weight", [a.q_rank], "NORM"
    yield p + "q_b_proj.weight", [a.heads * (a.head_dim + a.rope_dim), a.q_rank], "F8_E4M3"
    yield p + "kv_a_proj_with_mqa.weight", [a.kv_rank + a.rope_dim, a.hidden], "F8_E4M3"
    yield p + "kv_a_layernorm.weight", [a.kv_rank], "NORM"
    yield p + "kv_b_proj.weight", [a.heads * 2 * a.head_dim, a.kv_rank], "F8_E4M3"
    yield p + "o_proj.weight", [a.hidden, a.heads * a.head_dim], "F8_E4M3"


def weights(a):
    """(name, shape, kind) of every weight; kind is a dtype, or NORM (BF16 ones), or BIAS (F32 around zero)."""
    yield "model.embed_tokens.weight", [a.vocab, a.hidden], "BF16"
    for i in range(a.layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", [a.hidden], "NORM"
        yield from attention(p + "self_attn.", a)
        yield p + "post_attention_layernorm.weight", [a.hidden], "NORM"
        if i < a.dense_layers:
            yield from ffn(p + "mlp.", a.hidden, a.dense_width)
            continue
        yield p + "mlp.gate.weight", [a.experts, a.hidden], "BF16"
        yield p + "mlp.gate.e_score_correction_bias", [a.experts], "BIAS"
        if a.shared_experts:
            yield from ffn(p + "mlp.shared_experts.", a.hidden, a.shared_experts * a.expert_width)
        for e in range(a.experts):
            yield from ffn(p + f"mlp.experts.{e}.", a.hidden, a.expert_width)
    yield "model.norm.weight", [a.hidden], "NORM"
    yield "lm_head.weight", [a.vocab, a.hidden], "BF16"


def tensors(a):
    """As weights(), with the scales of FP8 tensors (kind SCALE carries the number of inputs)."""
    for name, shape, kind in weights(a):
        yield name, shape, kind, 0
        if kind == "F8_E4M3":
            yield name + "_scale_inv", [-(-d // BLOCK) for d in shape], "SCALE", shape[1]


DTYPES = {"F8_E4M3": ("F8_E4M3", 1), "BF16": ("BF16", 2), "NORM": ("BF16", 2), "BIAS": ("F32", 4), "SCALE": ("F32", 4)}


def num_bytes(shape, kind):
    return math.prod(shape) * DTYPES[kind][1]


def f32_bytes(values):
    data = array("f", values)
    if sys.byteorder != "little":
        data.byteswap()
    return data.tobytes()


def write_data(out, shape, kind, inputs):
    count = math.prod(shape)
    if kind == "NORM":
        out.write(struct.pack("<H", 0x3F80) * count)
    elif kind == "BIAS":
        out.write(f32_bytes((b - 127.5) / 12750 for b in os.urandom(count)))
    elif kind == "SCALE":  # random per block within +-10 %, so that a misplaced scale shows
        base = 1 / (RMS_FP8 * math.sqrt(inputs))
        out.write(f32_bytes(base * (0.9 + b / 1275) for b in os.urandom(count)))
    elif kind == "F8_E4M3":
        for begin in range(0, count, CHUNK):
            out.write(os.urandom(min(CHUNK, count - begin)).translate(MASK_FP8))
    else:
        for begin in range(0, count, CHUNK // 2):
            chunk = bytearray(os.urandom(2 * min(CHUNK // 2, count - begin)))
            chunk[1::2] = chunk[1::2].translate(MASK_BF16_HIGH)
            out.write(chunk)


def write_shard(path, items):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, kind, _ in items:
        end = offset + num_bytes(shape, kind)
        header[name] = {"dtype": DTYPES[kind][0], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, shape, kind, inputs in items:
            write_data(out, shape, kind, inputs)


def split(items, limit):
    shards, size = [[]], 0
    for item in items:
        item_bytes = num_bytes(item[1], item[2])
        if shards[-1] and size + item_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(item)
        size += item_bytes
    return shards


def copy_tokenizer(a):
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "ferry-tiny-v3")
    with open(os.path.join(source, "config.json")) as f:
        needed = json.load(f)["vocab_size"]
    if a.vocab < needed:
        print(f"no tokenizer: --vocab {a.vocab} is less than the {needed} of models/ferry-tiny-v3", file=sys.stderr)
        return
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(os.path.join(source, name), os.path.join(a.out_dir, name))


def main():
    a = parse_args()
    os.makedirs(a.out_dir, exist_ok=True)
    items = list(tensors(a))
    shards = split(items, int(a.shard_gb * 1e9))
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        write_shard(os.path.join(a.out_dir, name), shard)
        weight_map.update((item[0], name) for item in shard)
    total = sum(num_bytes(shape, kind) for _, shape, kind, _ in items)
    with open(os.path.join(a.out_dir, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, f, indent=1)
    with open(os.path.join(a.out_dir, "config.json"), "w") as f:
        json.dump(config(a), f, indent=2)
    copy_tokenizer(a)
    params = sum(math.prod(shape) for _, shape, kind, _ in items if kind != "SCALE")
    print(f"{a.out_dir}: {params / 1e9:.3f} billion parameters, {total / 1e9:.3f} GB in {len(shards)} files")


if __name__ == "__main__":
    main()
