"""hsattn.Cache: what it gives is attention() over the whole, bit by bit; refusals; files."""

import copy
import gc
import pickle

import pytest
import torch
from helpers import LISTING, SMALL, problem

import hsattn
from hsattn._ops import ops

PATTERNS = ("full", "local", "hsa", *LISTING)


def options_of(pattern, **more):
    return {"pattern": pattern, **(SMALL if pattern != "full" else {}), **more}


def cut(t, begin, end):
    return t[:, :, begin:end]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_any_cut_equals_the_whole(pattern, dtype):
    options = options_of(pattern)
    q, k, v = problem(300, batch=2, heads=6, kv_heads=2, dtype=dtype)
    right, right_lse = hsattn.attention(q, k, v, return_lse=True, **options)
    for cuts in (range(300), (0, 1, 64, 65, 200, 299), (0,)):
        cache = hsattn.Cache(2, 16, sequences=2, dtype=dtype, page=64, **options)
        for begin, end in zip(cuts, [*cuts[1:], 300], strict=True):
            cache.append(cut(k, begin, end), cut(v, begin, end))
            o, lse = cache.attend(cut(q, begin, end), return_lse=True)
            assert torch.equal(o, cut(right, begin, end))
            assert torch.equal(lse, cut(right_lse.unsqueeze(3), begin, end).squeeze(3))


@pytest.mark.parametrize(
    "more", [{"far_field": True}, {"pooling": "max"}, {"mass": 0.8}, {"levels": 5}, {"head_top_k": [24, 8]}]
)
def test_options_of_hsa(more):
    q, k, v = problem(300, heads=6, kv_heads=2)
    options = options_of("hsa", **more)
    cache = hsattn.Cache(2, 16, **options)
    cache.append(k, v)
    assert torch.equal(cache.attend(q), hsattn.attention(q, k, v, **options))
    other = {**options, "top_k": 16, "candidates": 128, "window": 8}
    found = cache.attend(q[:, :, -5:], top_k=16, candidates=128, window=8)
    assert torch.equal(found, hsattn.attention(q[:, :, -5:], k, v, **other))


def test_crop_fork_reorder_save_load(tmp_path):
    q, k, v = problem(300, heads=2, kv_heads=2)
    options = options_of("hsa", head_top_k=[24, 40])

    def right(tokens):
        tokens = torch.tensor(tokens)
        return hsattn.attention(q[:, :, tokens[-3:]], k[:, :, tokens], v[:, :, tokens], **options)

    def check(cache, *sequences):
        assert cache.lengths == [len(s) for s in sequences]
        for i, tokens in enumerate(sequences):
            assert torch.equal(cache.attend(q[:, :, tokens[-3:]], [i]), right(tokens))

    cache = hsattn.Cache(2, 16, page=64, **options)
    cache.append(k[:, :, :250], v[:, :, :250])
    a = list(range(250))
    assert cache.fork() == 1
    before = cache.nbytes
    b = a[:130] + list(range(260, 300))
    cache.crop(130, sequence=1)
    cache.append(k[:, :, 260:], v[:, :, 260:], sequence=1)
    assert before < cache.nbytes < 2 * before
    check(cache, a, b)
    cache.reorder(torch.tensor([1, 0, 1]))
    cache.crop(140, sequence=2)
    check(cache, b, a, b[:140])
    cache.save(tmp_path / "cache")
    loaded = hsattn.Cache.load(tmp_path / "cache")
    check(loaded, b, a, b[:140])
    for sequence, tokens in enumerate([b, a, b[:140]]):
        for found, given in zip(loaded.tokens(sequence), (k, v), strict=True):
            assert torch.equal(found, given[:, :, tokens])
    loaded.crop(135)
    check(loaded, b[:135], a[:135], b[:135])


def test_any_strides_and_autocast():
    q, k, v = problem(100, heads=2, kv_heads=2)
    as_projected = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    cache = hsattn.Cache(2, 16, **SMALL)
    cache.append(*as_projected[1:])
    assert torch.equal(cache.attend(as_projected[0]), hsattn.attention(q, k, v, **SMALL))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache = hsattn.Cache(2, 16, dtype=torch.bfloat16, **SMALL)
        cache.append(k, v)
        assert torch.equal(cache.attend(q), hsattn.attention(q, k, v, **SMALL))


def test_memory_goes_with_the_object():
    cache = hsattn.Cache(2, 16)
    handle = cache._handle
    assert ops.cache_lengths(handle) == [0]
    del cache
    gc.collect()
    with pytest.raises(RuntimeError, match=f"there is no cache {handle}; it was freed, or never made"):
        ops.cache_lengths(handle)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c, q, k: hsattn.Cache(2, 16, pattern="linear"), NotImplementedError, "attention_step() keeps their"),
        (lambda c, q, k: hsattn.Cache(2, 16, pattern="linformer"), NotImplementedError, "it has no state"),
        (lambda c, q, k: hsattn.Cache(2, 16, dtype=torch.float64), TypeError, "dtype is torch.float64; it must be"),
        (lambda c, q, k: hsattn.Cache(2, 16, top_q=1), TypeError, "unexpected keyword argument 'top_q'"),
        (lambda c, q, k: hsattn.Cache(2, 16, causal=False), TypeError, "unexpected keyword argument 'causal'"),
        (lambda c, q, k: hsattn.Cache(2, 16, page=100), RuntimeError, "page is 100; it must be a power of two"),
        (lambda c, q, k: c.append(k.requires_grad_(), k), NotImplementedError, "k requires a gradient"),
        (lambda c, q, k: c.append(k.bfloat16(), k.bfloat16()), RuntimeError, "k is bfloat16, the cache is float32"),
        (lambda c, q, k: c.attend(q), RuntimeError, "q has 5 tokens, sequence 0 0; append their keys"),
        (lambda c, q, k: c.attend(q, block=16), RuntimeError, "nodes of 16 tokens, the cache's pyramid of 8"),
        (lambda c, q, k: copy.deepcopy(c), TypeError, "it cannot be copied; fork() shares what it holds"),
        (lambda c, q, k: c.crop(3, sequence=0), RuntimeError, "length is 3; it must be from 0 to 0"),
        (lambda c, q, k: hsattn.Cache.load("/no/such/file"), RuntimeError, "cannot read /no/such/file"),
    ],
)
def test_refusals(call, error, message):
    q, k, _ = problem(5, heads=2, kv_heads=2)
    with pytest.raises(error) as caught:
        call(hsattn.Cache(2, 16), q, k)
    assert message in str(caught.value)


def test_inside_a_compiled_function():
    q, k, v = problem(100, heads=2, kv_heads=2)
    cache = hsattn.Cache(2, 16, **SMALL)

    @torch.compile
    def step(q, k, v):
        cache.append(2 * k, v)
        return cache.attend(q) + 1

    with torch.no_grad():
        found = [step(*(cut(t, i, i + 50) for t in (q, k, v))) for i in (0, 50)]
    assert torch.equal(torch.cat(found, 2), hsattn.attention(q, 2 * k, v, **SMALL) + 1)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_copy_is_refused(copied):
    with pytest.raises(TypeError, match=r"it cannot be copied; fork\(\) shares what it holds"):
        copied(hsattn.Cache(2, 16))
