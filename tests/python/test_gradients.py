"""Gradients of attention(), with the plan held fixed."""

import pytest
import torch
from helpers import PATTERN_AND_FAR_FIELD, SMALL, problem
from torch.autograd import gradcheck
from torch.nn.functional import scaled_dot_product_attention as sdpa

import hsattn

TINY = {**SMALL, "window": 2, "block": 2, "top_k": 4, "candidates": 8, "sinks": 2, "top_nodes": 2, "beam": 2}


@pytest.mark.parametrize(("pattern", "far_field"), PATTERN_AND_FAR_FIELD)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_gradcheck(pattern, far_field, causal, pooling):
    q, k, v = problem(14, 17, heads=2, kv_heads=1, dim=8, dtype=torch.float64, grad=True)
    plan = hsattn.make_plan(q, k, pattern=pattern, causal=causal, pooling=pooling, **{**TINY, "far_field": far_field})

    def call(q, k, v):
        return hsattn.attention(q, k, v, plan=plan, return_lse=True)

    assert gradcheck(call, (q, k, v), fast_mode=False)


@pytest.mark.parametrize("dim", [8, 64, 256])
def test_gradient_through_lse_alone_and_with_o(dim):
    q, k, v = problem(40, heads=4, kv_heads=2, dim=dim, grad=True)
    o, lse = hsattn.attention(q, k, v, pattern="full", return_lse=True)
    (lse.sin().sum() + o.cos().sum()).backward()
    p = [t.detach().double().requires_grad_() for t in (q, k, v)]
    scores = p[0] @ p[1].repeat_interleave(2, 1).mT / dim**0.5
    scores = scores.masked_fill(torch.ones(40, 40, dtype=torch.bool).triu(1), -torch.inf)
    right = scores.softmax(-1) @ p[2].repeat_interleave(2, 1)
    (scores.logsumexp(-1).sin().sum() + right.cos().sum()).backward()
    for found, exact in zip((q, k, v), p, strict=True):
        torch.testing.assert_close(found.grad.double(), exact.grad, atol=2e-5, rtol=0)


def test_gradient_through_lse_of_a_row_that_sees_nothing():
    q, k, v = problem(8, 4, grad=True)
    _, lse = hsattn.attention(q, k, v, pattern="full", return_lse=True)
    lse.exp().sum().backward()
    assert (q.grad[:, :, :4] == 0).all()
    assert torch.isfinite(q.grad).all()
    assert torch.isfinite(k.grad).all()


@pytest.mark.parametrize("causal", [True, False])
def test_full_equals_sdpa(causal):
    found = problem(200, heads=4, kv_heads=2, dim=32, grad=True)
    right = problem(200, heads=4, kv_heads=2, dim=32, grad=True)
    hsattn.attention(*found, pattern="full", causal=causal).sin().sum().backward()
    sdpa(*right, is_causal=causal, enable_gqa=True).sin().sum().backward()
    for f, r in zip(found, right, strict=True):
        torch.testing.assert_close(f.grad, r.grad, atol=2e-5, rtol=0)


@pytest.mark.parametrize("far_field", [True, False])
def test_a_plan_and_a_search_give_the_same_gradient(far_field):
    options = {**SMALL, "far_field": far_field}
    searched = problem(200, heads=4, kv_heads=2, grad=True)
    planned = problem(200, heads=4, kv_heads=2, grad=True)
    plan = hsattn.make_plan(*planned[:2], **options)
    hsattn.attention(*searched, **options).sin().sum().backward()
    hsattn.attention(*planned, plan=plan).sin().sum().backward()
    for s, p in zip(searched, planned, strict=True):
        assert torch.equal(s.grad, p.grad)


def test_gradients_of_a_past_loss_do_not_reach_later_tokens():
    q, k, v = problem(200, heads=6, kv_heads=2, grad=True)
    hsattn.attention(q, k, v, **SMALL, far_field=True)[:, :, :120].square().sum().backward()
    for t in (q, k, v):
        assert (t.grad[:, :, 120:] == 0).all()
        assert (t.grad[:, :, :120] != 0).any()


def test_an_expanded_gradient():
    found, right = problem(100, grad=True), problem(100, grad=True)
    hsattn.attention(*found, **SMALL).sum().backward()  # its gradient is one number, expanded
    o = hsattn.attention(*right, **SMALL)
    o.backward(torch.ones_like(o))
    assert all(torch.equal(f.grad, r.grad) for f, r in zip(found, right, strict=True))


def test_only_what_needs_a_gradient_gets_one():
    q, k, v = problem(60)
    v.requires_grad_()
    hsattn.attention(q, k, v, **SMALL).sum().backward()
    assert q.grad is None
    assert k.grad is None
    assert v.grad.abs().max() > 0


def test_double_backward_is_refused():
    q, k, v = problem(40, grad=True)
    o = hsattn.attention(q, k, v, **SMALL)
    (dq,) = torch.autograd.grad(o.sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward"):
        dq.sum().backward()


@pytest.mark.parametrize("pattern", ["hsa", "linear"])
def test_derivatives_in_forward_mode_are_refused(pattern):
    q, k, v = problem(40)
    with pytest.raises(NotImplementedError, match="q has a tangent; derivatives in forward mode"):
        torch.func.jvp(lambda q: hsattn.attention(q, k, v, pattern=pattern), (q,), (torch.ones_like(q),))


def test_gradients_of_functions_are_refused():
    q, k, v = problem(40)
    with pytest.raises(NotImplementedError, match=r"torch\.func\.grad and vjp are not supported"):
        torch.func.grad(lambda q: hsattn.attention(q, k, v).sum())(q)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_reach_through_vmap():
    x = torch.randn(3, 1, 2, 40, 16, requires_grad=True)
    w = torch.randn(16, 16, requires_grad=True)

    def loss_of(call):
        return call(lambda x: hsattn.attention(x, x @ w, x, **SMALL)).square().sum()

    one_by_one = torch.autograd.grad(loss_of(lambda attend: torch.stack([attend(part) for part in x])), (x, w))
    at_once = torch.autograd.grad(loss_of(lambda attend: torch.vmap(attend)(x)), (x, w))
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("far_field", [True, False])
def test_the_op_that_compilers_trace_gives_the_bits_of_the_call(far_field, monkeypatch):
    tensors, options = problem(300, grad=True), {**SMALL, "far_field": far_field}

    def solution():
        o, lse = hsattn.attention(*tensors, **options, return_lse=True)
        return o, lse, *torch.autograd.grad(o.sin().sum() + lse.sum(), tensors)

    at_once = solution()
    monkeypatch.setattr("hsattn._ops._traced", lambda: True)
    for found, right in zip(at_once, solution(), strict=True):
        assert torch.equal(found, right)
