"""generate() with attn_implementation="hsattn": every row as if it were alone, however it is padded, cached or cut."""

import pytest
import torch
from helpers import SMALL
from tiny_models import FAMILIES, padding_mask, tiny_model, tokens
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, StaticCache

import hsattn.hf

LENGTHS = (150, 83, 31)
NEW = 24


def _model(family="llama", **changes):
    model = tiny_model(family, **changes)
    if family != "mistral sliding":  # which slides in each of its layers
        hsattn.hf.configure(model, **SMALL)
    return model


def _prompts(side="left"):
    mask = padding_mask(LENGTHS, LENGTHS[0], side)
    given = tokens(len(LENGTHS), LENGTHS[0])
    return given * mask, mask  # token 0 as padding


def _generate(model, given, mask=None, **options):
    mask = torch.ones_like(given) if mask is None else mask
    options = {"max_new_tokens": NEW, "do_sample": False, **options}
    if options.pop("pyramid", False):
        options["cache"] = hsattn.hf.Cache(model)
    return model.generate(given, attention_mask=mask, **options)[:, given.shape[1] :]


def _alone(model, **options):
    given, mask = _prompts()
    return torch.cat([_generate(model, given[i : i + 1, mask[i].bool()], **options) for i in range(len(LENGTHS))])


WAYS = {
    "dynamic cache": {},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "chunked prefill": {"prefill_chunk_size": 20},
    "pyramid cache": {"pyramid": True},
    "pyramid cache, chunked prefill": {"pyramid": True, "prefill_chunk_size": 20},
    "chunked prefill, static cache": {"prefill_chunk_size": 20, "cache_implementation": "static"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padded_rows_give_the_tokens_that_they_give_alone(family):
    model = _model(family)
    right = _alone(model)
    assert len(right.unique()) > 3, "something is generated"
    for way, options in WAYS.items():
        assert torch.equal(_generate(model, *_prompts(), **options), right), way


def test_so_they_do_with_pairs_of_tokens_and_a_tail():
    model = tiny_model("llama")
    hsattn.hf.configure(model, **{**SMALL, **hsattn.preset("pretrained"), "dense_until": 0})
    right = _alone(model)
    assert not torch.equal(right, _alone(_model())), "which is another function"
    for way, options in WAYS.items():
        assert torch.equal(_generate(model, *_prompts(), **options), right), way


def test_beams():
    model = _model()
    beams = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0}
    right = _alone(model, **beams)
    assert not torch.equal(right[::2], _alone(model))
    assert torch.equal(_generate(model, *_prompts(), **beams), right)
    assert torch.equal(_generate(model, *_prompts(), **beams, pyramid=True), right)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("way", ["prompt lookup", "assisted"])
@pytest.mark.parametrize("pyramid", [False, True])
def test_guessed_tokens_that_are_taken_back_leave_nothing_behind(family, way, pyramid):
    model, given = _model(family), tokens(1, 40).repeat(1, 4)
    options = {"prompt_lookup_num_tokens": 5}
    if way == "assisted":
        options = {"assistant_model": _model(family, seed=3)}
    crops, crop = [], DynamicCache.crop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DynamicCache, "crop", lambda cache, count: crops.append(count) or crop(cache, count))
        found = _generate(model, given, **options, pyramid=pyramid)
    assert any(crops), "no guess was wrong: the test shows nothing"
    assert torch.equal(found, _generate(model, given))


def test_chunks_of_any_cut_give_the_logits_of_the_whole():
    model, given = _model(), tokens(2, 200)
    mask = padding_mask((200, 131), 200, "left")
    with torch.no_grad():
        whole = model(given, attention_mask=mask).logits
        for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=222)):
            parts, first = [], 0
            for count in (1, 63, 1, 1, 80, 54):
                part = {"input_ids": given[:, first : first + count], "attention_mask": mask[:, : first + count]}
                positions = (mask.cumsum(1) - 1).clamp(min=0)[:, first : first + count]
                parts.append(model(**part, position_ids=positions, cache=cache).logits)
                first += count
            found = torch.cat(parts, dim=1)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            whole = model(given, attention_mask=mask, position_ids=positions).logits
            torch.testing.assert_close(found[mask.bool()], whole[mask.bool()], atol=1e-4, rtol=0)


def test_on_a_pyramid_cache_any_cut_gives_the_logits_of_the_whole():
    model, given = _model(), tokens(2, 200)
    mask = padding_mask((200, 131), 200, "left")
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, parts, first = hsattn.hf.Cache(model), [], 0
    with torch.no_grad():
        for count in (1, 63, 1, 1, 80, 54):
            end = first + count
            part = {"input_ids": given[:, first:end], "position_ids": positions[:, first:end]}
            parts.append(model(**part, attention_mask=mask[:, :end], cache=cache).logits)
            first = end
        whole = model(given, attention_mask=mask, position_ids=positions).logits
    assert cache.get_seq_length() == 200
    assert cache.nbytes > 0
    torch.testing.assert_close(torch.cat(parts, dim=1)[mask.bool()], whole[mask.bool()], atol=1e-4, rtol=0)


def test_a_pyramid_cache_refuses_what_it_cannot_keep():
    model, given = _model(), tokens(2, 40)
    with pytest.raises(ValueError, match="the model's attention is 'sdpa'; load it with attn_implementation='hsattn'"):
        hsattn.hf.Cache(tiny_model(attention="sdpa"))
    mask = padding_mask((40, 30), 40, "right")
    with torch.no_grad(), pytest.raises(NotImplementedError, match="pad with padding_side='left'"):
        model(given, attention_mask=mask, cache=hsattn.hf.Cache(model))
    positions = torch.arange(20).repeat(2)[None]
    with torch.no_grad(), pytest.raises(NotImplementedError, match="packed sequences; give them without this cache"):
        model(given[:1], position_ids=positions, cache=hsattn.hf.Cache(model))
    with pytest.raises(NotImplementedError, match="requires a gradient"):
        model(given, cache=hsattn.hf.Cache(model))


@pytest.mark.parametrize("use_cache", [True, False])
def test_packed_and_right_padded_rows_give_the_logits_that_they_give_alone(use_cache):
    model, (given, mask) = _model(), _prompts("right")
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    with torch.no_grad():
        packed = model(given[mask.bool()][None], position_ids=positions, use_cache=use_cache).logits
        padded = model(given, attention_mask=mask, use_cache=use_cache).logits
        alone = [model(given[i : i + 1, :n]).logits for i, n in enumerate(LENGTHS)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-4, rtol=0)
    torch.testing.assert_close(padded[mask.bool()][None], torch.cat(alone, dim=1), atol=1e-4, rtol=0)


def test_rows_with_padding_between_their_tokens_give_the_logits_that_they_give_alone():
    model, given = _model(), tokens(2, 150)
    mask = padding_mask((150, 83), 150, "left")
    mask[0, 60:70] = mask[1, 100:101] = mask[1, 120:] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        found = model(given, attention_mask=mask, position_ids=positions).logits
        alone = [model(given[i : i + 1, mask[i].bool()]).logits[0] for i in range(2)]
    torch.testing.assert_close(found[mask.bool()], torch.cat(alone), atol=1e-4, rtol=0)


def test_without_the_mask_function_rows_differ():
    """The power of the tests above: the same attention, blind to masks."""
    AttentionInterface.register("hsattn_blind", hsattn.hf.attention_forward)
    AttentionMaskInterface.register("hsattn_blind", lambda *_, **__: None)
    model = _model()
    right = _alone(model)
    model.set_attn_implementation("hsattn_blind")
    assert torch.equal(_alone(model), right), "a row without padding needs no mask"
    for way in ("dynamic cache", "static cache"):
        assert not torch.equal(_generate(model, *_prompts(), **WAYS[way]), right), way
    given = tokens(1, LENGTHS[0])
    assert not torch.equal(_generate(model, given, **WAYS["static cache"]), _generate(model, given))


@torch.no_grad()
def test_a_crop_beyond_the_start_leaves_an_empty_cache():
    model, given = _model(), tokens(1, 20)
    cache = hsattn.hf.Cache(model)
    right = model(given, past_key_values=cache).logits
    cache.crop(-25)
    assert cache.get_seq_length() == 0
    assert torch.equal(model(given, past_key_values=cache).logits, right)
