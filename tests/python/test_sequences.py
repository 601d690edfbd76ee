"""Packed and padded batches: each sequence is attended as if it were alone."""

import itertools

import pytest
import torch
import torch._inductor.config
from helpers import LISTING, SMALL, problem
from torch.autograd import gradcheck
from torch.nn.functional import scaled_dot_product_attention as sdpa

import hsattn
from hsattn._ops import ops

OFFSETS = [0, 61, 61, 190, 197, 330]


def _packed(dtype=torch.float32, grad=False, total=OFFSETS[-1]):
    tensors = problem(total, heads=4, kv_heads=2, dtype=dtype)
    return [t[0].transpose(0, 1).contiguous().requires_grad_(grad) for t in tensors]


def _alone(t, begin, end):
    return t[begin:end].transpose(0, 1).unsqueeze(0)


@pytest.mark.parametrize("causal", [True, False])
def test_full_equals_sdpa_of_each(causal):
    found, right = _packed(grad=True), _packed(grad=True)
    cu = torch.tensor(OFFSETS, dtype=torch.int32)
    o = hsattn.attention_packed(*found, cu, pattern="full", causal=causal)
    assert o.is_contiguous()
    o.sin().sum().backward()
    for begin, end in itertools.pairwise(OFFSETS):
        one = sdpa(*(_alone(t, begin, end) for t in right), is_causal=causal, enable_gqa=True)
        torch.testing.assert_close(_alone(o, begin, end), one, atol=1e-5, rtol=0)
        one.sin().sum().backward()
    for f, r in zip(found, right, strict=True):
        torch.testing.assert_close(f.grad, r.grad, atol=2e-5, rtol=0)


@pytest.mark.parametrize("far_field", [True, False])
def test_each_has_the_bits_that_it_has_alone(far_field):
    options = {**SMALL, "far_field": far_field, "return_lse": True}
    found, right = _packed(grad=True), _packed(grad=True)
    o, lse = hsattn.attention_packed(*found, torch.tensor(OFFSETS), **options)
    (o.sin().sum() + lse.cos().sum()).backward()
    for begin, end in itertools.pairwise(OFFSETS):
        one, one_lse = hsattn.attention(*(_alone(t, begin, end) for t in right), **options)
        assert torch.equal(_alone(o, begin, end), one)
        assert torch.equal(lse[:, begin:end], one_lse[0])
        (one.sin().sum() + one_lse.cos().sum()).backward()
    for f, r in zip(found, right, strict=True):
        assert torch.equal(f.grad, r.grad)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("queries", [200, 3])
def test_padded_rows(left, queries):
    q, k, v = problem(200, batch=3, heads=4, kv_heads=2)
    lengths = (200, 131, 1)
    mask = torch.zeros(3, 200, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, 200 - length if left else 0 : 200 if left else length] = 1
    for t in (q, k, v):
        t[(mask == 0)[:, None, :, None].expand_as(t)] = torch.nan
    o = hsattn.attention(q[:, :, -queries:], k, v, sequences=hsattn.padded_sequences(mask, queries), **SMALL)
    for row in range(3):
        real = mask[row].bool()
        asked = real[-queries:]
        own = q[row : row + 1, :, -queries:][:, :, asked], k[row : row + 1, :, real], v[row : row + 1, :, real]
        assert torch.equal(o[row, :, asked], hsattn.attention(*own, **SMALL)[0])
        assert (o[row, :, ~asked] == 0).all()


def test_restarting_positions():
    positions = torch.cat([torch.arange(n) for n in (3, 1, 4)])[None]
    right = hsattn.packed_sequences(torch.tensor([0, 3, 4, 8]))
    assert torch.equal(hsattn.restarting_sequences(positions), right)


@pytest.mark.parametrize("pattern", ["full", "hsa", *LISTING])
def test_gradcheck(pattern):
    tiny = {**SMALL, "window": 2, "block": 2, "top_k": 4, "candidates": 4, "sinks": 2, "top_nodes": 64, "beam": 2}
    q, k, v = _packed(torch.float64, grad=True, total=17)
    cu = torch.tensor([0, 5, 17])

    def call(q, k, v):
        return hsattn.attention_packed(q, k, v, cu, pattern=pattern, return_lse=True, **tiny)

    assert gradcheck(call, (q, k, v), fast_mode=True)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("pattern", ["full", "hsa", *LISTING])
def test_opcheck(grad, pattern):
    q, k, v = problem(90, heads=4, kv_heads=2, grad=grad)
    cu = torch.tensor([0, 31, 85])
    sequences = ops.packed_sequences(cu, None)
    options = (pattern, True, hsattn.Budgets(**SMALL).numbers(), None)
    torch.library.opcheck(ops.attention_forward, (q, k, v, None, *options, grad, sequences))
    torch.library.opcheck(ops.packed_sequences, (cu, cu.int()))
    torch.library.opcheck(ops.padded_sequences, (torch.ones(2, 9, dtype=torch.bool), 4))
    plan = ops.make_plan(q.detach(), k.detach(), *options, sequences)
    torch.library.opcheck(ops.make_plan, (q.detach(), k.detach(), *options, sequences))
    o, lse, _ = ops.attention_forward(q.detach(), k.detach(), v.detach(), plan, *options, False, sequences)
    plain = [t.detach() for t in (o, q, k, v, o, lse)]
    torch.library.opcheck(ops.attention_backward, (*plain, plan, *options, sequences))


def test_compiles_into_one_graph():
    torch._dynamo.reset()

    def loss(q, k, v, cu):
        return hsattn.attention_packed(q, k, v, cu, **SMALL).square().mean()

    found, right, cu = _packed(grad=True), _packed(grad=True), torch.tensor(OFFSETS)
    with torch._inductor.config.patch(force_disable_caches=True):
        torch.compile(loss, fullgraph=True, backend="aot_eager")(*found, cu).backward()
    loss(*right, cu).backward()
    for f, r in zip(found, right, strict=True):
        torch.testing.assert_close(f.grad, r.grad)


@pytest.mark.parametrize(
    ("cu", "message"),
    [
        ([0, 40, 30], "offset 2 of queries is 30, after 40; offsets must not decrease"),
        ([5, 40], "the offsets of queries start with 5; they must start with 0"),
        ([0, 400], "sequence 0 has queries [0, 400); they must lie within the 330 that there are"),
        ([0.0, 30.0], "cu_seqlens_q has shape [2] and type Float"),
    ],
)
def test_wrong_offsets(cu, message):
    with pytest.raises(RuntimeError) as caught:
        hsattn.attention_packed(*_packed(), torch.tensor(cu))
    assert message in str(caught.value)


def test_other_refusals():
    q, k, v = problem(40)
    with pytest.raises(RuntimeError, match="row 0 of the mask has real tokens from 0 to 1 and again at 2"):
        hsattn.padded_sequences(torch.tensor([[1, 0, 1]]))
    with pytest.raises(TypeError, match="it must be bool or integer"):
        hsattn.padded_sequences(torch.zeros(1, 3))
    with pytest.raises(RuntimeError, match=r"sequences has shape \[1, 4\]"):
        hsattn.attention(q, k, v, sequences=torch.zeros(1, 4, dtype=torch.int64))
    plan = hsattn.make_plan(q, k)
    with pytest.raises(ValueError, match="plan is one plan and 1 sequences were given; one for each is right"):
        hsattn.attention(q, k, v, plan=plan, sequences=torch.tensor([[0, 0, q.shape[2], 0, k.shape[2]]]))
    with pytest.raises(ValueError, match="plan is a list of plans and no sequences were given; one plan is right"):
        hsattn.attention(q, k, v, plan=[plan])
    with pytest.raises(ValueError, match=r"position_ids has 1 dimensions; \[batch, tokens\] is right"):
        hsattn.restarting_sequences(torch.arange(4))
    with pytest.raises(ValueError, match="q has shape"):
        hsattn.attention_packed(q, k, v, torch.tensor([0, 40]))


@pytest.mark.parametrize("pattern", ["hsa", "full", *LISTING])
def test_each_sequence_has_its_plan(pattern):
    q, k, v = problem(330, heads=4, kv_heads=2, grad=True)
    options = {**SMALL, "pattern": pattern}
    sequences = hsattn.packed_sequences(torch.tensor(OFFSETS))
    plans = hsattn.make_plan(q, k, sequences=sequences, **options)
    assert len(plans) == len(OFFSETS) - 1
    for plan, (begin, end) in zip(plans, itertools.pairwise(OFFSETS), strict=True):
        assert plan == hsattn.make_plan(q[:, :, begin:end], k[:, :, begin:end], **options)
        plan.check()
    assert plans[0].draw(head=1).startswith("<svg")
    found = hsattn.attention(q, k, v, plan=plans, sequences=sequences)
    right = hsattn.attention(q, k, v, sequences=sequences, **options)
    assert torch.equal(found, right)
    with torch.no_grad():
        assert torch.equal(hsattn.attention(q, k, v, plan=plans, sequences=sequences), right)
    for ours, theirs in zip(*(torch.autograd.grad(o.square().sum(), (q, k, v)) for o in (found, right)), strict=True):
        assert torch.equal(ours, theirs)


def test_no_sequence_at_all():
    q, k, v = problem(40)
    none = torch.zeros(0, 5, dtype=torch.int64)
    plans = hsattn.make_plan(q, k, sequences=none)
    assert plans == []
    assert not hsattn.attention(q, k, v, plan=plans, sequences=none).any()


def test_plans_that_do_not_fit_the_sequences_are_refused():
    q, k, v = problem(100)
    sequences = hsattn.packed_sequences(torch.tensor([0, 40, 100]))
    plans = hsattn.make_plan(q, k, sequences=sequences, **SMALL)
    with pytest.raises(ValueError, match="there are 1 plans for 2 sequences"):
        hsattn.attention(q, k, v, plan=plans[:1], sequences=sequences)
    with pytest.raises(
        ValueError, match=r"the plan is for batch, heads, .* \(1, 2, 2, 60, 60\); the tensors have \(1, 2"
    ):
        hsattn.attention(q, k, v, plan=plans[::-1], sequences=sequences)
    other = hsattn.make_plan(q, k, sequences=sequences, **{**SMALL, "top_k": 64})
    with pytest.raises(ValueError, match="different options; all must be the same"):
        hsattn.attention(q, k, v, plan=[plans[0], other[1]], sequences=sequences)
    with pytest.raises(ValueError, match="top_k is 128, the plan was made with"):
        hsattn.attention(q, k, v, plan=plans, sequences=sequences, top_k=128)
