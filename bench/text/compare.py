#!/usr/bin/env python3
"""compare.py PROGRAM [--json F]: how fast texts become tokens, beside huggingface/tokenizers in the same run.

    pip install tokenizers==0.23.3 && taskset -c 0 python3 bench/text/compare.py build/cpu/tokenizer_bench --json F

Two vocabularies of 32,000 tokens are trained on Python's library (the text is what is on the machine): byte-level with Qwen's
expression and NFC, and SentencePiece-style with byte fallback, as Mixtral's. A megabyte of other files of it is encoded, by
both in turns, on one thread. The ids must be the same. A figure is 10^6 bytes of text over the median time that the thread ran.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizers  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+")
VOCAB, TEXT_BYTES, ROUNDS = 32000, 1_000_000, 5


def texts():
    """Files of Python's library: those to train on, and a megabyte of others."""
    train, test = [], b""
    for i, path in enumerate(sorted(pathlib.Path(os.__file__).parent.rglob("*.py"))):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if i % 8 == 0 and len(test) < TEXT_BYTES:
            test += text.encode()
        elif sum(map(len, train)) < 8_000_000:
            train.append(text)
    return train, test[:TEXT_BYTES].decode(errors="ignore")


def byte_level(train):
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN), "isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(train, trainers.BpeTrainer(
        vocab_size=VOCAB, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tok


def sentencepiece_style(train):
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=True)
    tok.train_from_iterator(train, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)],
        limit_alphabet=1000, show_progress=False))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False)
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    return tok


def measure(program, tok, text, folder):
    tok.save(f"{folder}/tokenizer.json")
    pathlib.Path(f"{folder}/text").write_bytes(text.encode())
    ours, decode, theirs = [], [], []
    for _ in range(ROUNDS):
        done = subprocess.run([program, folder, f"{folder}/text", "1", f"{folder}/ids"], check=True, capture_output=True)
        result = json.loads(done.stdout)
        ours += result["encode_seconds"]
        decode += result["decode_seconds"]
        start = time.thread_time()
        ids = tok.encode(text, add_special_tokens=False).ids
        theirs.append(time.thread_time() - start)
        mine = [int(i) for i in pathlib.Path(f"{folder}/ids").read_text().split()]
        assert mine == ids, "the ids differ"

    def speed(seconds):
        return round(result["bytes"] / statistics.median(seconds) / 1e6, 2)
    return {"tokens": result["tokens"], "encode_MBps": speed(ours), "tokenizers_encode_MBps": speed(theirs),
            "ratio": round(statistics.median(theirs) / statistics.median(ours), 1), "decode_MBps": speed(decode)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--json")
    args = parser.parse_args()
    train, text = texts()
    results = {}
    print(f"{'kind':20s} {'MB/s':>8s} {'tokenizers':>11s} {'ratio':>6s} {'decode MB/s':>12s}")
    for name, build in {"byte-level": byte_level, "sentencepiece-style": sentencepiece_style}.items():
        with tempfile.TemporaryDirectory() as folder:
            got = results[name] = measure(args.program, build(train), text, folder)
        print(f"{name:20s} {got['encode_MBps']:8.2f} {got['tokenizers_encode_MBps']:11.2f} {got['ratio']:6.1f} {got['decode_MBps']:12.2f}")
    if args.json:
        machine = {"cpu": next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), ""),
                   "system": platform.platform(), "load": os.getloadavg()}
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump({"what": "bench/text/compare.py", "date": datetime.date.today().isoformat(), "machine": machine,
                       "tokenizers": tokenizers.__version__, "vocabulary": VOCAB, "bytes": len(text.encode()), "rounds": ROUNDS,
                       "results": results}, out, indent=1)
            out.write("\n")


if __name__ == "__main__":
    main()
