"""transformers' models with attn_implementation="hsattn": the logits of sdpa where the budget covers the past."""

import pytest
import torch
from helpers import SMALL
from tiny_models import FAMILIES, SLIDING, padding_mask, tiny_model, tokens
from transformers import AutoModelForCausalLM

import hsattn.hf

LENGTH = 200
LIKE_SDPA = 5e-5  # of the largest logit; sdpa's own error against float64 is up to half of it
EVERYTHING = {**SMALL, "top_k": LENGTH, "candidates": LENGTH}  # found by the search, not by being short


def _logits(model, *given, **options):
    with torch.no_grad():
        return model(*given, **options).logits


def _assert_like(found, right):
    torch.testing.assert_close(found, right, atol=LIKE_SDPA * float(right.abs().max()), rtol=0)


def _pair(family, **changes):
    return tiny_model(family, "hsattn", **changes), tiny_model(family, "sdpa", **changes)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_budget_equals_sdpa(family, tmp_path):
    sdpa = tiny_model(family, "sdpa")
    sdpa.save_pretrained(tmp_path)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="hsattn")
    given = tokens(2, LENGTH)
    right = _logits(sdpa, given)
    assert right.abs().max() > 1
    _assert_like(_logits(ours, given), right)
    if family != "mistral sliding":
        hsattn.hf.configure(ours, **EVERYTHING)
        _assert_like(_logits(ours, given), right)
        hsattn.hf.configure(ours, **SMALL)
        assert (_logits(ours, given) - right).abs().max() > 0.01, "a small budget must change something"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_equal_sdpa(family, side):
    ours, sdpa = _pair(family)
    given, mask = tokens(3, LENGTH), padding_mask((LENGTH, 90, 17), LENGTH, side)
    found, right = (_logits(m, given, attention_mask=mask)[mask.bool()] for m in (ours, sdpa))
    _assert_like(found, right)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_equal_sdpa(family):
    ours, sdpa = _pair(family)
    given, positions = tokens(1, LENGTH), torch.cat([torch.arange(n) for n in (61, 1, 138)])[None]
    found, right = (_logits(m, given, position_ids=positions, use_cache=False) for m in (ours, sdpa))
    _assert_like(found, right)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_as_sdpa(dtype):
    exact = tiny_model("llama", "sdpa")
    given = tokens(2, LENGTH)
    right = _logits(exact, given)
    ours, sdpa = (_logits(m.to(dtype), given).float() for m in _pair("llama"))
    assert (ours - right).abs().mean() <= 2 * (sdpa - right).abs().mean()


def test_autocast():
    ours, sdpa = _pair("llama")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, near = _logits(ours, tokens(1, LENGTH)), _logits(sdpa, tokens(1, LENGTH))
    assert found.dtype == near.dtype
    right = _logits(sdpa, tokens(1, LENGTH))
    assert (found - right).abs().mean() <= 2 * (near - right).abs().mean()


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_no_leak(family):
    """Later tokens move no bit of earlier logits; where they do move something, they do."""
    model = tiny_model(family)
    hsattn.hf.configure(model, **SMALL)
    one, other = tokens(1, LENGTH), tokens(1, LENGTH)
    other[:, 150:] = tokens(1, LENGTH - 150, seed=2)
    found, changed = _logits(model, one), _logits(model, other)
    assert torch.equal(found[:, :150], changed[:, :150])
    assert not torch.equal(found[:, 150:], changed[:, 150:])


def test_options_of_single_layers_act_and_are_saved(tmp_path):
    model = tiny_model("llama")
    given = tokens(1, LENGTH)
    dense = _logits(model, given)
    hsattn.hf.configure(model, **SMALL, layers={1: {"top_k": 16, "candidates": 16}})
    assert hsattn.hf.options_of(model, 0) == SMALL
    assert hsattn.hf.options_of(model, 1) == {**SMALL, "top_k": 16, "candidates": 16}
    found = _logits(model, given)
    hsattn.hf.configure(model, **SMALL)
    assert not torch.equal(found, _logits(model, given))
    hsattn.hf.configure(model, **SMALL, layers={layer: {"pattern": "full"} for layer in range(3)})
    _assert_like(_logits(model, given), dense)
    hsattn.hf.configure(model, **SMALL, layers={1: {"top_k": 16, "candidates": 16}})
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="hsattn")
    assert torch.equal(_logits(loaded, given), found)
    hsattn.hf.configure(loaded)
    _assert_like(_logits(loaded, given), dense)


@pytest.mark.parametrize("family", SLIDING)
def test_layers_with_a_window_keep_it(family):
    model = tiny_model(family)
    slides = [hsattn.hf.options_of(model, layer).get("pattern") == "local" for layer in range(3)]
    assert (
        slides
        == {
            "qwen2 sliding": [False, True, True],
            "mistral sliding": [True, True, True],
            "gemma2 uncapped": [True, False, True],
            "gemma3": [True, False, True],
        }[family]
    )
    with pytest.raises(ValueError, match=r"has a sliding window \(24\); it stays"):
        hsattn.hf.configure(model, layers={2: {"top_k": 64}})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"topk": 1}, TypeError, "there is no option 'topk' to set; there are beam, block, candidates"),
        ({"causal": False}, TypeError, "there is no option 'causal' to set"),
        ({"top_k": 0.5}, TypeError, "top_k is 0.5; it must be an int"),
        ({"block": 7}, RuntimeError, "block is 7"),
        ({"layers": {3: {"top_k": 64}}}, ValueError, "layers names layer 3; the model has 0 to 2"),
        ({"layers": {0: {"pattern": "none"}}}, ValueError, "pattern is 'none'"),
        ({"layers": {"last": {"top_k": 64}}}, ValueError, "layers names 'last'; the number of a layer is right"),
    ],
)
def test_options_that_cannot_be(options, error, message):
    model = tiny_model("llama")
    with pytest.raises(error) as caught:
        hsattn.hf.configure(model, **options)
    assert message in str(caught.value)


def test_refused_by_name():
    given = tokens(1, 40)
    with pytest.raises(NotImplementedError, match="softcap was given; soft-capping of scores is not supported"):
        tiny_model("gemma2 uncapped", attn_logit_softcapping=50.0)(given)
    with pytest.raises(NotImplementedError, match=r"dropout is 0\.1; dropout on attention weights is not supported"):
        tiny_model("llama", attention_dropout=0.1).train()(given)
    tiny_model("llama", attention_dropout=0.1)(given)  # no dropout outside of training
    with pytest.raises(NotImplementedError, match="output_attentions was given; returning attention weights"):
        tiny_model("llama")(given, output_attentions=True)
    with pytest.raises(NotImplementedError, match=r"attention_mask has shape \[1, 1, 40, 40\] and type torch.bool"):
        tiny_model("llama")(given, attention_mask=torch.ones(1, 1, 40, 40, dtype=torch.bool).tril())
    encoder = tiny_model("llama")
    encoder.model.layers[0].self_attn.is_causal = False
    with pytest.raises(NotImplementedError, match="LlamaAttention is not causal; only causal self-attention"):
        encoder(given)
    with pytest.raises(NotImplementedError, match="or_mask_function or and_mask_function was given"):
        tiny_model("gemma3", use_bidirectional_attention=True)(given)
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="attention_mask has 3 columns; it must have one for each of the 43 tokens"):
        model(given[:, :3], cache=model(given).cache, attention_mask=torch.ones(1, 3, dtype=torch.int64))
    hole = torch.tensor([[1] * 10 + [0] * 5 + [1] * 25])
    with pytest.raises(
        NotImplementedError, match=r"row 0 of attention_mask has real tokens up to 10 and again from 15"
    ):
        tiny_model("gemma3")(given, attention_mask=hole)
