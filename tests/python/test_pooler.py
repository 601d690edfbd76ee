"""Poolers with parameters, and attention over the nodes that they make."""

import pytest
import torch
from helpers import SMALL, problem
from torch.autograd import gradcheck
from torch.nn.functional import layer_norm, scaled_dot_product_attention

import hsattn
from hsattn._ops import ops

POOLINGS = ("attention", "attention_paper", "learnable")
FAR = {**SMALL, "far_field": True}
TINY = {**FAR, "window": 2, "block": 2, "top_k": 4, "candidates": 8, "sinks": 2, "top_nodes": 2, "beam": 2}


def noisy_pooler(pooling, dim, *, block=8, dtype=torch.float32, deviation=0.3):
    pooler = hsattn.Pooler(pooling, dim, block=block, dtype=dtype)
    noise = torch.randn(pooler.weight.shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    with torch.no_grad():
        pooler.weight += deviation * noise / (dim**0.5 if pooling == "attention_paper" else 1)
    return pooler


def by_keys(k, v, weight):
    """The node over all of k and v."""
    share = (k @ weight[0]).softmax(-1)
    return (share[..., None] * k).sum(-2), (share[..., None] * v).sum(-2)


def by_positions(k, v, weight):
    logits = weight.view(2, 2, -1)  # position, key or value, channel
    nodes = []
    for side, x in enumerate((k, v)):
        while x.shape[-2] > 1:
            pairs = x.unflatten(-2, (-1, 2))
            x = (pairs * logits[:, side].softmax(0)).sum(-2)
        nodes.append(x[..., 0, :])
    return nodes


def as_paper(x, weight):
    """The node of the children x [..., count, dim]."""
    dim = x.shape[-1]
    wq, wk, wv, wo = weight[: 4 * dim].view(4, dim, dim)
    q, k, v = (((x @ w.T).unflatten(-1, (4, dim // 4))).transpose(-2, -3) for w in (wq, wk, wv))
    mixed = scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2) @ wo.T
    return layer_norm(mixed.mean(-2), (dim,), weight[4 * dim], weight[4 * dim + 1])


@pytest.mark.parametrize("block", [1, 2, 8])
def test_nodes_are_what_the_formulas_say(block):
    _, k, v = problem(32, batch=2, heads=3, dim=16, dtype=torch.float64)
    nodes = {p: noisy_pooler(p, 16, block=block, dtype=torch.float64) for p in POOLINGS}
    found = {p: pooler(k, v) for p, pooler in nodes.items()}
    blocks = 32 // block
    assert found["attention"].k.shape == (2, 3, 2 * blocks - 1, 16)
    first, size = 0, block
    below = {"k": k, "v": v}
    while size <= 32:
        level = slice(first, first + 32 // size)
        groups = [x.unflatten(2, (-1, size)) for x in (k, v)]
        for pooling, formula in (("attention", by_keys), ("learnable", by_positions)):
            right = formula(*groups, nodes[pooling].weight)
            for side, exact in zip(found[pooling], right, strict=True):
                torch.testing.assert_close(side[:, :, level], exact)
        for name, side in zip(("k", "v"), found["attention_paper"], strict=True):
            children = below[name].unflatten(2, (32 // size, -1))
            below[name] = as_paper(children, nodes["attention_paper"].weight)
            torch.testing.assert_close(side[:, :, level], below[name])
        first, size = level.stop, 2 * size


def test_a_ragged_end_counts_the_tokens_that_exist():
    _, k, v = problem(13, dim=8, dtype=torch.float64)
    mean = torch.stack([k[:, :, :8].mean(2), k[:, :, 8:].mean(2), k.mean(2)], 2)
    for pooling in ("attention", "learnable"):
        torch.testing.assert_close(hsattn.Pooler(pooling, 8, dtype=torch.float64)(k, v).k, mean)
    weighted = noisy_pooler("attention", 8, dtype=torch.float64)
    torch.testing.assert_close(weighted(k, v).v[:, :, 2], by_keys(k, v, weighted.weight)[1])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck(pooling, causal):
    q, k, v = problem(14, 17, heads=2, kv_heads=1, dim=8, dtype=torch.float64, grad=True)
    pooler = noisy_pooler(pooling, 8, block=2, dtype=torch.float64)
    plan = hsattn.make_plan(q, k, causal=causal, pooled=pooler(k, v), **TINY)

    def call(q, k, v, weight):
        pooled = hsattn.pool(k, v, weight, pooling=pooling, block=2)
        return hsattn.attention(q, k, v, plan=plan, pooled=pooled, return_lse=True)

    assert gradcheck(call, (q, k, v, pooler.weight), fast_mode=pooling == "attention_paper")


@pytest.mark.parametrize("pooling", ["attention", "learnable"])
def test_starts_as_the_mean(pooling):
    mean, pooled = problem(300, heads=4, kv_heads=2, grad=True), problem(300, heads=4, kv_heads=2, grad=True)
    pooler = hsattn.Pooler(pooling, 16)
    nodes = pooler(*pooled[1:])
    plan = hsattn.make_plan(*mean[:2], **FAR)
    own = hsattn.make_plan(*pooled[:2], pooled=nodes, **FAR)
    assert (plan.kept != own.kept).any(-1).float().mean() < 0.01  # near-ties alone
    right = hsattn.attention(*mean, plan=plan)
    found = hsattn.attention(*pooled, plan=plan, pooled=nodes)
    torch.testing.assert_close(found, right)
    right.sin().sum().backward()
    found.sin().sum().backward()
    torch.testing.assert_close(pooled[2].grad, mean[2].grad, atol=2e-5, rtol=0)
    assert pooler.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize("pooling", POOLINGS)
def test_learns(pooling):
    q, k, v = problem(300, heads=4, kv_heads=2)
    pooler = hsattn.Pooler(pooling, 16)
    plan = hsattn.make_plan(q, k, pooled=pooler(k, v), **FAR)
    optimizer = torch.optim.SGD(pooler.parameters(), lr=0.01)
    target = hsattn.attention(q, k, v, pattern="full")
    losses = []
    for _ in range(8):
        loss = (hsattn.attention(q, k, v, plan=plan, pooled=pooler(k, v)) - target).square().mean() * 100
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types(dtype):
    q, k, v = (t.to(dtype) for t in problem(200, heads=4, kv_heads=2))
    pooler = noisy_pooler("attention", 16)  # float32, whatever the tensors are
    pooled = pooler(k, v)
    assert pooled.k.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    o = hsattn.attention(q, k, v, pooled=pooled, **FAR)
    assert o.dtype == dtype
    o.float().square().sum().backward()
    assert pooler.weight.grad.dtype == torch.float32
    assert pooler.weight.grad.abs().max() > 0


def test_under_autocast():
    q, k, v = problem(200, grad=True)
    pooler = noisy_pooler("learnable", 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o = hsattn.attention(q, k, v, pooled=pooler(k, v), **FAR)
    right = hsattn.attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), pooled=pooler(k.bfloat16(), v.bfloat16()), **FAR)
    assert torch.equal(o, right)
    o.float().sum().backward()
    assert k.grad.dtype == torch.float32


def test_a_layer_takes_nodes():
    q, k, v = problem(200)
    pooler = noisy_pooler("attention", 16)
    right = hsattn.attention(q, k, v, pooled=pooler(k, v), **FAR)
    assert torch.equal(hsattn.Attention(**FAR)(q, k, v, pooled=pooler(k, v)), right)
    assert not torch.equal(hsattn.attention(q, k, v, **FAR), right)
    frozen = pooler.requires_grad_(False)(k, v)
    assert torch.equal(hsattn.attention(q, k, v, pooled=frozen, **FAR), right)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_opcheck(pooling):
    q, k, v = problem(70, heads=4, kv_heads=2, grad=True)
    pooler = noisy_pooler(pooling, 16)
    torch.library.opcheck(ops.pool_forward, (k, v, pooler.weight, pooling, 8))
    pooled = [t.detach().requires_grad_() for t in pooler(k, v)]
    arguments = (*pooled, k, v, pooler.weight, pooling, 8)
    torch.library.opcheck(ops.pool_backward, [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments])
    torch.library.opcheck(ops.initial_pooler, (torch.empty(0, 16), pooling))
    sequences = hsattn.packed_sequences(torch.tensor([0, 9, 9, 60]))
    torch.library.opcheck(ops.pool_forward, (k, v, pooler.weight, pooling, 8, sequences))
    nodes = [t.detach() for t in pooler(k, v, sequences=sequences)]
    given = [t.detach() for t in (k, v, pooler.weight)]
    torch.library.opcheck(ops.pool_backward, (*nodes, *given, pooling, 8, sequences))
    options = ("hsa", True, hsattn.Budgets(**{**SMALL, "far_field": 1}).numbers())
    torch.library.opcheck(ops.attention_forward, (q, k, v, None, *options, None, True, None, *pooled))
    o, lse, kept = ops.attention_forward(q.detach(), k.detach(), v.detach(), None, *options, None, True, None, *pooled)
    saved = [t.detach() for t in (o, q, k, v, o, lse, kept)]
    torch.library.opcheck(ops.attention_backward, (*saved, *options, None, None, *(p.detach() for p in pooled)))
    torch.library.opcheck(ops.make_plan, (q.detach(), k.detach(), *options, None, None, pooled[0].detach()))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("pooling", POOLINGS)
def test_compiles_into_one_graph(pooling):
    def loss(q, k, v, weight):
        pooled = hsattn.pool(k * 2, v, weight, pooling=pooling)
        o, lse = hsattn.attention(q, k * 2, v, pooled=pooled, return_lse=True, **FAR)
        return o.square().mean() + lse.mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for length in (90, 130):
        found, right = problem(length, grad=True), problem(length, grad=True)
        weights = [noisy_pooler(pooling, 16).weight for _ in range(2)]
        compiled(*found, weights[0]).backward()
        loss(*right, weights[1]).backward()
        for f, r in zip((*found, weights[0]), (*right, weights[1]), strict=True):
            torch.testing.assert_close(f.grad, r.grad)


def test_meta_tensors_give_shapes():
    k = torch.empty(1, 2, 100, 16, device="meta")
    weight = torch.empty(4, 16, device="meta")
    assert hsattn.pool(k, k, weight, pooling="learnable").v.shape == (1, 2, 13 + 7 + 4 + 2 + 1, 16)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_packed_sequences_are_pooled_and_attended_alone(pooling):
    q, k, v = problem(300, heads=4, kv_heads=2, grad=True)
    pooler = noisy_pooler(pooling, 16)
    sequences = hsattn.packed_sequences(torch.tensor([0, 180, 180, 181, 290]))
    o = hsattn.attention(q, k, v, sequences=sequences, pooled=pooler(k, v, sequences=sequences), **FAR)
    assert not o[:, :, 290:].any()
    dout = torch.randn(o.shape, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad(o, (q, k, v, pooler.weight), dout)
    right = [torch.zeros_like(t) for t in found]
    for begin, end in ((0, 180), (180, 181), (181, 290)):
        part = [t[:, :, begin:end].detach().requires_grad_() for t in (q, k, v)]
        alone = hsattn.attention(*part, pooled=pooler(*part[1:]), **FAR)
        assert torch.equal(o[:, :, begin:end], alone)
        *grads, dweight = torch.autograd.grad(alone, (*part, pooler.weight), dout[:, :, begin:end])
        right[3] += dweight
        for whole, grad in zip(right, grads, strict=False):
            whole[:, :, begin:end] += grad
    for f, r in zip(found[:3], right, strict=False):
        torch.testing.assert_close(f, r, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[3], right[3], atol=1e-5, rtol=1e-5)


def test_padded_rows_are_pooled_alone_and_get_gradients():
    q, k, v = problem(24, batch=2, heads=2, kv_heads=1, dim=8, dtype=torch.float64, grad=True)
    pooler = noisy_pooler("attention", 8, block=2, dtype=torch.float64)
    sequences = hsattn.padded_sequences(torch.arange(24) >= torch.tensor([[0], [9]]))

    def call(q, k, v, weight):
        pooled = hsattn.pool(k, v, weight, pooling="attention", block=2, sequences=sequences)
        return hsattn.attention(q, k, v, pooled=pooled, sequences=sequences, **TINY)

    assert gradcheck(call, (q, k, v, pooler.weight), fast_mode=True)


def test_training_without_the_far_field_is_refused():
    q, k, v = problem(60)
    pooler = hsattn.Pooler("attention", 16)
    with pytest.raises(ValueError, match="through the far field alone, and far_field is False"):
        hsattn.attention(q, k, v, pooled=pooler(k, v), **SMALL)
    with torch.no_grad():
        right = hsattn.attention(q, k, v, pooled=pooler(k, v), **SMALL)
    frozen = pooler.requires_grad_(False)
    assert torch.equal(hsattn.attention(q, k, v, pooled=frozen(k, v), **SMALL), right)
    q.requires_grad_()
    hsattn.attention(q, k, v, pooled=frozen(k, v), **SMALL).sum().backward()
    assert q.grad.abs().max() > 0


def test_refusals():
    q, k, v = problem(60)
    pooled = hsattn.Pooler("attention", 16).requires_grad_(False)(k, v)
    with pytest.raises(ValueError, match=r"pooling 'learnable' has parameters; give pooled=hsattn.Pooler\("):
        hsattn.attention(q, k, v, pooling="learnable")
    with pytest.raises(ValueError, match="leave pooling out"):
        hsattn.attention(q, k, v, pooled=pooled, pooling="max")
    two = hsattn.packed_sequences(torch.tensor([0, 1, 60]))
    with pytest.raises(RuntimeError, match="pooled k has 15 nodes; the sequences of batch element 0 have 16"):
        hsattn.attention(q, k, v, pooled=pooled, sequences=two)
    with pytest.raises(RuntimeError, match=r"sequences 1 and 0 share keys of batch element 0"):
        hsattn.pool(k, v, torch.zeros(1, 16), pooling="attention", sequences=torch.tensor([[0, 0, 9, 0, 9]] * 2))
    with pytest.raises(RuntimeError, match=r"pooled k has shape \[1, 2, 15, 16\], the pyramid of k has"):
        hsattn.attention(q, k, v, pooled=pooled, block=4)
    with pytest.raises(RuntimeError, match="pooled k is float64, the pyramid of k is float32"):
        hsattn.attention(q, k, v, pooled=[t.double() for t in pooled])
    with pytest.raises(ValueError, match="it must be one of attention, attention_paper, learnable"):
        hsattn.Pooler("mean", 16)
    with pytest.raises(RuntimeError, match=r"parameters has shape \[1, 8\] and type Float; for 'attention' and k"):
        hsattn.pool(k, v, torch.zeros(1, 8), pooling="attention")
    with pytest.raises(RuntimeError, match="block is 3; it must be a power of two"):
        hsattn.pool(k, v, torch.zeros(1, 16), pooling="attention", block=3)
    with pytest.raises(NotImplementedError, match="double backward"):
        _double_backward(k)


def _double_backward(k):
    k = k.clone().requires_grad_()
    weight = torch.zeros(1, 16, requires_grad=True)
    loss = hsattn.pool(k, k, weight, pooling="attention").k.square().sum()
    (gradient,) = torch.autograd.grad(loss, k, create_graph=True)
    gradient.sum().backward()
