"""Byte-level BPE in C++ against the `tokenizers` package: same tokens, same text, what is refused."""

import gzip
import json
import random
import subprocess
import sys
import unicodedata

import pytest
from built_program import ROOT

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: E402
from tokenizers.trainers import BpeTrainer  # noqa: E402

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
STRINGS = 10_000


def byte_level(prefix_space=False, use_regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=use_regex)


def split(expression):
    return pre_tokenizers.Split(Regex(expression), "isolated")


# name: pre-tokenizer, normalizer, ignore_merges
FAMILIES = {
    "gpt2": (byte_level(), None, False),
    "prefix space": (byte_level(prefix_space=True), None, False),
    "llama3": (pre_tokenizers.Sequence([split(LLAMA3), byte_level(use_regex=False)]), None, True),
    "qwen2": (
        pre_tokenizers.Sequence([split(QWEN2), byte_level(use_regex=False)]),
        normalizers.NFC(),
        False,
    ),
    "smollm2": (pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level()]), None, False),
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_start|>user", "\U0001f600"]
ADDED = [
    AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False),
    AddedToken("café", normalized=True),  # composed by NFC where that is on
    AddedToken("  \n", normalized=True),
]


@pytest.fixture(scope="module")
def books():
    files = sorted((ROOT / "data" / "train").glob("*.gz"))[:3]
    return [gzip.decompress(file.read_bytes()).decode()[:150_000] for file in files]


def make_tokenizer(texts, family, vocabulary=3000):
    """Trained on uncut lines, so that its merges reach across every place where the family cuts: a wrong cut shows."""
    pre_tokenizer, normalizer, ignore_merges = FAMILIES[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level(use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    lines = [line for text in texts for line in text.splitlines(keepends=True)]
    tokenizer.train_from_iterator(
        lines + [s[:200] for s in random_strings(seed=0)] + ["'ſthe", "'Sthe", "'LLthe"] * 500,
        BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    content = json.loads(tokenizer.to_str())
    content["model"]["ignore_merges"] = ignore_merges
    if ignore_merges:  # a token that no merge makes, and one that looks like text but stands for bytes of its own
        content["model"]["vocab"] |= {"Ġunmergeable": vocabulary, "世界": vocabulary + 1}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(ADDED)
    return tokenizer


def random_strings(seed, count=STRINGS):
    """Strings of pieces that cutting, normalizing and merging find hard, and of any code points."""
    rng = random.Random(seed)
    spaces = list(" \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b\ufeff")
    words = [
        "the",
        "The",
        "Unmergeable",
        "unmergeable",
        "'s",
        "'S",
        "'t",
        "'RE",
        "'ve",
        "'ll",
        "'LL",
        "'d",
        "'ſ",
        "'ſthe",
        "'Sthe",
        "'x",
        "'",
        "''",
        "I'm",
        "café",
        "cafe\u0301",
        "世界",
    ]
    marks = [chr(c) for c in (0x300, 0x301, 0x323, 0x327, 0x345, 0x334, 0x5BF, 0x1D165, 0x94D, 0x3099, 0x20E3)]
    letters = list("aceinorszAEIOUйαω")
    hangul = [chr(c) for c in (0x1100, 0x1112, 0x1161, 0x1175, 0x11A7, 0x11A8, 0x11C2, 0xAC00, 0xAC01, 0xD55C)]
    numbers = list("0123456789²½٣Ⅷ〇\U0001d7d8\U00011f55\U00010107")
    signs = list("!?.,;:-_()[]{}<>|\"'`~@#$%^&*+=/\\€£§°\U0001f600\U0001f9d1\u200d\x00\x1b\x7f")
    composed = [c for c in map(chr, range(0xA0, 0x30000)) if unicodedata.decomposition(c)]
    kinds = [spaces, words, marks, hangul, numbers, signs, composed, SPECIAL, [t.content for t in ADDED], None]

    def piece():
        if rng.random() < 0.1:
            return rng.choice(letters) + "".join(rng.choices(marks, k=rng.randrange(1, 5)))
        kind = rng.choice(kinds)
        if kind is not None:
            return rng.choice(kind)
        code = rng.choice((rng.randrange(0x80), rng.randrange(0x3000), rng.randrange(0x110000)))
        return chr(code) if not 0xD800 <= code < 0xE000 else "a"

    out = ["", " ", "\n", "'", "a" * 5000, " " * 5000, "ab" * 3000, "\u0301" * 300, "1" * 1000, "\r\n" * 500]
    for _ in range(count - len(out)):
        repeated = rng.random() < 0.1
        length = rng.choice((1, 2, 3, 8, 30))
        pieces = [piece() for _ in range(rng.randrange(1, length + 1))]
        out.append("".join(p * rng.randrange(1, 20) if repeated else p for p in pieces))
    return out


def encode(hsattn, folder, file, strings):
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": s}) + "\n" for s in strings))
    done = hsattn("tokenizer", "encode", texts, "--tokenizer", file)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_texts_are_those_of_the_tokenizers_package(hsattn, books, tmp_path, family):
    tokenizer = make_tokenizer(books, family)
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    strings = random_strings(seed=len(family))
    strings += [book[:20_000] for book in books]
    ours = encode(hsattn, tmp_path, file, strings)
    theirs = [e.ids for e in tokenizer.encode_batch(strings, add_special_tokens=False)]
    for text, mine, right in zip(strings, ours, theirs, strict=True):
        assert mine == right, repr(text)
    assert len({token for tokens in ours for token in tokens}) > 1400  # the strings reach most of the vocabulary

    rng = random.Random(1)
    size = tokenizer.get_vocab_size()
    lists = [ours, [[rng.randrange(size) for _ in range(50)] for _ in range(500)]]
    for ids in lists:
        tokens = tmp_path / "tokens.txt"
        tokens.write_text("".join(json.dumps(line) + "\n" for line in ids))
        for flag, skip in (("--no-skip-special", False), ("--skip-special", True)):
            command = ["tokenizer", "decode", tokens, "--tokenizer", file, flag]
            text = hsattn(*command, text=False).stdout.decode(errors="replace")
            assert text == tokenizer.decode([t for line in ids for t in line], skip_special_tokens=skip)


def test_a_vocabulary_without_some_bytes_drops_or_replaces_them(hsattn, tmp_path):
    vocabulary = {"a": 0, "b": 1, "ab": 2, "<unk>": 3}
    for unknown in (None, "<unk>"):
        tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b")], unk_token=unknown))
        tokenizer.pre_tokenizer, tokenizer.decoder = byte_level(), decoders.ByteLevel()
        file = tmp_path / "tokenizer.json"
        tokenizer.save(str(file))
        strings = ["ab", "acb", "a b", "xyz", "abab"]
        assert encode(hsattn, tmp_path, file, strings) == [tokenizer.encode(s).ids for s in strings]


def test_the_tables_of_code_points_are_those_of_the_tokenizers_package():
    script = ROOT / "scripts" / "unicode_tables.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    pinned = (ROOT / "requirements-test.txt").read_text()
    if f"tokenizers=={tokenizers.__version__}" not in pinned:
        pytest.skip(f"tokenizers {tokenizers.__version__} is not the one of requirements-test.txt")
    assert done.returncode == 0, done.stderr


def changed(content, path, value):
    *parents, last = path.split(".")
    at = content
    for parent in parents:
        at = at[parent]
    at[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model", None, "no tokenizer.json"),
        ("model.type", "WordPiece", 'the model "WordPiece" is not supported'),
        ("model.type", "Unigram", 'the model "Unigram" is not supported'),
        ("model.dropout", 0.1, "dropout is not supported"),
        ("model.byte_fallback", True, "byte_fallback is not supported"),
        ("model.end_of_word_suffix", "</w>", "end_of_word_suffix is not supported"),
        ("model.vocab", [], '"vocab" is no object'),
        ("model.vocab", {"a": -1}, 'the token "a" has the id -1'),
        ("model.vocab", {"a": 4294967296}, "a number below"),
        ("model.vocab", {"a": 1, "b": 1}, "two tokens have the id 1"),
        ("model.merges", [["a"]], "two tokens are right"),
        ("model.merges", ["a b c"], "two tokens with a space between are right"),
        ("model.merges", [["zz", "b"]], 'merge 0 needs the token "zz"'),
        ("model.merges", 5, '"merges" is no list'),
        ("normalizer", {"type": "NFKC"}, 'the normalizer "NFKC" is not supported'),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}, "Lowercase"),
        ("pre_tokenizer", None, "without ByteLevel is not supported"),
        ("pre_tokenizer", {"type": "Whitespace"}, 'the pre_tokenizer "Whitespace" is not supported'),
        (
            "pre_tokenizer",
            {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": False},
            'the Split "a+" is not known here',
        ),
        ("decoder", None, "a decoder that is not ByteLevel"),
        ("truncation", {"max_length": 5}, "truncation is not supported"),
        (
            "added_tokens",
            [{"id": 7, "content": "a", "special": True}],
            'the added token "a" has the id 7, the vocabulary says',
        ),
        (
            "added_tokens",
            [{"id": 5000, "content": "x y", "single_word": True}],
            "single_word of the added token",
        ),
    ],
)
def test_what_cannot_be_read_is_named(hsattn, tmp_path, path, value, message):
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level(), decoders.ByteLevel()
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(changed(json.loads(tokenizer.to_str()), path, value)))
    done = hsattn("tokenizer", "show", "--tokenizer", file)
    assert done.returncode == 1
    assert str(file) in done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"model": 5}', "[" * 100_000, "\xff"])
def test_a_file_that_is_no_tokenizer_is_named(hsattn, tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_text(content, encoding="latin-1")
    done = hsattn("tokenizer", "show", "--tokenizer", file)
    assert done.returncode == 1
    assert str(file) in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_fingerprint_follows_the_content_and_not_the_layout(hsattn, books, tmp_path):
    file = tmp_path / "tokenizer.json"
    content = json.loads(make_tokenizer(books, "gpt2", vocabulary=300).to_str())

    def fingerprint(value, **layout):
        file.write_text(json.dumps(value, **layout))
        done = hsattn("tokenizer", "show", "--tokenizer", file)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["fingerprint"]

    first = fingerprint(content)
    assert fingerprint(content, indent=2, sort_keys=True) == first
    merges = content["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    assert fingerprint(content) != first


def test_wrong_use_is_named(hsattn, tmp_path):
    text = tmp_path / "a.txt"
    text.write_bytes(b"caf\xe9")
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level(), decoders.ByteLevel()
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    for arguments, code, message in (
        (["tokenizer"], 2, "no action"),
        (["tokenizer", "cut"], 2, "unknown action cut"),
        (["tokenizer", "encode", text], 2, "no --tokenizer"),
        (["tokenizer", "encode", "--tokenizer", file], 2, "no input"),
        (["tokenizer", "encode", text, "--tokenizer", tmp_path / "no.json"], 1, "no.json"),
        (["tokenizer", "encode", text, "--tokenizer", file], 1, "byte 3 is not UTF-8"),
    ):
        done = hsattn(*arguments)
        assert done.returncode == code
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
