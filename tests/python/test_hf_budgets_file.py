"""hsattn.json in a model's folder: from_pretrained() reads it as if it were in config.json, and rather than that."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import tiny_model, tokens
from transformers import AutoConfig, AutoModelForCausalLM

import hsattn.hf

KEY = {"window": 16, "top_k": 24, "candidates": 48, "dense_until": 0, "layers": {}}
FILE = {"window": 8, "top_k": 32, "candidates": 64, "dense_until": 0, "layers": {"1": {"top_k": 16}}}


def _options(model, layer):
    return hsattn.hf.options_of(model, layer)


@pytest.fixture
def folder(tmp_path):
    model = tiny_model("llama")
    hsattn.hf.configure(model, **{name: KEY[name] for name in KEY if name != "layers"})
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "hsattn.json").write_text(json.dumps({**FILE, "measured": {"target": 0.01}}))
    return tmp_path / "model"


def _load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="hsattn", **options)


def test_the_file_wins_over_the_config(folder):
    model = _load(folder)
    rest = {"window": 8, "candidates": 64, "dense_until": 0}
    assert _options(model, 0) == {**rest, "top_k": 32}
    assert _options(model, 1) == {**rest, "top_k": 16}
    given = tokens(1, 200)
    by_file = model(given).logits
    configured = tiny_model("llama")
    hsattn.hf.configure(configured, **rest, top_k=32, layers={1: {"top_k": 16}})
    assert torch.equal(by_file, configured(given).logits)
    (folder / "hsattn.json").unlink()
    assert _options(_load(folder), 0) == {name: KEY[name] for name in KEY if name != "layers"}


def test_heads_have_budgets_of_their_own(folder):
    heads = AutoConfig.from_pretrained(folder).num_key_value_heads
    given = tokens(1, 200)
    without = _load(folder)(given).logits
    own = {**FILE, "layers": {"1": {"top_k": 16, "head_top_k": [8 * (1 + head) for head in range(heads)]}}}
    (folder / "hsattn.json").write_text(json.dumps(own))
    assert not torch.equal(_load(folder)(given).logits, without)
    own["layers"]["1"]["head_top_k"] = [16] * heads
    (folder / "hsattn.json").write_text(json.dumps(own))
    assert torch.equal(_load(folder)(given).logits, without)


def test_the_caller_wins_over_the_file_and_a_copy_keeps_it(folder, tmp_path):
    assert AutoConfig.from_pretrained(folder).hsattn == FILE
    model = _load(folder)
    model.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / "hsattn.json").exists()
    assert _options(_load(tmp_path / "copy"), 1) == _options(model, 1)
    hsattn.hf.configure(model)
    assert _options(model, 1) == {}


def test_what_is_not_a_folder_with_the_file_is_as_it_was(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    assert not hasattr(AutoConfig.from_pretrained(tmp_path), "hsattn")
    assert not hasattr(AutoConfig.from_pretrained(tmp_path / "config.json"), "hsattn")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "an object of options, with an object for each of its layers, is right"),
        ('{"layers": {"0": 3}}', "an object of options, with an object for each of its layers, is right"),
        ('{"top_q": 3}', "there is no option 'top_q' to set"),
        ('{"layers": {"0": {"block": 7}}}', "block is 7"),
        ('{"layers": {"9": {"top_k": 64}}}', "layers names '9'; there are 0 to"),
        ('{"layers": {"0": {"head_top_k": [8, 8, 8]}}}', "head_top_k has 3 numbers; there must be one for each"),
        ('{"layers": {"one": {}}}', "layers names 'one'; there are 0 to"),
    ],
)
def test_wrong_files_are_named(folder, text, message):
    (folder / "hsattn.json").write_text(text)
    with pytest.raises(ValueError, match=r"hsattn\.json: ") as error:
        _load(folder)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pattern": "linear"}, RuntimeError, r"elu \+ 1 has none"),  # which models' attention gives
        ({"pooled": None}, TypeError, "no option 'pooled' to set"),
        ({"projections": None}, TypeError, "no option 'projections' to set"),
    ],
)
def test_what_no_layer_could_do_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        hsattn.hf.configure(tiny_model("llama"), **options)
