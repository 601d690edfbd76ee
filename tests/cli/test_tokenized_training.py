"""Byte-level BPE from training the tokenizer to the perplexity per word."""

import gzip
import json
import math
import os
import shutil

import pytest
from built_program import ROOT

tokenizers = pytest.importorskip("tokenizers")
VOCABULARY = 600
MODEL = "--layers 1 --width 32 --heads 2 --context 128 --batch 2 --warmup 1 --threads 1 --eval-windows 2"


def books(part):
    return sorted((ROOT / "data" / part).glob("*.gz"))


@pytest.fixture(scope="module")
def tokenizer(hsattn, tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    done = hsattn("tokenizer", "train", *books("train")[:2], "--vocabulary", VOCABULARY, "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"{VOCABULARY} tokens, from 2 documents" in done.stdout
    return out


@pytest.fixture(scope="module")
def prepared(hsattn, tokenizer, tmp_path_factory):
    """Two short articles in a WikiText folder: (folder, text of the validation part)."""
    folder = tmp_path_factory.mktemp("wikitext")
    text = gzip.decompress(books("held_out")[0].read_bytes()).decode()
    lines = [f" {line} \n" for line in text.split("\r\n" if "\r\n" in text else "\n")][:400]
    valid = " \n = First = \n \n" + "".join(lines[:200]) + " \n = Second = \n \n" + "".join(lines[200:])
    (folder / "wiki.train.tokens").write_text(" \n = Book = \n \n" + text[:60_000])
    (folder / "wiki.valid.tokens").write_text(valid)
    (folder / "wiki.test.tokens").write_text(valid[:1000])
    out = folder / "out"
    done = hsattn("prepare", "wikitext103", "--from", folder, "--out", out, "--tokenizer", tokenizer)
    assert done.returncode == 0, done.stderr
    return out, valid


def train(hsattn, data, run, *options):
    return hsattn("train", "--data", data, "--run", run, "--attention", "full", "--steps", 2, *MODEL.split(), *options)


@pytest.fixture(scope="module")
def run(hsattn, prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    done = train(hsattn, prepared[0], folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_trained_tokenizer_is_that_of_the_package(hsattn, tokenizer, tmp_path):
    theirs = tokenizers.Tokenizer.from_file(str(tokenizer))
    assert theirs.get_vocab_size() == VOCABULARY
    assert theirs.token_to_id("<|endoftext|>") == 0
    texts = [gzip.decompress(book.read_bytes()).decode()[:20_000] for book in books("train")]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    ours = hsattn("tokenizer", "encode", file, "--tokenizer", tokenizer).stdout.splitlines()
    assert [json.loads(line) for line in ours] == [theirs.encode(text).ids for text in texts]


@pytest.mark.parametrize("split", ["llama3", "qwen2"])
def test_other_cuts_can_be_trained(hsattn, tmp_path, split):
    out = tmp_path / "tokenizer.json"
    done = hsattn("tokenizer", "train", books("held_out")[0], "--split", split, "--vocabulary", 300, "--out", out)
    assert done.returncode == 0, done.stderr
    cut = tokenizers.Tokenizer.from_file(str(out)).pre_tokenizer.pre_tokenize_str("1234")
    assert len(cut) == (2 if split == "llama3" else 4)


def test_the_model_takes_vocabulary_and_tokenizer_from_the_data(hsattn, run, tokenizer):
    config = json.loads((run / "config.json").read_text())
    shown = json.loads(hsattn("tokenizer", "show", "--tokenizer", tokenizer).stdout)
    assert config["vocabulary"] == shown["vocabulary"] == VOCABULARY
    assert config["tokenizer"] == shown["fingerprint"]
    checkpoint = run / "checkpoints" / "step-00000002"
    assert (checkpoint / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    again = hsattn("train", "--run", run, "--resume")
    assert again.returncode == 0, again.stderr


def test_perplexities_are_one_loss_spread_over_tokens_words_and_bytes(hsattn, run, prepared, tokenizer):
    data, valid = prepared
    done = hsattn("eval", "--model", run, "--data", data, "--context", 64, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    # The tokens that were predicted: all of the windows but the very first one.
    articles = ["".join(part) for part in (valid.partition(" = Second")[0], valid.partition(" = Second")[1:])]
    theirs = tokenizers.Tokenizer.from_file(str(tokenizer))
    tokens = [t for article in articles for t in [*theirs.encode(article).ids, 0]][: result["tokens"] + 1]
    text = theirs.decode(tokens, skip_special_tokens=True)
    first = theirs.decode(tokens[:1])
    assert result["bytes"] == len(text.encode()) - len(first.encode())
    words = len(text.split()) + text.count("\n")
    assert result["words"] == words - (first.strip() != "") - first.count("\n")
    loss = result["eval_loss"] * result["tokens"]
    for unit in ("word", "byte"):
        assert result[f"eval_perplexity_per_{unit}"] == pytest.approx(math.exp(loss / result[f"{unit}s"]))
    assert result["eval_perplexity"] == pytest.approx(math.exp(result["eval_loss"]))
    table = hsattn("eval", "--model", run, "--data", data, "--context", 64).stdout
    for words in ("perplexity per token", "perplexity per word", "perplexity per byte"):
        assert words in table


def test_inspect_cuts_text_as_the_model_was_trained(hsattn, run, tmp_path):
    arguments = [
        "inspect",
        "--model",
        run,
        "--text",
        books("held_out")[0],
        "--context",
        100,
        "--out",
        tmp_path / "a.html",
    ]
    done = hsattn(*arguments, "--positions", 4, "--threads", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] == 100


def test_what_does_not_fit_is_refused(hsattn, run, prepared, data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(prepared[0], other)
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][1:]
    (other / "tokenizer.json").write_text(json.dumps(content))
    for done, message in (
        (hsattn("eval", "--model", run, "--data", data), "was made with bytes, the model with tokenizer"),
        (hsattn("eval", "--model", run, "--data", other), "has the fingerprint"),
        (train(hsattn, prepared[0], tmp_path / "run", "--vocabulary", 100), "a vocabulary of 600, the model knows 100"),
        (hsattn("inspect", "--model", run, "--text", data / "heldout.tokens"), "made with another tokenizer"),
        (hsattn("bench-step", "--text", prepared[0] / "train.tokens", "--lengths", 64), "made with another tokenizer"),
    ):
        assert done.returncode == 1, done.stderr
        assert message in done.stderr.splitlines()[-1]
    os.remove(other / "tokenizer.json")
    done = hsattn("eval", "--model", run, "--data", other)
    assert done.returncode == 1
    assert "tokenizer.json: No such file" in done.stderr


def test_documents_that_are_no_text_are_left_out(hsattn, tokenizer, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "in" / "good.txt").write_bytes(b"good " * 100)
    done = hsattn("prepare", tmp_path / "in", "--out", tmp_path / "out", "--tokenizer", tokenizer)
    assert done.returncode == 0, done.stderr
    assert "bad.txt: byte 3 is not UTF-8; left out" in done.stderr
    assert "1 bad documents were left out" in done.stdout


def test_training_names_what_is_missing(hsattn, tmp_path):
    shadow = tmp_path / "shadow" / "tokenizers"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise ModuleNotFoundError")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "shadow")}
    book, out = books("held_out")[0], ("--out", tmp_path / "tokenizer.json")
    for arguments, code, message in (
        (["tokenizer", "train", book, *out], 1, "-m pip install tokenizers"),
        (["tokenizer", "train", book], 2, "no --out"),
        (["tokenizer", "train", book, *out, "--vocabulary", 256], 2, "257 to 1048576"),
        (["tokenizer", "train", book, *out, "--split", "words"], 2, "gpt2, llama3 or qwen2"),
        (["tokenizer", "train", tmp_path / "absent", *out], 1, "absent"),
        (["tokenizer", "train", book, "--out", tmp_path / "no" / "t.json"], 1, "no/t.json"),
    ):
        done = hsattn(*arguments, env=environment)
        assert done.returncode == code, done.stderr
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "tokenizer.json").exists()
