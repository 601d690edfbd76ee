"""Patterns "linear" and "performer": against plain tensor operations, gradients, compilation, steps, refusals."""

import pytest
import torch
from helpers import problem
from torch.autograd import gradcheck

import hsattn
from hsattn._ops import ops


def plain(q, k, v, phi, causal):
    """o in double with every weight in memory; phi maps rows to features."""
    q, k, v = q.double(), k.double(), v.double()
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    weights = phi(q) @ phi(k).transpose(-2, -1)
    if causal:
        weights = weights.tril(k.shape[2] - q.shape[2])
    return weights @ v / weights.sum(-1, keepdim=True)


def features_of(pattern, dim, count=24):
    """phi of a pattern, and the argument `features` that goes with it."""
    if pattern == "linear":
        return lambda x: torch.nn.functional.elu(x) + 1, None
    w = hsattn.draw_features(count, dim, seed=3)

    def phi(x):
        y = x / dim**0.25
        return torch.exp(y @ w.double().T - y.square().sum(-1, keepdim=True) / 2)

    return phi, w


@pytest.mark.parametrize("pattern", ["linear", "performer"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_plain_tensor_operations(pattern, causal, dtype):
    phi, features = features_of(pattern, 16)
    q, k, v = (x.to(dtype).requires_grad_() for x in problem(90, 130, batch=2, heads=4, kv_heads=2))
    o = hsattn.attention(q, k, v, pattern=pattern, causal=causal, features=features)
    exact = plain(q, k, v, phi, causal)
    assert o.dtype == dtype
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-11, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(o.double(), exact, atol=tolerance, rtol=tolerance)
    dout = torch.randn(o.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(o, (q, k, v), dout.to(dtype))
    right = torch.autograd.grad(exact, (q, k, v), dout.to(dtype).double())
    for f, r in zip(found, right, strict=True):
        largest = r.abs().max().item()
        torch.testing.assert_close(f, r, atol=tolerance * max(1, largest), rtol=tolerance)


@pytest.mark.parametrize("pattern", ["linear", "performer"])
@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck(pattern, causal):
    q, k, v = problem(6, 7, heads=2, kv_heads=1, dim=8, dtype=torch.float64, grad=True)
    assert gradcheck(lambda *x: hsattn.attention(*x, pattern=pattern, causal=causal, features=None), (q, k, v))


@pytest.mark.parametrize("pattern", ["linear", "performer"])
def test_opcheck(pattern):
    q, k, v = problem(70, heads=4, kv_heads=2, grad=True)
    _, w = features_of(pattern, 16)
    torch.library.opcheck(ops.linear_attention_forward, (q, k, v, w, True, None))
    q, k, v = (x.detach() for x in (q, k, v))
    o, state = ops.linear_attention_step(q, k, v, w, None, None)
    torch.library.opcheck(ops.linear_attention_backward, (torch.ones_like(o), q, k, v, o, w, True, None))
    torch.library.opcheck(ops.linear_attention_step, (q, k, v, w, None, state))
    sequences = hsattn.packed_sequences(torch.tensor([0, 30, 70]))
    _, states = ops.linear_attention_step(q, k, v, w, None, None, sequences)
    torch.library.opcheck(ops.linear_attention_step, (q, k, v, w, None, states, sequences))
    torch.library.opcheck(ops.draw_features, (torch.empty(5, 8), 3))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("pattern", ["linear", "performer"])
def test_compiles_into_one_graph(pattern):
    def loss(q, k, v):
        return hsattn.attention(q * 2, k, v, pattern=pattern).square().mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, right = problem(90, grad=True), problem(90, grad=True)
    compiled(*found).backward()
    loss(*right).backward()
    for f, r in zip(found, right, strict=True):
        torch.testing.assert_close(f.grad, r.grad)


@pytest.mark.parametrize("pattern", ["linear", "performer"])
def test_steps_equal_the_whole(pattern):
    q, k, v = problem(200, heads=4, kv_heads=2)
    whole = hsattn.attention(q, k, v, pattern=pattern)
    for cuts, equal in (([64, 192], torch.equal), (list(range(1, 200)), lambda a, b: torch.allclose(a, b, atol=1e-5))):
        state, parts = None, []
        for begin, end in zip([0, *cuts], [*cuts, 200], strict=True):
            part = (x[:, :, begin:end] for x in (q, k, v))
            o, state = hsattn.attention_step(*part, state, pattern=pattern)
            parts.append(o)
        assert equal(torch.cat(parts, 2), whole)
        assert state.shape == (1, 2, (16 if pattern == "linear" else 32) + 1, 17)


@pytest.mark.parametrize("pattern", ["linear", "performer"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_steps_under_autocast_compute_in_its_type(pattern, half):
    q, k, v = problem(80, heads=4, kv_heads=2)
    with torch.autocast("cpu", dtype=half):
        o, state = hsattn.attention_step(q, k.to(half), v, pattern=pattern)  # layers may leave types mixed
        assert o.dtype == hsattn.attention(q, k, v, pattern=pattern).dtype == half
    right, right_state = hsattn.attention_step(*(x.to(half) for x in (q, k, v)), pattern=pattern)
    assert torch.equal(o, right)
    assert state.dtype == torch.float32
    assert torch.equal(state, right_state)
    with torch.autocast("cpu", dtype=half):
        assert hsattn.attention_step(q.double(), k.double(), v.double(), pattern=pattern)[0].dtype == torch.float64


@pytest.mark.parametrize("pattern", ["linear", "performer"])
def test_steps_of_packed_sequences_have_states_of_their_own(pattern):
    q, k, v = problem(150, heads=4, kv_heads=2)
    offsets = (torch.tensor([0, 64, 64, 140]), torch.tensor([0, 10, 11, 11]))  # of two steps
    states, alone = None, [None] * 3
    for step in offsets:
        o, states = hsattn.attention_step(q, k, v, states, pattern=pattern, sequences=hsattn.packed_sequences(step))
        assert not o[:, :, step[-1] :].any()
        for i, (begin, end) in enumerate(zip(step[:-1].tolist(), step[1:].tolist(), strict=True)):
            if begin == end:
                continue
            part = (x[:, :, begin:end] for x in (q, k, v))
            right, alone[i] = hsattn.attention_step(*part, alone[i], pattern=pattern)
            assert torch.equal(o[:, :, begin:end], right)
        for i, state in enumerate(alone):
            assert torch.equal(states[i : i + 1], torch.zeros_like(states[:1]) if state is None else state)


@pytest.mark.parametrize("pattern", ["linear", "performer"])
def test_sequences_are_alone(pattern):
    q, k, v = problem(150, heads=4, kv_heads=2, grad=True)
    offsets = torch.tensor([0, 30, 30, 140])
    o = hsattn.attention(q, k, v, pattern=pattern, sequences=hsattn.packed_sequences(offsets))
    for begin, end in ((0, 30), (30, 140)):
        alone = hsattn.attention(*(x[:, :, begin:end] for x in (q, k, v)), pattern=pattern)
        assert torch.equal(o[:, :, begin:end], alone)
    assert not o[:, :, 140:].any()
    grads = torch.autograd.grad(o.sum(), (q, k, v))
    assert all(not g[:, :, 140:].any() for g in grads)


def test_seeds_redraw_features():
    q, k, v = problem(50)
    first = hsattn.attention(q, k, v, pattern="performer", seed=1)
    assert torch.equal(first, hsattn.attention(q, k, v, pattern="performer", seed=1))
    assert not torch.equal(first, hsattn.attention(q, k, v, pattern="performer", seed=2))
    w = hsattn.draw_features(32, 16, seed=1)
    assert torch.equal(first, hsattn.attention(q, k, v, pattern="performer", features=w))
    assert torch.equal(first, hsattn.attention(q, k, v, pattern="performer", features=32, seed=1))


def test_refusals():
    q, k, v = problem(20)
    with pytest.raises(ValueError, match="features were given; they are performer's"):
        hsattn.attention(q, k, v, pattern="linear", features=8)
    with pytest.raises(ValueError, match="return_lse is True"):
        hsattn.attention(q, k, v, pattern="linear", return_lse=True)
    with pytest.raises(RuntimeError, match=r"scale is 2; elu \+ 1 has none"):
        hsattn.attention(q, k, v, pattern="linear", scale=2.0)
    with pytest.raises(TypeError, match="features is"):
        hsattn.attention(q, k, v, pattern="performer", features=1.5)
    with pytest.raises(RuntimeError, match=r"features has shape \[4, 8\]"):
        hsattn.attention(q, k, v, pattern="performer", features=torch.zeros(4, 8))
    with pytest.raises(RuntimeError, match=r"state has shape \[1, 2, 3\]"):
        hsattn.attention_step(q, k, v, torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="pattern is 'hsa'"):
        hsattn.attention_step(q, k, v, pattern="hsa")
    q = q.double().requires_grad_()
    (dq,) = torch.autograd.grad(
        hsattn.attention(q, k.double(), v.double(), pattern="linear").sum(), q, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="double backward"):
        dq.sum().backward()
