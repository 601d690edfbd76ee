"""What is refused, and in which words: who, what was found, what is right."""

import pytest
import torch
from helpers import SMALL, problem
from torch._subclasses.fake_tensor import FakeTensorMode

import hsattn
from hsattn._ops import ops


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dropout": 0.1}, NotImplementedError, "dropout was given; dropout on attention weights is not supported"),
        ({"dropout_p": 0.1}, NotImplementedError, "dropout_p was given"),
        ({"softcap": 30.0}, NotImplementedError, "softcap was given; soft-capping of scores is not supported"),
        ({"attn_mask": torch.ones(40, 40)}, NotImplementedError, "attn_mask was given"),
        ({"top_q": 3}, TypeError, "unexpected keyword argument 'top_q'"),
        ({"pooling": "sum"}, ValueError, "pooling is 'sum'; it must be one of mean, max"),
        ({"mass": 1.5}, ValueError, "mass is 1.5; it must be 0 (off) or a share of at most 1"),
        ({"mass": 1e-7}, ValueError, "mass is 1e-07; it counts in millionths, and 0 would switch it off"),
        ({"mass": "0.9"}, TypeError, "mass is '0.9'; it must be a float"),
        ({"tail": 1.5}, ValueError, "tail is 1.5; it must be 0 (off) or a share of at most 1"),
        ({"tail": 0.5, "pattern": "bigbird"}, ValueError, "tail was given; pattern 'bigbird' has none"),
        ({"tail": 0.5, "far_field": True}, RuntimeError, "tail is 0.5, and the far field is on"),
        ({"head_top_k": 8}, TypeError, "head_top_k is 8; it must be a list of ints, or None for top_k for all"),
        ({"head_top_k": [8.0]}, TypeError, "head_top_k is [8.0]; it must be a list of ints"),
        ({"head_top_k": []}, TypeError, "head_top_k is []; it must be a list of ints"),
        ({"head_top_k": [8] * 9}, RuntimeError, "head_top_k has 9 numbers; there must be one for each key/value head"),
        ({"head_top_k": [8], "pattern": "bigbird"}, ValueError, "head_top_k was given; pattern 'bigbird' has none"),
        ({"parts": 2.0}, TypeError, "parts is 2.0; it must be an int"),
        ({"parts": 16}, RuntimeError, "parts is 16, node is 8; a part is at least one token"),
        ({"node": 0}, ValueError, "node is 0; it must be an int of at least 1, or None for block"),
        ({"node": 24}, RuntimeError, "node is 24, block is 8; node must be 0 (block) or a power of two"),
        ({"node": 16, "candidates": 512}, RuntimeError, "to keep single blocks of a node takes rescoring"),
        ({"min_top_k": 0}, RuntimeError, "min_top_k is 0; it must be from 1"),
        ({"pattern": "hss"}, ValueError, "pattern is 'hss'; it must be one of full, local, hsa"),
        ({"pattern": "hss"}, ValueError, "bigbird, linear, performer, linformer"),
        ({"sequences": 3}, TypeError, "sequences is 3; it must be a tensor"),
        ({"levels": 7}, ValueError, "levels is 7; it must be 'auto' or from 1 to 6"),
        ({"levels": "all"}, ValueError, "levels is 'all'"),
        ({"window": 1.5}, TypeError, "window is 1.5; it must be an int"),
        ({"top_k": True}, TypeError, "top_k is True; it must be an int"),
        ({"beam": "4"}, TypeError, "beam is '4'; it must be an int, or None"),
        ({"far_field": 1}, TypeError, "far_field is 1; it must be True or False"),
        ({"block": 12}, RuntimeError, "block is 12; it must be a power of two from 1 to 64"),
        ({"top_k": 0}, RuntimeError, "top_k is 0"),
        ({"window": -1}, RuntimeError, "window is -1"),
        ({"stride": 64}, ValueError, "stride was given; pattern 'hsa' has none; leave it out"),
        ({"stride": 0, "pattern": "sparse_transformer"}, ValueError, "stride is 0; it must be an int of at least 1"),
        ({"dilation": 2, "pattern": "bigbird"}, ValueError, "dilation was given; pattern 'bigbird' has none"),
        ({"dilation": 0, "pattern": "longformer"}, RuntimeError, "dilation is 0; it must be from 1 to 2^40"),
        ({"pattern_seed": 2, "pattern": "local"}, ValueError, "pattern_seed was given; pattern 'local' has none"),
        ({"pattern_seed": 1.5, "pattern": "bigbird"}, TypeError, "pattern_seed is 1.5; it must be an int"),
        (
            {"far_field": True, "pattern": "longformer"},
            ValueError,
            "far_field was given; pattern 'longformer' has none",
        ),
        ({"mass": 0.9, "pattern": "sparse_transformer"}, ValueError, "mass was given; pattern 'sparse_transformer'"),
        ({"projections": (1, 2)}, ValueError, "projections are linformer's; they were given, pattern is 'hsa'"),
        ({"features": torch.zeros(4, 64)}, ValueError, "features are performer's; they were given"),
        ({"scale": float("nan")}, RuntimeError, "scale is nan; it must be finite"),
    ],
)
def test_options(options, error, message):
    with pytest.raises(error) as caught:
        hsattn.attention(*problem(40), **options)
    assert message in str(caught.value)


def test_a_tail_has_no_gradient():
    q, k, v = problem(200, grad=True)
    with pytest.raises(NotImplementedError, match=r"tail is 0\.5 and a gradient is asked for"):
        hsattn.attention(q, k, v, tail=0.5)
    with torch.no_grad():
        plan = hsattn.make_plan(q, k, tail=0.5)
        assert hsattn.attention(q, k, v, tail=0.5).isfinite().all()
        with pytest.raises(RuntimeError, match=r"attention_forward: the plan has a tail of 0\.5"):
            hsattn.attention(q, k, v, plan=plan)


def test_options_that_ask_for_nothing_pass():
    q, k, v = problem(40)
    o = hsattn.attention(q, k, v, dropout_p=0.0, softcap=None, attn_mask=None)
    assert torch.equal(o, hsattn.attention(q, k, v))


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("k", lambda t: t[..., :8], RuntimeError, "k has head dimension 8, q has 16; they must be equal"),
        ("k", lambda t: t.double(), RuntimeError, "k is float64, q is float32; they must be equal"),
        ("v", lambda t: t[:, :, :30], RuntimeError, "v has shape [2, 2, 30, 16], k has [2, 2, 40, 16]"),
        ("k", lambda t: t[:1], RuntimeError, "k has batch 1, q has 2"),
        ("q", lambda t: t[0], RuntimeError, "q has shape [2, 40, 16]; it must be [batch, heads, tokens, dim]"),
        ("q", lambda t: t[:, [0, 1, 1]], RuntimeError, "q has 3 heads, k has 2"),
        ("q", lambda t: t.bfloat16(), RuntimeError, "k is float32, q is bfloat16; they must be equal"),
        ("v", lambda t: t.tolist(), TypeError, "v is of type list; it must be a tensor"),
        ("v", lambda t: t.int(), TypeError, "v has type torch.int32; torch.float32, bfloat16, float16 and float64"),
    ],
)
def test_tensors(name, change, error, message):
    tensors = dict(zip("qkv", problem(40, batch=2), strict=True))
    tensors[name] = change(tensors[name])
    with pytest.raises(error) as caught:
        hsattn.attention(**tensors)
    assert message in str(caught.value)


def test_head_dimension():
    with pytest.raises(RuntimeError, match="head dimension 4; it must be from 8 to 256"):
        hsattn.attention(*problem(10, dim=4))


def test_cuda_tensors():
    with FakeTensorMode(allow_non_fake_inputs=True):  # a tensor that says cuda, on machines without it too
        q, k, v = (torch.empty(1, 2, 40, 16, device="cuda:0") for _ in "qkv")
        with pytest.raises(NotImplementedError, match="q is on cuda:0; only CPU tensors are supported"):
            hsattn.attention(q, k, v)
        with pytest.raises(NotImplementedError, match="only CPU tensors"):
            hsattn.make_plan(q, k)


def test_other_types_at_the_op():
    q, k, v = (t.int() for t in problem(40))
    with pytest.raises(RuntimeError, match=r"q has type Int; Float .* and Double .* are supported"):
        ops.attention_forward(q, k, v, None, "full", True, hsattn.Budgets().numbers(), None, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "full"}, "pattern is 'full', the plan was made with 'hsa'; leave it out"),
        ({"causal": False}, "causal is False, the plan was made with True"),
        ({"top_k": 64}, "top_k is 64, the plan was made with 32"),
    ],
)
def test_a_plan_and_other_options(options, message):
    q, k, v = problem(60)
    plan = hsattn.make_plan(q, k, **SMALL)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is checked below
        hsattn.attention(q, k, v, plan=plan, **options)
    assert message in str(caught.value)


def test_a_plan_of_other_sizes():
    q, k, v = problem(60)
    plan = hsattn.make_plan(q[:, :, :50], k[:, :, :50], **SMALL)
    with pytest.raises(ValueError, match="the plan is for batch, heads, kv_heads, queries, keys"):
        hsattn.attention(q, k, v, plan=plan)


@pytest.mark.parametrize("block", [-2, 7, 1000])
def test_a_damaged_plan(block):
    q, k, v = problem(60)
    plan = hsattn.make_plan(q, k, **SMALL)
    plan.kept[0, 0, 59, 0] = block
    with pytest.raises(RuntimeError, match="plan: query 59 "):
        hsattn.attention(q, k, v, plan=plan)
    with pytest.raises(RuntimeError, match="plan: query 59 "):
        plan.check()


@pytest.mark.parametrize("change", [lambda p: p.long(), lambda p: p[..., :3], lambda p: p[:, :, :, None]])
def test_lists_of_the_wrong_form_at_the_op(change):
    q, k, v = problem(60)
    options = ("hsa", True, hsattn.Budgets(**SMALL).numbers(), None)
    plan = change(ops.make_plan(q, k, *options))
    with pytest.raises(RuntimeError, match="attention_forward: the plan's lists have"):
        ops.attention_forward(q, k, v, plan, *options, False)
