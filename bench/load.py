#!/usr/bin/env python3
"""How fast weights become memory, beside a plain read of the same file in turns.

    python3 bench/load.py build/cpu/tokenferry [--layers 4] [--repeats 3] [--threads N] [--json F]

Random Mixtral checkpoints (hidden 1024, 8 experts of width 2048) in each way that stored bytes become those of memory:

    copy       F16, as it is multiplied
    transpose  GPTQ, 4 bits in groups of 128: codes change rows for columns
    repack     AWQ, 4 bits in groups of 128: codes change their order within words too
    quantise   the F16 file with --expert-dtype int4

One rank. GB/s: 1e9 bytes of the file in a second, the best of the repeats (what disturbs only ever takes longer). The
plain read takes 8 MiB at a time into one buffer, on one thread; the file is in the page cache for both.
"""
import argparse
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time

HIDDEN, WIDTH, EXPERTS, HEADS, KV_HEADS, VOCAB, GROUP = 1024, 2048, 8, 8, 4, 512, 128
CHUNK = 8 << 20
LAYOUTS = {"copy": ("f16", []), "transpose": ("gptq", []), "repack": ("awq", []), "quantise": ("f16", ["--expert-dtype", "int4"])}
BYTES = {"F16": 2, "I32": 4}
SMALL_F16_HIGH = bytes(0x24 | (c & 0x80) for c in range(256))


def config(method, layers):
    made = {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": WIDTH, "max_position_embeddings": 4096, "num_attention_heads": HEADS, "num_experts_per_tok": 2,
        "num_hidden_layers": layers, "num_key_value_heads": KV_HEADS, "num_local_experts": EXPERTS, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "float16", "vocab_size": VOCAB}
    if method != "f16":
        made["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": GROUP}
    return made


def projection(name, method, outs, ins):
    """(name, type, shape, what to fill it with) of the tensors of a matrix [outs, ins]."""
    if method == "f16":
        return [(name + ".weight", "F16", [outs, ins], "small")]
    codes = [ins // 8, outs] if method == "gptq" else [ins, outs // 8]
    # GPTQ stores zero points less one: 7s are 8s.
    return [(name + ".qweight", "I32", codes, "random"), (name + ".scales", "F16", [ins // GROUP, outs], "one"),
            (name + ".qzeros", "I32", [ins // GROUP, outs // 8], "sevens")]


def tensors(method, layers):
    yield from projection("model.embed_tokens", "f16", VOCAB, HIDDEN)
    yield from projection("lm_head", "f16", VOCAB, HIDDEN)
    yield "model.norm.weight", "F16", [HIDDEN], "one"
    kv = HIDDEN // HEADS * KV_HEADS
    for layer in range(layers):
        p = f"model.layers.{layer}."
        for norm in "input_layernorm", "post_attention_layernorm":
            yield p + norm + ".weight", "F16", [HIDDEN], "one"
        for name, outs in ("q", HIDDEN), ("k", kv), ("v", kv), ("o", HIDDEN):
            yield from projection(f"{p}self_attn.{name}_proj", method, outs, HIDDEN)
        yield from projection(p + "block_sparse_moe.gate", "f16", EXPERTS, HIDDEN)
        for e in range(EXPERTS):
            for name, outs, ins in ("w1", WIDTH, HIDDEN), ("w2", HIDDEN, WIDTH), ("w3", WIDTH, HIDDEN):
                yield from projection(f"{p}block_sparse_moe.experts.{e}.{name}", method, outs, ins)


def content(what, size):
    if what == "random":
        return os.urandom(size)
    if what == "small":  # +-2^-6 and a little more
        data = bytearray(os.urandom(size))
        data[1::2] = data[1::2].translate(SMALL_F16_HIGH)
        return data
    return {"one": b"\x00\x3c", "sevens": b"\x77\x77"}[what] * (size // 2)


def write_model(folder, method, layers):
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config(method, layers), f)
    made, header, end = list(tensors(method, layers)), {}, 0
    for name, dtype, shape, _ in made:
        begin, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, shape, what in made:
            f.write(content(what, math.prod(shape) * BYTES[dtype]))


def plain_read(path):
    """Bytes per second."""
    buffer, size, start = bytearray(CHUNK), 0, time.monotonic()
    with open(path, "rb", buffering=0) as f:
        while count := f.readinto(buffer):
            size += count
    return size / (time.monotonic() - start)


def load(program, folder, ids, flags):
    """What the program says of its loading."""
    report = os.path.join(folder, "report.json")
    subprocess.run([program, "eval", "--model", folder, "--ids", ids, "--json", report, *flags], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(report) as f:
        (rank,) = json.load(f)["report"]["ranks"]
    return rank


def measure(program, folder, ids, flags, repeats):
    path = os.path.join(folder, "model.safetensors")
    size, plain, loaded = os.path.getsize(path), 0, 0
    plain_read(path)
    for _ in range(repeats):
        plain = max(plain, plain_read(path))
        rank = load(program, folder, ids, flags)
        loaded = max(loaded, rank["load_bytes"] / rank["load_seconds"])
    return {"file_bytes": size, "bytes_read_of_file": rank["load_bytes"] / size, "plain_gb_per_second": plain / 1e9,
            "load_gb_per_second": loaded / 1e9, "load_of_plain": loaded / plain}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("program")
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--json")
    p.add_argument("--threads", type=int, help="of the rank; as the program says otherwise")
    a = p.parse_args()
    results, flags = {}, ["--threads", str(a.threads)] if a.threads else []
    with tempfile.TemporaryDirectory(prefix="tokenferry-load-") as folder:
        ids = os.path.join(folder, "ids.json")
        with open(ids, "w") as f:
            json.dump({"prompts": [{"input_ids": [3, 4]}]}, f)
        for method in {method for method, _ in LAYOUTS.values()}:
            write_model(os.path.join(folder, method), method, a.layers)
        print(f"{'layout':<10} {'MB':>6} {'read':>6} {'plain GB/s':>11} {'load GB/s':>10} {'of plain':>9}")
        for layout, (method, more) in LAYOUTS.items():
            r = results[layout] = measure(a.program, os.path.join(folder, method), ids, more + flags, a.repeats)
            print(f"{layout:<10} {r['file_bytes'] / 1e6:>6.0f} {r['bytes_read_of_file']:>6.3f} {r['plain_gb_per_second']:>11.2f} "
                  f"{r['load_gb_per_second']:>10.2f} {r['load_of_plain']:>9.2f}", flush=True)
    if a.json:
        with open(a.json, "w") as f:
            json.dump(results, f, indent=1)


if __name__ == "__main__":
    main()
