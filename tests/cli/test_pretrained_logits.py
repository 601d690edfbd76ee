"""Pretrained models in C++: the logits of transformers, for every family, rotary variant and form of files."""

import gzip
import json

import pytest
from built_program import ROOT
from tiny_folders import FAMILIES, load, logits_of_program, logits_of_transformers, make_folder, torch

ALLOWED = 1e-3  # of logits of up to about 50 in float32; transformers' own ways of attention differ by a tenth of it
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPES = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    "llama3": {**LLAMA3, "original_max_position_embeddings": 32, "rope_theta": 500000.0},
}


def assert_like(found, right, allowed=ALLOWED):
    assert right.abs().max() > 1
    torch.testing.assert_close(found, right, atol=allowed, rtol=0)


@pytest.mark.parametrize("attention", ["full", "sdpa", "standard"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families(hsattn, tmp_path, family, attention):
    model = make_folder(tmp_path, family)
    found, tokens = logits_of_program(hsattn, tmp_path, tmp_path, "--attention", attention)
    assert_like(found, logits_of_transformers(model, tokens))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_any_cut_of_the_prompt(hsattn, tmp_path, family, chunk):
    model = make_folder(tmp_path, family)
    found, tokens = logits_of_program(hsattn, tmp_path, tmp_path, "--attention", "full", "--chunk", chunk)
    assert_like(found, logits_of_transformers(model, tokens))


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("spelling", ["new", "old"])
def test_rotary_variants(hsattn, tmp_path, rope, spelling):
    def as_older_files(config):
        scaling = dict(config.pop("rope_parameters"))
        config["rope_theta"] = scaling.pop("rope_theta")
        scaling["type" if rope != "llama3" else "rope_type"] = scaling.pop("rope_type")
        return {**config, "rope_scaling": scaling}

    model = make_folder(
        tmp_path,
        "llama",
        rope_parameters=ROPES[rope],
        max_position_embeddings=64,
        config=as_older_files if spelling == "old" else None,
    )
    found, tokens = logits_of_program(hsattn, tmp_path, tmp_path, "--chunk", 50)
    right = logits_of_transformers(model, tokens)
    assert_like(found, right)
    plain = make_folder(tmp_path, "llama", rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    assert (logits_of_transformers(plain, tokens) - right).abs().max() > 0.1, "the variant must change something"


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"head_dim": 24},
        {"tie_word_embeddings": True},
        {"rms_norm_eps": 0.1},
    ],
    ids=str,
)
def test_configurations(hsattn, tmp_path, changes):
    model = make_folder(tmp_path, "llama", **changes)
    found, tokens = logits_of_program(hsattn, tmp_path, tmp_path)
    assert_like(found, logits_of_transformers(model, tokens))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shard_size", [None, "60KB"])
def test_files(hsattn, tmp_path, dtype, shard_size):
    model = make_folder(tmp_path, "qwen2", dtype=getattr(torch, dtype), shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size is not None)
    found, tokens = logits_of_program(hsattn, tmp_path, tmp_path)
    assert_like(found, logits_of_transformers(model, tokens))


def test_weights_of_a_tied_output_may_be_saved_twice(hsattn, tmp_path):
    model = make_folder(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    found, tokens = logits_of_program(hsattn, tmp_path, tmp_path)
    model.lm_head.weight = model.model.embed_tokens.weight
    assert_like(found, logits_of_transformers(model, tokens))


def test_bf16_is_as_near_as_transformers(hsattn, tmp_path):
    model = make_folder(tmp_path, "llama")
    options = ("--precision", "bf16", "--attention", "full")
    probe = hsattn("generate", "--model", tmp_path, "--prompt", "x", "--max-tokens", 1, *options)
    if "has no bf16 instructions" in probe.stderr:
        pytest.skip("this processor has no bf16 instructions")
    found, tokens = logits_of_program(hsattn, tmp_path, tmp_path, *options)
    exact = logits_of_transformers(model, tokens)
    near = logits_of_transformers(load(tmp_path, torch.bfloat16), tokens)
    assert 0 < (found - exact).abs().mean() <= 1.5 * (near - exact).abs().mean()


def test_budgets_of_the_model_are_those_of_python(hsattn, tmp_path):
    hf = pytest.importorskip("hsattn.hf")
    model = make_folder(tmp_path, "llama")
    small = {"window": 8, "top_k": 16, "candidates": 32, "dense_until": 0, "top_nodes": 8}
    model.set_attn_implementation("hsattn")
    hf.configure(model, **small, layers={1: {"top_k": 32}, 2: {"pattern": "full"}})
    model.save_pretrained(tmp_path)
    found, tokens = logits_of_program(hsattn, tmp_path, tmp_path)
    right = logits_of_transformers(model, tokens)
    # Near-ties of the search may fall differently where float32 rounds differently; they are few.
    assert ((found - right).abs().amax(1) < ALLOWED).float().mean() > 0.9
    without, _ = logits_of_program(hsattn, tmp_path, tmp_path, "--no-model-budgets")
    assert (without - right).abs().max() > 0.1
    named, _ = logits_of_program(hsattn, tmp_path, tmp_path, "--top-k", "24")
    hf.configure(model, **{**small, "top_k": 24}, layers={1: {"top_k": 32}, 2: {"pattern": "full"}})
    assert ((named - logits_of_transformers(model, tokens)).abs().amax(1) < ALLOWED).float().mean() > 0.9


def test_a_small_budget_changes_something(hsattn, tmp_path):
    make_folder(tmp_path, "llama")
    small = ["--window", 8, "--top-k", 16, "--candidates", 16, "--dense-until", 0]
    full, _ = logits_of_program(hsattn, tmp_path, tmp_path)
    assert (logits_of_program(hsattn, tmp_path, tmp_path, *small)[0] - full).abs().max() > 0.1


def test_the_real_model(hsattn, tmp_path):
    folder = ROOT / "models" / "smollm2-135m-instruct"
    if not folder.exists():
        pytest.skip("`./run model` makes it")
    text = gzip.decompress(next((ROOT / "data" / "held_out").glob("*.gz")).read_bytes()).decode()[:12000]
    found, tokens = logits_of_program(hsattn, folder, tmp_path, "--attention", "full", length=2048, text=text)
    assert_like(found, logits_of_transformers(load(folder), tokens))
