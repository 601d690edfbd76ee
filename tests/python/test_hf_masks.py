"""What a query sees in a layer, token by token: what transformers' mask allows, for every kind of cache and padding.

With rows of the identity as values, the output of attention is the weights themselves.
"""

import itertools
from types import SimpleNamespace

import pytest
import torch
from tiny_models import WINDOW, padding_mask, tiny_config
from transformers import DynamicCache, StaticCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

import hsattn.hf

KEYS = 96  # also the head dimension, so that the values can be the identity
UNEVEN = (KEYS, KEYS - 37, 9)  # lengths of the rows
CUTS = ((KEYS,), (40, 17, 1, 1, KEYS - 59), (WINDOW, 1, KEYS - WINDOW - 1))  # of a prompt


def _cache(kind, config):
    return {
        "none": lambda: None,
        "dynamic": lambda: DynamicCache(config=config),
        "static": lambda: StaticCache(config=config, max_cache_len=KEYS + 11),
    }[kind]()


def _mask_of(config, attention, cache, first, count, mask, positions=None, create=create_causal_mask):
    """What the layers of a model are given: a bool mask with sdpa."""
    config._attn_implementation = attention
    return create(
        config,
        torch.empty(len(UNEVEN), count, 0),
        None if mask is None else mask[:, : first + count],
        cache,
        positions,
        allow_is_causal_skip=attention == "hsattn",
    )


def _masks(*given):
    """By kind of layer, for hsattn and for sdpa."""
    config, *others = given
    kinds = {"sliding_attention": create_sliding_window_causal_mask, "full_attention": create_causal_mask}
    return [
        {kind: _mask_of(config, attention, *others, create=create) for kind, create in kinds.items()}
        for attention in ("hsattn", "sdpa")
    ]


def _weights(layer, config, keys, count, table, **options):
    """Attention weights [batch, count, keys] of one layer, positive where a query sees a key."""
    module = SimpleNamespace(config=config, layer_idx=layer, is_causal=True)
    query, key = torch.zeros(len(UNEVEN), 1, count, KEYS), torch.zeros(len(UNEVEN), 1, keys, KEYS)
    seen = torch.zeros(len(UNEVEN), count, keys)
    for first in range(0, keys, KEYS):  # more keys than a head has dimensions: some of them at a time
        value = torch.eye(keys)[:, first : first + KEYS]
        value = torch.nn.functional.pad(value, (0, KEYS - value.shape[1])).expand(len(UNEVEN), 1, keys, KEYS)
        o, _ = hsattn.hf.attention_forward(module, query, key, value, table, **options)
        seen[:, :, first : first + KEYS] = o[:, :, 0, : min(KEYS, keys - first)]
    return seen


@pytest.mark.parametrize("padding", ["no", "left", "right"])
@pytest.mark.parametrize(("kind", "cuts"), [("none", (KEYS,)), *itertools.product(("dynamic", "static"), CUTS)])
def test_a_query_sees_what_the_mask_allows(padding, kind, cuts):
    config = tiny_config("gemma3")
    mask = None if padding == "no" else padding_mask(UNEVEN, KEYS, padding)
    cache, first = _cache(kind, config), 0
    for count in cuts:
        ours, theirs = _masks(config, cache, first, count, mask)
        for layer in range(2):  # of 3: one that slides, one that does not
            name = config.layer_types[layer]
            keys = count
            if cache is not None:
                new = torch.zeros(len(UNEVEN), 1, count, KEYS)
                keys = cache.update(new, new, layer)[0].shape[2]
            window = WINDOW if name == "sliding_attention" else None
            seen = _weights(layer, config, keys, count, ours[name], sliding_window=window) > 0
            real = torch.ones(len(UNEVEN), KEYS) if mask is None else mask
            real = real[:, first : first + count].bool()
            assert torch.equal(seen[real], theirs[name].expand(-1, -1, -1, keys)[:, 0][real]), (name, first)
            assert not seen[~real].any(), "a padding query sees nothing"
        if cache is not None:
            cache.update(new, new, 2)
        first += count


@pytest.mark.parametrize("cuts", CUTS)
def test_padding_between_tokens(cuts):
    config = tiny_config("llama")
    mask = padding_mask(UNEVEN, KEYS, "left")
    mask[0, 20:41] = mask[1, -1:] = mask[2, -3:-1] = mask[0, 50] = 0
    first = 0
    for count in cuts:
        past = DynamicCache(config=config)
        if first > 0:
            past.update(torch.zeros(len(UNEVEN), 1, first, KEYS), torch.zeros(len(UNEVEN), 1, first, KEYS), 0)
        ours, theirs = (_mask_of(config, attention, past, first, count, mask) for attention in ("hsattn", "sdpa"))
        seen = _weights(0, config, first + count, count, ours) > 0
        real = mask[:, first : first + count].bool()
        assert torch.equal(seen[real], theirs[:, 0].expand(-1, count, -1)[real])
        assert not seen[~real].any()
        first += count


@pytest.mark.parametrize("lengths", [(30, 1, 65), (5, 30, 61)])
def test_packed_sequences_are_apart(lengths):
    config = tiny_config("gemma3")
    positions = torch.cat([torch.arange(n) for n in lengths])[None].expand(len(UNEVEN), -1)
    ours, theirs = _masks(config, None, 0, KEYS, None, positions)
    for layer, window in ((0, WINDOW), (1, None)):
        name = config.layer_types[layer]
        seen = _weights(layer, config, KEYS, KEYS, ours[name], sliding_window=window) > 0
        assert torch.equal(seen, theirs[name].expand(len(UNEVEN), -1, -1, -1)[:, 0])


def test_packed_sequences_by_offsets():
    offsets = torch.tensor([0, 30, 31, KEYS], dtype=torch.int32)
    seen = _weights(1, tiny_config("gemma3"), KEYS, KEYS, None, cu_seq_lens_q=offsets, cu_seq_lens_k=offsets)[0] > 0
    of = torch.bucketize(torch.arange(KEYS), offsets.long(), right=True)
    assert torch.equal(seen, (of[:, None] == of[None]).tril())


def test_a_mask_of_another_window_is_refused():
    config = tiny_config("gemma3")
    ours, _ = _masks(config, None, 0, KEYS, None)
    for window in (None, WINDOW - 1):
        with pytest.raises(NotImplementedError, match=f"the mask is for a window of {WINDOW}, the layer's"):
            _weights(0, config, KEYS, KEYS, ours["sliding_attention"], sliding_window=window)


def test_mask_functions_of_the_caller_are_refused():
    config = tiny_config("llama")
    config._attn_implementation = "hsattn"
    with pytest.raises(NotImplementedError, match="or_mask_function or and_mask_function was given"):
        create_causal_mask(config, torch.empty(1, 9, 0), None, None, and_mask_function=lambda b, h, q, k: q - k < 3)
    with pytest.raises(NotImplementedError, match="the mask lets tokens see later ones"):
        create_causal_mask(
            config, torch.empty(1, 9, 0), None, None, block_sequence_ids=torch.tensor([[-1, 0, 0, 0, -1, -1, 1, 1, -1]])
        )
