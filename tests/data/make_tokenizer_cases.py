#!/usr/bin/env python3
"""Makes tests/data/tokenizers/*.json: small tokenizers and what huggingface/tokenizers makes of texts with them.

Needs `pip install tokenizers tiktoken sentencepiece` (made with 0.23.3, 0.14.0, 0.2.3). Run from anywhere; the output is the same each time (fixed seeds).
Each file: {"library", "tokenizer": a tokenizer.json, "cases": [{"text", "ids", "ids_text"}], "decode": [{"ids",
"decoded", "decoded_skip"}]}. ids_text: with encode_special_tokens, that is special tokens taken as plain text.
"""
import json
import pathlib
import random

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parent / "tokenizers"

CORPUS = """The quick brown fox jumps over the lazy dog. It's what we'll do; they've 12345 reasons, and I'd say 3.14159!
def main(argv):\n    for x in range(10):\n        print(f"{x:02d}", x ** 2)\n\treturn 0\r\n\r\n
Größe, naïve café, Ελληνικά γράμματα, Русский текст, 日本語のテキスト、한국어 텍스트, 中文字符。 עברית العربية हिन्दी
   spaces    everywhere   \u00a0\u3000 and 👩‍👩‍👧 🎉🎉 emoji ½ ² Ⅷ ٣٤٥ … “quotes” — dashes
HelloWorld XMLHttpRequest snake_case camelCase DON'T I'LL we'Re they'Ve http://example.org/a/b?c=d&e=f#g
"""

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# Assigned since long, so that the Unicode version of either side does not matter.
ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyzABCXYZ", "0123456789", " \t\n\r", "  ", ".,;:!?'\"()[]{}<>|_-+*/\\#$%&@^`~=",
    "'s't're've'm'll'd'S'LLſ", "äöüßéèñçÅå", "a\u0301e\u0308\u0316\u0301o\u0327\u0302", "αβγδЖжщ", "日本語中文一龥ぁんァヶー",
    "한글가\u1100\u1161\u11a8", "עבאل", "हिनदी\u093f\u094d", "½²³¼ⅧⅨ٣४", "\u0085\u00a0\u1680\u180e\u2003\u2028\u3000\u200b\ufeff",
    "👩\u200d👧🎉\U0001F1E9\U0001F1EA", "\u0000\u0001\u001f\u007f", "ǅǈʰʱªº", "\U00010400\U00010428\U0001D400\U00020000",
]


def random_text(rng, snippets):
    parts = []
    for _ in range(rng.randrange(1, 9)):
        if snippets and rng.random() < 0.3:
            parts.append(rng.choice(snippets))
        elif rng.random() < 0.2:
            start = rng.randrange(len(CORPUS) - 20)
            parts.append(CORPUS[start:start + rng.randrange(1, 20)])
        else:
            alphabet = rng.choice(ALPHABETS)
            parts.append("".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 7))))
    return "".join(parts)


def trained(vocab_size):
    """vocab and merges of a byte-level BPE trained on CORPUS."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(CORPUS.splitlines(keepends=True) * 3,
                            trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(tok.to_str())["model"]
    return model["vocab"], model["merges"]


def regex(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def string(text, behavior, invert=False):
    return {"type": "Split", "pattern": {"String": text}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, use_regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def sequence(*members):
    return {"type": "Sequence", "pretokenizers": list(members)}


def added(content, special=True, normalized=False, single_word=False, lstrip=False, rstrip=False):
    return {"content": content, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip,
            "normalized": normalized, "special": special}


def make(pre_tokenizer, added_tokens=(), normalizer=None, vocab_size=330, string_merges=False, drop=(), extra=(), **model):
    vocab, merges = trained(vocab_size)
    for token in drop:
        del vocab[token]
    merges = [m for m in merges if all(t in vocab for t in (*m, "".join(m)))]
    vocab = {token: i for i, token in enumerate(sorted(vocab, key=vocab.get))}
    for token in extra:
        vocab[token] = len(vocab)
    if "unk_token" in model:
        vocab[model["unk_token"]] = len(vocab)
    tokens = [{"id": len(vocab) + i, **token} for i, token in enumerate(added_tokens)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": byte_level(True, True),
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": [" ".join(m) for m in merges] if string_merges else merges, **model},
    }


def ignore_merges():
    """Tokens that no merge makes, which only a whole piece can become."""
    japanese = "".join(byte_characters()[b] for b in "日本".encode())
    return make(sequence(regex(O200K), byte_level()), [added("<|bos|>"), added("<|eos|>")], ignore_merges=True,
                extra=["Ġunreachable", "xyzzy", "ĠHelloWorld", japanese])


def byte_characters():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]


STRIP_TOKENS = [
    added("<l>", lstrip=True), added("<r>", rstrip=True), added("<lr>", lstrip=True, rstrip=True),
    added("<w>", single_word=True), added("word", special=False, single_word=True), added("<lrx>"),
    added("  ", special=False), added("lower", special=False, normalized=True, lstrip=True), added("<w>x", special=False),
]

TOKENIZERS = {
    "qwen_nfc": lambda: make(
        sequence(regex(QWEN), byte_level()),
        [added("<|endoftext|>"), added("<|im_start|>"), added("<tool>", special=False),
         added("caf\u00e9", special=False, normalized=True), added("e\u0301a", special=False, normalized=True),
         added("o\u0302", special=False)],
        normalizer={"type": "NFC"}),
    "gpt2": lambda: make(byte_level(prefix=True, use_regex=True), [added("<|endoftext|>")], string_merges=True),
    "digits": lambda: make(sequence({"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)),
                           normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
    "digit_runs": lambda: make(sequence({"type": "Digits", "individual_digits": False}, byte_level(prefix=True))),
    "ignore_merges": ignore_merges,
    "added_strip": lambda: make(byte_level(use_regex=True), STRIP_TOKENS),
    "unk": lambda: make(sequence(regex(QWEN), byte_level()), drop=["x", "Ġ", "Ã", "e"], unk_token="<unk>"),
    "unk_fused": lambda: make(sequence(regex(QWEN), byte_level()), drop=["x", "Ġ", "Ã", "e"], unk_token="<unk>",
                              fuse_unk=True),
    "no_unk": lambda: make(sequence(regex(QWEN), byte_level()), drop=["x", "Ġ", "Ã", "e"]),
    "deepseek_v2_like": lambda: make(sequence(
        regex(r"[\r\n]"), regex(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺͰ-ͳΑ-Ωα-ωА-я]+"),
        regex(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), regex(r"\s+$"), regex("[一-龥ࠀ-一가-\ud7ff]+"),
        {"type": "Digits", "individual_digits": True}, byte_level())),
}
for _name, _step in {
        "removed": regex(r"[aeiou]+|\s", "Removed"), "merged_previous": regex(r"[,. ]|\p{Lu}", "MergedWithPrevious"),
        "merged_next": regex(r"[,. ]|\p{Lu}", "MergedWithNext"), "contiguous": regex(r"[a-c]|\d", "Contiguous"),
        "inverted": regex(r"\p{L}+|\d", "Removed", invert=True), "string": string("a.", "MergedWithPrevious"),
        "string_space": string(" ", "MergedWithNext"), "empty_matches": regex(r"x*|^|$", "Isolated"),
        "inverted_next": regex(r"\S+", "MergedWithNext", invert=True)}.items():
    TOKENIZERS["split_" + _name] = lambda step=_step: make(sequence(step, byte_level()), vocab_size=300)


PLAIN_POST = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                                     {"SpecialToken": {"id": "</s>", "type_id": 0}}],
              "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
              "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                                 "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}}
FALLBACK_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def metaspace(scheme="always", split=True):
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}


def plain(pre_tokenizer=None, normalizer=None, decoder=FALLBACK_DECODER, added_tokens=(), unigram=False, train_mark=True, **model):
    """A vocabulary of characters and their merges, or of a unigram model, with <unk>, <s>, </s> and 256 byte tokens."""
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    text = CORPUS.splitlines() * 3
    tok = Tokenizer(models.Unigram() if unigram else models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if train_mark:
        tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    else:
        text = [line.replace(" ", "\u2581") for line in text]
    if unigram:
        trainer = trainers.UnigramTrainer(vocab_size=420, special_tokens=specials, unk_token="<unk>", show_progress=False)
    else:
        trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=specials, limit_alphabet=80, show_progress=False)
    tok.train_from_iterator(text, trainer)
    spec = json.loads(tok.to_str())
    spec["added_tokens"] = [{"id": i, **added(content)} for i, content in enumerate(specials[:3])]
    size = len(spec["model"]["vocab"])
    spec["added_tokens"] += [{"id": size + i, **token} for i, token in enumerate(added_tokens)]
    spec["model"].update(model)
    return {**spec, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": PLAIN_POST, "decoder": decoder}


def normalizers(*members):
    return {"type": "Sequence", "normalizers": list(members)}


TOKENIZERS.update({
    "metaspace_always": lambda: plain(metaspace(), added_tokens=[added("<sep>"), added("a b", special=False, normalized=True)]),
    "metaspace_first": lambda: plain(metaspace("first", False), added_tokens=[added("<sep>", lstrip=True, rstrip=True)]),
    "metaspace_never": lambda: plain(metaspace("never", True), decoder=metaspace("never")),
    "metaspace_old": lambda: plain({"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True},
                                   decoder={"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True}),
    "prepend_replace": lambda: plain(None, normalizers({"type": "Prepend", "prepend": "\u2581"},
                                                       {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}),
                                     added_tokens=[added("<sep>"), added("<r>", rstrip=True)]),
    "across_words": lambda: plain(metaspace("first", False), train_mark=False, added_tokens=[added("<sep>")]),
    "plain_ignore_merges": lambda: plain(metaspace("always", True), ignore_merges=True),
    "plain_unk": lambda: plain(metaspace("always", False), byte_fallback=False, fuse_unk=False),
    "plain_unk_fused": lambda: plain(metaspace("always", False), byte_fallback=False, fuse_unk=True),
    "nfkc_lower": lambda: plain(sequence({"type": "WhitespaceSplit"}, metaspace("always", False)),
                                normalizers({"type": "NFKC"}, {"type": "Lowercase"}), added_tokens=[added("Caf\u00e9", special=False, normalized=True)]),
    "nfd_strip": lambda: plain({"type": "Whitespace"}, normalizers({"type": "NFD"}, {"type": "Strip", "strip_left": True, "strip_right": True})),
    "nfkd_replace": lambda: plain(sequence({"type": "Punctuation", "behavior": "Isolated"}, {"type": "CharDelimiterSplit", "delimiter": "a"}),
                                  normalizers({"type": "NFKD"}, {"type": "Replace", "pattern": {"Regex": "[aeiou]+\\s?"}, "content": "_"})),
    "punctuation_merged": lambda: plain({"type": "Punctuation", "behavior": "MergedWithPrevious"}),
    "unigram": lambda: plain(metaspace(), decoder=metaspace(), unigram=True, added_tokens=[added("<sep>")]),
    "unigram_bytes": lambda: plain(metaspace("first", False), unigram=True, byte_fallback=True),
    "byte_level_nfkc": lambda: make(sequence(regex(QWEN), byte_level()), normalizer={"type": "NFKC"}),
})

KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def texts_for(name, snippets, count):
    rng = random.Random(name)
    return ["", " ", "  a", "a  ", "Hello world", "it's I'LL 2024", *CORPUS.splitlines(keepends=True)] + [
        random_text(rng, snippets) for _ in range(count)]


def write_folder(name, config, cases, **files):
    """tests/data/tokenizers/NAME: the model's files, and cases.json {"cases": [{"text", "ids"}]}."""
    folder = OUT / name
    folder.mkdir(exist_ok=True)
    for file, content in {"tokenizer_config.json": json.dumps(config, ensure_ascii=False) + "\n",
                          "cases.json": json.dumps({"cases": cases}, ensure_ascii=False, indent=0) + "\n", **files}.items():
        (folder / file.replace("__", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())


def make_tiktoken():
    """Kimi's file, from merges in tiktoken's order: what tiktoken itself makes of texts."""
    import base64
    import tiktoken
    vocab, merges = trained(420)
    decode = {c: b for b, c in enumerate(byte_characters())}
    tokens = [bytes([b]) for b in range(256)] + [bytes(decode[c] for c in "".join(m)) for m in merges]
    tokens = list(dict.fromkeys(tokens)) + ["\u4e2d\u6587".encode()]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    special = {"[BOS]": len(ranks), "[EOS]": len(ranks) + 1, "<|im_end|>": len(ranks) + 2}
    special.update({f"<|reserved_token_{i}|>": i for i in range(len(ranks) + 3, len(ranks) + 256)})
    encoding = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=special)
    snippets = ["[BOS]", "<|im_end|>", f"<|reserved_token_{len(ranks) + 9}|>", "\u4e2d\u6587", "\u65e5\u672c\u8a9e", "A\u4e2db", "\u3005\u3007"]
    cases = [{"text": text, "ids": encoding.encode(text, allowed_special="all"), "ids_text": encoding.encode(text, disallowed_special=())}
             for text in texts_for("tiktoken", snippets, 60)]
    config = {"added_tokens_decoder": {str(i): {"content": t, "special": True} for t, i in special.items() if "reserved" not in t},
              "bos_token": "[BOS]", "eos_token": "[EOS]", "add_bos_token": False}
    lines = b"".join(base64.b64encode(token) + b" " + str(rank).encode() + b"\n" for token, rank in ranks.items())
    write_folder("tiktoken", config, cases, tiktoken__model=lines)


def make_sentencepiece(kind):
    """tokenizer.model, trained here, and what the library makes of texts."""
    import io
    import sentencepiece
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines() * 3), model_writer=model, model_type=kind, vocab_size=420, byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity" if kind == "bpe" else "nfkc", user_defined_symbols=["<sep>"],
        minloglevel=2)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    def is_clear(text):
        """Not a tie of two ways to cut the text, which versions of the library break differently."""
        if "\u0000" in text or kind == "bpe":
            return "\u0000" not in text
        scores = [sum(processor.get_score(i) for i in ids) for ids in processor.nbest_encode(text, nbest_size=2)]
        return len(scores) < 2 or abs(scores[0] - scores[1]) > 1e-3
    cases = [{"text": text, "ids": processor.encode(text)} for text in texts_for(kind, ["<sep>", "word"], 60) if is_clear(text)]
    config = {"added_tokens_decoder": {"0": {"content": "<unk>", "special": True}, "1": {"content": "<s>", "special": True},
                                       "2": {"content": "</s>", "special": True}}, "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    write_folder("sentencepiece_" + kind, config, cases, tokenizer__model=model.getvalue())


def main():
    OUT.mkdir(exist_ok=True)
    make_tiktoken()
    make_sentencepiece("bpe")
    make_sentencepiece("unigram")
    for name, build in TOKENIZERS.items():
        spec = build()
        tok = Tokenizer.from_str(json.dumps(spec))
        for token in spec["added_tokens"]:
            assert tok.token_to_id(token["content"]) == token["id"], (name, token)
        rng = random.Random(name)
        snippets = [token["content"] for token in spec["added_tokens"]] * 2 + ["word", " word ", "a.b. a", "xx", "xyzzy", " unreachable", "日本"]
        texts = ["", " ", "  a", "a  ", "Hello world", "it's I'LL 2024", *CORPUS.splitlines(keepends=True)]
        texts += [random_text(rng, snippets) for _ in range(28 if spec["added_tokens"] else 18)]
        cases, decode = [], []
        for text in texts:
            tok.encode_special_tokens = False
            ids = tok.encode(text, add_special_tokens=False).ids
            tok.encode_special_tokens = True
            cases.append({"text": text, "ids": ids, "ids_text": tok.encode(text, add_special_tokens=False).ids})
            # The library's unigram model makes special tokens of text whatever it is asked; ours never does.
            if spec["model"]["type"] == "Unigram" and any(t["content"] in text for t in spec["added_tokens"] if t["special"]):
                del cases[-1]["ids_text"]
        size = max(tok.get_vocab().values()) + 1
        for _ in range(8):
            ids = [rng.randrange(size) for _ in range(rng.randrange(1, 12))]
            decode.append({"ids": ids, "decoded": tok.decode(ids, skip_special_tokens=False),
                           "decoded_skip": tok.decode(ids, skip_special_tokens=True)})
        text = json.dumps({"library": "tokenizers " + tokenizers.__version__, "tokenizer": spec, "cases": cases,
                           "decode": decode}, ensure_ascii=False, separators=(",", ":"))
        (OUT / (name + ".json")).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
