"""Pattern "linformer": against plain tensor operations, gradients, compilation, refusals; the layer."""

import pytest
import torch
from helpers import problem
from torch.autograd import gradcheck

import hsattn
from hsattn._ops import ops


def projections_of(longest, rank=3, dtype=torch.float32, grad=False):
    generator = torch.Generator().manual_seed(5)
    return tuple(
        (torch.randn(rank, longest, generator=generator, dtype=dtype) / 4).requires_grad_(grad) for _ in range(2)
    )


def plain(q, k, v, projections, segment, causal):
    """o in double, each position's keys and values gathered by tensor operations."""
    q, k, v = q.double(), k.double(), v.double()
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    e, f = (x.double() for x in projections)
    keys, rows = k.shape[2], []
    for i in range(q.shape[2]):
        position = i + keys - q.shape[2]
        own = position // segment * segment if causal else keys
        pieces = [slice(s, s + segment) for s in range(0, own, segment)] if causal else [slice(0, keys)]
        end = position + 1 if causal else own
        seen_k = torch.cat([*(e[:, p] @ k[:, :, p] for p in pieces), k[:, :, own:end]], 2)
        seen_v = torch.cat([*(f[:, p] @ v[:, :, p] for p in pieces), v[:, :, own:end]], 2)
        scores = (seen_k @ q[:, :, i, :, None]).squeeze(-1) / q.shape[3] ** 0.5
        rows.append((scores.softmax(-1).unsqueeze(-2) @ seen_v).squeeze(-2))
    return torch.stack(rows, 2)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_plain_tensor_operations(causal, dtype):
    q, k, v = (x.to(dtype).requires_grad_() for x in problem(50, 70, batch=2, heads=4, kv_heads=2))
    projections = projections_of(80, grad=True)
    o = hsattn.attention(q, k, v, pattern="linformer", causal=causal, projections=projections, segment=16)
    exact = plain(q, k, v, projections, 16, causal)
    assert o.dtype == dtype
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(o.double(), exact, atol=tolerance, rtol=tolerance)
    dout = torch.randn(o.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(o, (q, k, v, *projections), dout.to(dtype))
    right = torch.autograd.grad(exact, (q, k, v, *projections), dout.to(dtype).double())
    for f, r in zip(found, right, strict=True):
        largest = max(1, r.abs().max().item())
        torch.testing.assert_close(f, r, atol=tolerance * largest, rtol=tolerance)


@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck(causal):
    q, k, v = problem(6, 7, heads=2, kv_heads=1, dim=8, dtype=torch.float64, grad=True)
    e, f = projections_of(8, 2, torch.float64, grad=True)

    def call(q, k, v, e, f):
        return hsattn.attention(q, k, v, pattern="linformer", causal=causal, projections=(e, f), segment=3)

    assert gradcheck(call, (q, k, v, e, f))


def test_opcheck():
    q, k, v = problem(70, heads=4, kv_heads=2, grad=True)
    e, f = projections_of(90, grad=True)
    torch.library.opcheck(ops.linformer_forward, (q, k, v, e, f, 16, True, None))
    q, k, v, e, f = (x.detach() for x in (q, k, v, e, f))
    o, lse = ops.linformer_forward(q, k, v, e, f, 16, True, None)
    torch.library.opcheck(ops.linformer_backward, (torch.ones_like(o), q, k, v, o, lse, e, f, 16, True, None))


@pytest.mark.usefixtures("fresh_compiler")
def test_the_layer_compiles_and_learns():
    layer = hsattn.Linformer(100, rank=4, segment=16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    q, k, v = problem(90, grad=True)
    compiled(q, k, v).square().mean().backward()
    found = layer.project_keys.grad.clone()
    layer.zero_grad()
    layer(q, k, v).square().mean().backward()
    torch.testing.assert_close(layer.project_keys.grad, found)
    assert layer.project_keys.grad[:, :80].abs().min() > 0  # the last segment is nobody's past
    assert not layer.project_keys.grad[:, 80:].any()
    shared = hsattn.Linformer(100, share=True)
    assert [p.shape for p in shared.parameters()] == [(8, 100)]


def test_sequences_are_alone():
    q, k, v = problem(150, heads=4, kv_heads=2)
    options = {"pattern": "linformer", "projections": projections_of(120), "segment": 16}
    o = hsattn.attention(q, k, v, sequences=hsattn.packed_sequences(torch.tensor([0, 30, 140])), **options)
    for begin, end in ((0, 30), (30, 140)):
        assert torch.equal(o[:, :, begin:end], hsattn.attention(*(x[:, :, begin:end] for x in (q, k, v)), **options))
    assert not o[:, :, 140:].any()


def test_refusals():
    q, k, v = problem(20)
    with pytest.raises(ValueError, match="none were given, pattern is 'linformer'"):
        hsattn.attention(q, k, v, pattern="linformer")
    with pytest.raises(ValueError, match="they were given, pattern is 'linear'"):
        hsattn.attention(q, k, v, pattern="linear", projections=projections_of(20))
    with pytest.raises(RuntimeError, match="a sequence has 20 keys; the projections are made for at most 19"):
        hsattn.attention(q, k, v, pattern="linformer", projections=projections_of(19))
    with pytest.raises(RuntimeError, match=r"project_keys has shape \[20\]"):
        hsattn.attention(q, k, v, pattern="linformer", projections=(torch.ones(20), torch.ones(20)))
    with pytest.raises(ValueError, match=r"hsattn\.Linformer: segment is 0; at least 1 is right"):
        hsattn.Linformer(20, segment=0)
    e, f = projections_of(20)
    with pytest.raises(RuntimeError, match=r"of keys has shape \[3, 20\], that of values \[2, 20\]"):
        hsattn.attention(q, k, v, pattern="linformer", projections=(e, f[:2]))
