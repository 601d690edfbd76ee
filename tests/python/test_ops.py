"""The ops as PyTorch sees them: schemas, shapes for tracing, autograd, compilation."""

import pytest
import torch
from helpers import LISTING, PATTERNS, SMALL, problem

import hsattn
from hsattn._ops import ops

OPTIONS = [
    ("full", True, hsattn.Budgets()),
    ("local", False, hsattn.Budgets(window=16)),
    ("hsa", True, hsattn.Budgets(**SMALL)),
    ("hsa", False, hsattn.Budgets(**{**SMALL, "far_field": 1})),
    ("hsa", True, hsattn.Budgets(**SMALL, head_top_k=(8, 40))),
    *((pattern, False, hsattn.Budgets(**SMALL)) for pattern in LISTING),
]
BUDGETS = [
    hsattn.Budgets(),
    hsattn.Budgets(**SMALL),
    hsattn.Budgets(top_k=33, sinks=9),
    hsattn.Budgets(top_k=33, sinks=0, block=16),
    hsattn.Budgets(top_k=30, sinks=7, block=8, levels=1),
    hsattn.Budgets(top_k=30, sinks=7, block=2, levels=6),
    hsattn.Budgets(top_k=30, head_top_k=(3, 50, 40)),
]


@pytest.mark.parametrize(("pattern", "causal", "budgets"), OPTIONS)
@pytest.mark.parametrize("grad", [True, False])
def test_opcheck_forward(pattern, causal, budgets, grad):
    q, k, v = problem(70, heads=4, kv_heads=2, grad=grad)
    torch.library.opcheck(ops.attention_forward, (q, k, v, None, pattern, causal, budgets.numbers(), None, grad))


@pytest.mark.parametrize(("pattern", "causal", "budgets"), OPTIONS)
def test_without_gradients_the_bits_are_the_same(pattern, causal, budgets):
    q, k, v = problem(70, heads=4, kv_heads=2)
    options = (pattern, causal, budgets.numbers(), 0.3)
    torch.library.opcheck(ops.attention_no_grad, (q, k, v, None, *options))
    right = ops.attention_forward(q, k, v, None, *options, True)
    for plan in (None, ops.make_plan(q, k, *options)):
        for found, exact in zip(ops.attention_no_grad(q, k, v, plan, *options), right[:2], strict=True):
            assert torch.equal(found, exact)


@pytest.mark.parametrize(("pattern", "causal", "budgets"), OPTIONS)
def test_opcheck_plan_backward_and_map(pattern, causal, budgets):
    q, k, v = problem(70, heads=4, kv_heads=2)
    options = (pattern, causal, budgets.numbers())
    torch.library.opcheck(ops.make_plan, (q, k, *options, 0.3))
    plan = ops.make_plan(q, k, *options, 0.3)
    torch.library.opcheck(ops.attention_forward, (q, k, v, plan, *options, 0.3, True))
    o, lse, _ = ops.attention_forward(q, k, v, plan, *options, 0.3, False)
    torch.library.opcheck(ops.attention_backward, (torch.ones_like(o), q, k, v, o, lse, plan, *options, 0.3))
    torch.library.opcheck(ops.plan_map, (plan, *options, [1, 2, 70, 70], 0, 1, 3, 40))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("budgets", BUDGETS)
def test_slots_are_those_of_the_library(pattern, budgets):
    assert budgets.slots(pattern) == ops.plan_slots(pattern, True, budgets.numbers())


def test_budgets_are_in_the_order_of_the_library():
    *names, by_head = hsattn.Budgets._fields
    with pytest.raises(RuntimeError, match=f"there must be at least {len(names)}: ") as caught:
        ops.plan_slots("full", True, [])
    assert str(caught.value).endswith(", ".join(names))
    assert by_head == "head_top_k"
    budgets = hsattn.Budgets(head_top_k=(3, 50, 40))
    assert hsattn.Budgets.of_numbers(budgets.numbers()) == budgets


def test_kept_lists():
    q, k, v = problem(100, heads=4, kv_heads=2)
    options = ("hsa", True, hsattn.Budgets(**SMALL).numbers())
    plan = ops.make_plan(q, k, *options, None)
    assert plan.shape == (1, 2, 100, 5)
    assert plan.dtype == torch.int32
    kept = ops.attention_forward(q, k, v, None, *options, None, True)[2]
    assert torch.equal(kept, plan)
    assert ops.attention_forward(q, k, v, None, *options, None, False)[2].shape == (0,)
    again = ops.attention_forward(q, k, v, plan, *options, None, True)[2]
    assert torch.equal(again, plan)
    assert again.data_ptr() != plan.data_ptr()


def test_backward_without_lists_finds_them_again():
    q, k, v = problem(100, heads=4, kv_heads=2)
    options = ("hsa", True, hsattn.Budgets(**SMALL).numbers())
    o, lse, kept = ops.attention_forward(q, k, v, None, *options, None, True)
    none = kept.new_empty(0)
    with_lists = ops.attention_backward(o, q, k, v, o, lse, kept, *options, None)
    without = ops.attention_backward(o, q, k, v, o, lse, none, *options, None)
    assert all(torch.equal(a, b) for a, b in zip(with_lists, without, strict=True))


def test_meta_tensors_give_shapes():
    q, k, v = (t.to("meta") for t in problem(50, 80, heads=4, kv_heads=2))
    o, lse = hsattn.attention(q, k, v, return_lse=True)
    assert o.device.type == "meta"
    assert o.shape == (1, 4, 50, 16)
    assert lse.shape == (1, 4, 50)


def _loss(q, k, v, plan=None):
    options = {} if plan is not None else {**SMALL, "far_field": True}
    o, lse = hsattn.attention(q * 2, k, v, plan=plan, return_lse=True, **options)
    return o.square().mean() + lse.mean()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("backend", "lengths"), [("aot_eager", (90, 100, 130)), ("inductor", (90,))])
def test_compiles_into_one_graph(backend, lengths):
    compiled = torch.compile(_loss, fullgraph=True, backend=backend)
    for length in lengths:
        found, right = problem(length, grad=True), problem(length, grad=True)
        loss = compiled(*found)
        torch.testing.assert_close(loss, _loss(*right))
        loss.backward()
        _loss(*right).backward()
        for f, r in zip(found, right, strict=True):
            torch.testing.assert_close(f.grad, r.grad)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiles_with_a_plan_and_under_autocast():
    q, k, v = problem(90)
    plan = hsattn.make_plan(q, k, **SMALL)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def call(q, k, v):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return hsattn.attention(q.bfloat16(), k, v, plan=plan)

    right = hsattn.attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), plan=plan)
    assert torch.equal(call(q, k, v), right)
