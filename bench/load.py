#!/usr/bin/env python3
"""How fast weights become memory, beside a plain read of the same files in turns.

    python3 bench/load.py build/cpu/tokenferry [--only copy gptq ..] [--layers 4] [--repeats 3] [--ranks N] [--json F]
    python3 bench/load.py build/cpu/tokenferry --model DIR [--expert-dtype int4] ..

Random checkpoints (hidden 1024, 8 experts of width 2048) in each way that stored bytes become those of memory, or the
model in a folder:

    copy       F16, as it is multiplied (Mixtral)
    transpose  BF16, all experts of a layer in one tensor, inputs by outputs, gate and up in turn (gpt-oss)
    gptq       4 bits in groups of 128: words of codes change rows for columns
    awq        the same codes change their order within words too
    packed     compressed-tensors, 4 bits in groups of 128: a copy, and zero points that are unpacked
    mxfp4      4 bits in groups of 32, rows of gate and up in turn (gpt-oss)
    int8, int4 the F16 file with --expert-dtype

GB/s: 1e9 bytes of the files in a second, the best of the repeats (what disturbs only ever takes longer). The plain read
takes 8 MiB at a time into one buffer, on one thread; the files are in the page cache for both. *of plain*: the first
over the second. *read*: bytes that all ranks read over what they need: every rank all that is no expert's, and each
expert once. *peak*: of one rank, bytes that were resident at most, less those of the program before, over the most that
weights, cache and declared buffers ever took, of an engine for one short prompt.
"""
import argparse
import glob
import json
import math
import os
import struct
import subprocess
import tempfile
import time

from machine import machine

EXPERTS, HEADS, KV_HEADS, VOCAB, GROUP = 8, 8, 4, 512, 128
CHUNK = 8 << 20
LAYOUTS = {"copy": ("f16", []), "transpose": ("fused", []), "gptq": ("gptq", []), "awq": ("awq", []), "packed": ("packed", []),
           "mxfp4": ("mxfp4", []), "int8": ("f16", ["--expert-dtype", "int8"]), "int4": ("f16", ["--expert-dtype", "int4"])}
BYTES = {"F16": 2, "BF16": 2, "I32": 4, "U8": 1}
SMALL_HIGH = {"F16": bytes(0x24 | (c & 0x80) for c in range(256)), "BF16": bytes(0x3C | (c & 0x80) for c in range(256))}


def config(a, method):
    made = {
        "hidden_size": a.hidden, "intermediate_size": 2 * a.hidden, "max_position_embeddings": 4096,
        "num_attention_heads": HEADS, "num_experts_per_tok": 2, "num_hidden_layers": a.layers,
        "num_key_value_heads": KV_HEADS, "num_local_experts": EXPERTS, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
        "tie_word_embeddings": False, "vocab_size": VOCAB, "hidden_act": "silu"}
    if method in ("fused", "mxfp4"):
        made.update(architectures=["GptOssForCausalLM"], model_type="gpt_oss", attention_bias=False, head_dim=a.hidden // HEADS,
                    sliding_window=128, swiglu_limit=7.0, torch_dtype="bfloat16")
    else:
        made.update(architectures=["MixtralForCausalLM"], model_type="mixtral", sliding_window=None, torch_dtype="float16")
    if method == "mxfp4":
        made["quantization_config"] = {"quant_method": method, "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}
    elif method == "packed":
        weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": False, "dynamic": False}
        made["quantization_config"] = {
            "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
            "ignore": ["lm_head", "re:.*block_sparse_moe.gate$"],
            "config_groups": {"group_0": {"input_activations": None, "output_activations": None, "targets": ["Linear"], "weights": weights}}}
    elif method in ("gptq", "awq"):
        made["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": GROUP}
    return made


def projection(name, method, outs, ins):
    """(name, type, shape, what to fill it with) of the tensors of a matrix [outs, ins]."""
    if method in ("f16", "fused", "mxfp4"):
        return [(name + ".weight", "F16" if method == "f16" else "BF16", [outs, ins], "small")]
    if method == "packed":
        return [(name + ".weight_packed", "I32", [outs, ins // 8], "random"), (name + ".weight_scale", "F16", [outs, ins // GROUP], "one"),
                (name + ".weight_zero_point", "I32", [outs // 8, ins // GROUP], "random")]
    codes = [ins // 8, outs] if method == "gptq" else [ins, outs // 8]
    # GPTQ stores zero points less one: 7s are 8s.
    return [(name + ".qweight", "I32", codes, "random"), (name + ".scales", "F16", [ins // GROUP, outs], "one"),
            (name + ".qzeros", "I32", [ins // GROUP, outs // 8], "sevens")]


def fused_experts(name, method, outs, ins):
    """All experts' matrices [outs, ins]."""
    bias = name + "_bias", "BF16", [EXPERTS, outs], "small"
    if method == "fused":
        return [(name, "BF16", [EXPERTS, ins, outs], "small"), bias]
    return [(name + "_blocks", "U8", [EXPERTS, outs, ins // 32, 16], "random"),
            (name + "_scales", "U8", [EXPERTS, outs, ins // 32], "exponents"), bias]


def layer_tensors(a, method, p):
    is_fused, hidden, width = method in ("fused", "mxfp4"), a.hidden, 2 * a.hidden
    plain = "fused" if is_fused else "f16"
    for norm in "input_layernorm", "post_attention_layernorm":
        yield p + norm + ".weight", "BF16" if is_fused else "F16", [hidden], "small" if is_fused else "one"
    for name, outs in ("q", hidden), ("k", hidden // HEADS * KV_HEADS), ("v", hidden // HEADS * KV_HEADS), ("o", hidden):
        yield from projection(f"{p}self_attn.{name}_proj", method, outs, hidden)
    if is_fused:
        yield p + "self_attn.sinks", "BF16", [HEADS], "small"
        yield from projection(p + "mlp.router", plain, EXPERTS, hidden)
        yield p + "mlp.router.bias", "BF16", [EXPERTS], "small"
        yield from fused_experts(p + "mlp.experts.gate_up_proj", method, 2 * width, hidden)
        yield from fused_experts(p + "mlp.experts.down_proj", method, hidden, width)
        return
    yield from projection(p + "block_sparse_moe.gate", plain, EXPERTS, hidden)
    for e in range(EXPERTS):
        for name, outs, ins in ("w1", width, hidden), ("w2", hidden, width), ("w3", width, hidden):
            yield from projection(f"{p}block_sparse_moe.experts.{e}.{name}", method, outs, ins)


def tensors(a, method):
    plain = "fused" if method in ("fused", "mxfp4") else "f16"
    yield from projection("model.embed_tokens", plain, VOCAB, a.hidden)
    yield from projection("lm_head", plain, VOCAB, a.hidden)
    yield "model.norm.weight", "F16" if plain == "f16" else "BF16", [a.hidden], "small"
    for layer in range(a.layers):
        yield from layer_tensors(a, method, f"model.layers.{layer}.")


def content(what, dtype, size):
    if what == "random":
        return os.urandom(size)
    if what == "small":  # about +-2^-6
        data = bytearray(os.urandom(size))
        data[1::2] = data[1::2].translate(SMALL_HIGH[dtype])
        return data
    return {"one": b"\x00\x3c", "sevens": b"\x77\x77", "exponents": b"\x79\x79"}[what] * (size // 2)


def write_model(a, folder, method):
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config(a, method), f)
    made, header, end = list(tensors(a, method)), {}, 0
    for name, dtype, shape, _ in made:
        begin, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, shape, what in made:
            f.write(content(what, dtype, math.prod(shape) * BYTES[dtype]))


def files_of(folder):
    return [p for ext in ("safetensors", "gguf") for p in sorted(glob.glob(os.path.join(folder, "*." + ext)))]


def needed_bytes(files, num_ranks):
    """Of all ranks together; of safetensors."""
    sums = {True: 0, False: 0}
    for path in files:
        with open(path, "rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        for name, tensor in header.items():
            if name != "__metadata__":
                sums[".experts." in name] += tensor["data_offsets"][1] - tensor["data_offsets"][0]
    return sums[True] + num_ranks * sums[False]


def plain_read(files):
    """Bytes per second."""
    buffer, size, start = bytearray(CHUNK), 0, time.monotonic()
    for path in files:
        with open(path, "rb", buffering=0) as f:
            while count := f.readinto(buffer):
                size += count
    return size / (time.monotonic() - start)


def load(program, folder, ids, flags, report):
    """What the ranks say of their loading."""
    subprocess.run([program, "eval", "--model", folder, "--ids", ids, "--json", report, *flags], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(report) as f:
        return json.load(f)["report"]["ranks"]


def measure(a, folder, ids, flags):
    files, report = files_of(folder), ids + ".report"
    size, plain, seconds = sum(os.path.getsize(p) for p in files), 0, math.inf
    plain_read(files)
    for _ in range(a.repeats):
        plain = max(plain, plain_read(files))
        ranks = load(a.program, folder, ids, flags + a.flags, report)
        seconds = min(seconds, max(r["load_seconds"] for r in ranks))
    read = sum(r["load_bytes"] for r in ranks)
    made = {"file_bytes": size, "load_bytes": read, "plain_gb_per_second": plain / 1e9, "load_gb_per_second": read / seconds / 1e9,
            "load_of_plain": read / seconds / plain}
    if all(p.endswith(".safetensors") for p in files):
        made["read_of_needed"] = read / needed_bytes(files, a.ranks)
    if a.ranks == 1:
        made["peak_of_declared"] = (ranks[0]["peak_resident_bytes"] - ranks[0]["base_bytes"]) / ranks[0]["declared_bytes"]
    return made


def show(name, r):
    print(f"{name:<10} {r['file_bytes'] / 1e6:>6.0f} {r.get('read_of_needed', math.nan):>6.3f} {r['plain_gb_per_second']:>11.2f} "
          f"{r['load_gb_per_second']:>10.2f} {r['load_of_plain']:>9.2f} {r.get('peak_of_declared', math.nan):>7.3f}", flush=True)


def parse_args():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("program")
    p.add_argument("--model", help="a folder to load, in place of random checkpoints")
    p.add_argument("--expert-dtype", help="with --model")
    p.add_argument("--only", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), metavar="LAYOUT")
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--hidden", type=int, default=1024, help="a multiple of 256; experts are twice as wide")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--ranks", type=int, default=1, help="as threads of the program")
    p.add_argument("--threads", type=int, help="of a rank; as the program says otherwise")
    p.add_argument("--json")
    a = p.parse_args()
    a.flags = ["--threads", str(a.threads)] if a.threads else []
    a.flags += ["--transport", "local", "--ranks", str(a.ranks)] if a.ranks > 1 else []
    return a


def main():
    a, results = parse_args(), {}
    with tempfile.TemporaryDirectory(prefix="tokenferry-load-") as folder:
        ids = os.path.join(folder, "ids.json")
        with open(ids, "w") as f:
            json.dump({"prompts": [{"input_ids": [3, 4]}]}, f)
        print(f"{'layout':<10} {'MB':>6} {'read':>6} {'plain GB/s':>11} {'load GB/s':>10} {'of plain':>9} {'peak':>7}")
        if a.model:
            results["model"] = measure(a, a.model, ids, ["--expert-dtype", a.expert_dtype] if a.expert_dtype else [])
            show("model", results["model"])
        for layout in [] if a.model else a.only:
            method, flags = LAYOUTS[layout]
            model = os.path.join(folder, method)
            if not os.path.exists(model):
                write_model(a, model, method)
            results[layout] = measure(a, model, ids, flags)
            show(layout, results[layout])
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"machine": machine(), "ranks": a.ranks, "layouts": results}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
