"""What is said about the heads of a trained model: `inspect`, `patterns`, `theory`, on tokens and over poolers."""

import gzip
import json
import shutil

import pytest
from built_program import ROOT
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

VOCABULARY = 400
TINY = "--layers 1 --width 32 --heads 2 --context 256 --batch 2 --steps 4 --warmup 1 --threads 1 --eval-windows 2"
BUDGETS = "--window 16 --top-k 32 --candidates 64 --top-nodes 8 --dense-until 0"


def metadata_of(path):
    with safe_open(path, "numpy") as file:
        return file.metadata()


def book():
    return sorted((ROOT / "data" / "train").glob("*.gz"))[0]


@pytest.fixture(scope="module")
def tokenized(hsattn, tmp_path_factory):
    """(run, data) of a model of BPE tokens."""
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("tokenized")
    tokenizer, data, run = folder / "tokenizer.json", folder / "data", folder / "run"
    for words in (
        ("tokenizer", "train", book(), "--vocabulary", VOCABULARY, "--out", tokenizer),
        ("prepare", book(), "--out", data, "--tokenizer", tokenizer, "--fraction", "0.2"),
        ("train", "--data", data, "--run", run, "--attention", "hsa", *TINY.split(), *BUDGETS.split()),
    ):
        done = hsattn(*words)
        assert done.returncode == 0, done.stderr
    return run, data


def patterns(hsattn, run, text, *options):
    words = ["patterns", "--model", run, "--text", text, "--context", 200, "--positions", 8, "--threads", 1, "--json"]
    done = hsattn(*words, *BUDGETS.split(), *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_patterns_reads_models_of_tokens(hsattn, tokenized):
    run, data = tokenized
    found = patterns(hsattn, run, data / "heldout.tokens", "--explore", 2)
    assert found["tokens"] == len(found["text"]) == 200
    assert all(isinstance(token, str) for token in found["text"])
    text = "".join(found["text"])
    assert len(text) > 250, "tokens are longer than bytes"
    assert " ".join(text.split()) in " ".join(gzip.decompress(book().read_bytes()).decode().split())
    assert all(0 < head["mass"] <= 1 for head in found["heads"])
    assert all(len(row["weights"]) == row["position"] + 1 for row in found["rows"])


def test_patterns_marks_the_tokens_in_which_sentences_begin(hsattn, tokenized, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("no end here " * 40)
    heads = patterns(hsattn, tokenized[0], text)["heads"]
    assert all((head["sentence"], head["paragraph"]) == (1, 1) for head in heads), "none is marked"
    text.write_text("An end. Or two!\n\n" * 40)
    heads = patterns(hsattn, tokenized[0], text)["heads"]
    assert any(head["sentence"] != 1 for head in heads)
    assert any(head["paragraph"] != 1 for head in heads)


def test_theory_reads_models_of_tokens(hsattn, tokenized):
    run, data = tokenized
    words = ["theory", "--model", run, "--text", data / "heldout.tokens", "--context", 200, "--cases", 40, "--json"]
    done = hsattn(*words)
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["cases"], json.loads(done.stdout)["exceeded"]) == (40, 0)


def test_theory_says_that_nothing_is_pooled(hsattn, tokenized):
    run, data = tokenized
    words = ["theory", "--model", run, "--text", data / "heldout.tokens", "--context", 20, "--cases", 40]
    done = hsattn(*words)
    assert done.returncode == 2
    assert "nothing is pooled in 20 tokens" in done.stderr


def test_weights_that_are_no_numbers(hsattn, tokenized, tmp_path):
    run, data = tokenized
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    (weights,) = broken.glob("checkpoints/*/model.safetensors")
    tensors = load_file(weights)
    tensors["blocks.0.attention_norm"][3] = float("nan")
    save_file(tensors, weights, metadata_of(weights))
    done = hsattn("patterns", "--model", broken, "--text", data / "heldout.tokens", "--context", 100)
    assert done.returncode == 1
    assert "tensor blocks.0.attention_norm holds values that are not finite; the model is broken" in done.stderr
    assert done.stderr.count("\n") == 1


def test_tokens_of_another_tokenizer_are_refused(hsattn, tokenized, data):
    for command in ("patterns", "theory"):
        done = hsattn(command, "--model", tokenized[0], "--text", data / "heldout.tokens")
        assert done.returncode == 1
        assert "made with another tokenizer than the model" in done.stderr


@pytest.mark.parametrize("per_layer", [False, True])
def test_inspect_shows_a_model_over_its_pooler(hsattn, small, text, tmp_path, per_layer):
    run = tmp_path / "run"
    pooler = [
        "--far-field",
        "--pooling",
        "attention",
        "--learning-rate",
        "3e-2",
        *(["--pooler-per-layer"] if per_layer else []),
    ]
    done = hsattn(*small, "--run", run, "--steps", 20, *pooler)
    assert done.returncode == 0, done.stderr
    words = ["inspect", "--model", run, "--text", text, "--context", 256, "--positions", 20, "--threads", 1, "--json"]

    def heads(*options):
        done = hsattn(*words, "--out", tmp_path / "page.html", *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["heads"]

    own = heads()
    for head in own:
        assert head["near"] + head["blocks"] + sum(head["far"]) == pytest.approx(1)
        assert sum(head["far"]) > 0
    budgets = ["--window", "16", "--top-k", "32", "--top-nodes", "8", "--dense-until", "0"]
    means = heads("--attention", "hsa", *budgets)
    assert [head["far"] for head in own] != [head["far"] for head in means]
    other = hsattn(*words, "--attention", "hsa", "--pooling", "learnable")
    assert other.returncode != 0
    assert "pooling is learnable, whose parameters this model does not have" in other.stderr
