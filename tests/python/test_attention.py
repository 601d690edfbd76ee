"""What attention() computes."""

import time

import pytest
import torch
from helpers import LISTING, PATTERN_AND_FAR_FIELD, SMALL, by_plan, problem
from torch.nn.functional import scaled_dot_product_attention as sdpa

import hsattn


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("queries", "heads", "kv_heads", "dim", "causal"),
    [(1, 1, 1, 8, True), (65, 4, 2, 64, True), (130, 3, 1, 80, False), (257, 2, 2, 24, True), (64, 6, 2, 128, False)],
)
def test_full_equals_sdpa(queries, heads, kv_heads, dim, causal, dtype):
    q, k, v = problem(queries, batch=2, heads=heads, kv_heads=kv_heads, dim=dim, dtype=dtype)
    o = hsattn.attention(q, k, v, pattern="full", causal=causal)
    right = sdpa(q, k, v, is_causal=causal, enable_gqa=True)
    torch.testing.assert_close(o, right, atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("far_field", [True, False])
def test_hsa_equals_full_when_top_k_covers_the_past(causal, far_field):
    q, k, v = problem(200, heads=4, kv_heads=2)
    options = {**SMALL, "top_k": 200, "candidates": 200, "beam": None, "far_field": far_field}
    o = hsattn.attention(q, k, v, causal=causal, **options)
    torch.testing.assert_close(o, hsattn.attention(q, k, v, pattern="full", causal=causal), atol=1e-5, rtol=0)


def test_hsa_is_full_while_the_past_is_short():
    q, k, v = problem(300)
    options = {**SMALL, "dense_until": 1024}
    assert torch.equal(hsattn.attention(q, k, v, **options), hsattn.attention(q, k, v, pattern="full"))


@pytest.mark.parametrize(("pattern", "far_field"), PATTERN_AND_FAR_FIELD)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(99, 99), (20, 150), (60, 45)])
@pytest.mark.parametrize("more", [{}, {"pooling": "max", "mass": 0.6, "min_top_k": 4}, {"block": 2, "node": 8}])
def test_equals_plain_attention_over_the_plan(pattern, far_field, causal, queries, keys, more):
    more = {} if pattern in LISTING or (far_field and "node" in more) else more
    q, k, v = problem(queries, keys, heads=2, kv_heads=1)
    options = {**SMALL, "top_k": 16, "candidates": 32, "block": 4, "pattern": pattern, "causal": causal}
    options |= {"far_field": far_field, **more}
    plan = hsattn.make_plan(q, k, **options)
    o, lse = hsattn.attention(q, k, v, return_lse=True, **options)
    right_o, right_lse = by_plan(q, k, v, plan)
    torch.testing.assert_close(o.double(), right_o, atol=1e-5, rtol=0)
    torch.testing.assert_close(lse.double(), right_lse, atol=1e-5, rtol=0)


@pytest.mark.parametrize("far_field", [True, False])
def test_heads_with_a_budget_of_their_own_attend_what_they_do_alone(far_field):
    q, k, v = problem(200, heads=6, kv_heads=3, grad=True)
    options = {**SMALL, "dense_until": 60, "far_field": far_field}
    top_k = [8, 48, 16]
    o = hsattn.attention(q, k, v, head_top_k=top_k, **options)
    plan = hsattn.make_plan(q, k, head_top_k=top_k, **options)
    assert torch.equal(hsattn.attention(q, k, v, plan=plan), o)
    gradients = torch.autograd.grad(o.square().sum(), (q, k, v))
    for head in range(3):
        own = q[:, 2 * head : 2 * head + 2], k[:, head : head + 1], v[:, head : head + 1]
        alone = hsattn.attention(*own, **{**options, "top_k": top_k[head]})
        assert torch.equal(alone, o[:, 2 * head : 2 * head + 2])
        right = torch.autograd.grad(alone.square().sum(), own)
        for found, exact, count in zip(gradients, right, (2, 1, 1), strict=True):
            torch.testing.assert_close(found[:, count * head : count * (head + 1)], exact, atol=1e-5, rtol=1e-5)
    assert not torch.equal(o, hsattn.attention(q, k, v, **options))


def test_a_row_that_sees_nothing():
    q, k, v = problem(8, 4, grad=True)  # queries 0 to 3 stand before the first key
    o, lse = hsattn.attention(q, k, v, pattern="full", return_lse=True)
    assert (o[:, :, :4] == 0).all()
    assert (lse[:, :, :4] == -torch.inf).all()
    o.sum().backward()
    assert (q.grad[:, :, :4] == 0).all()
    assert torch.isfinite(k.grad).all()


def test_a_plan_gives_the_same_bits_again():
    q, k, v = problem(200, heads=4, kv_heads=2)
    plan = hsattn.make_plan(q, k, **SMALL)
    assert torch.equal(hsattn.attention(q, k, v, plan=plan), hsattn.attention(q, k, v, **SMALL))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_knows_what_auto_was_for_its_type(dtype):
    q, k, v = (x.to(dtype) for x in problem(1200, heads=2, kv_heads=1))
    options = {**SMALL, "dense_until": None}
    plan = hsattn.make_plan(q, k, **options)
    assert plan.budgets.dense_until in (1024, 8192)
    assert plan.levels(0, first=1199).min() == (0 if plan.budgets.dense_until > 1200 else -1)
    plan.check()
    assert torch.equal(hsattn.attention(q, k, v, plan=plan), hsattn.attention(q, k, v, **options))
    with pytest.raises(TypeError, match="dense_until is 'auto'; it must be an int, or None for auto"):
        hsattn.attention(q, k, v, dense_until="auto")


def test_presets_are_options():
    q, k, v = problem(300, heads=6, kv_heads=2, dim=24)
    pretrained = hsattn.preset("pretrained")
    small = {**SMALL, **pretrained, "dense_until": 0}
    assert hsattn.preset("any_model") == {}
    assert hsattn.preset("training") == {"candidates": 2048, "dense_until": 1024}
    assert hsattn.preset("paper") == {"candidates": 512, "dense_until": 1024, "far_field": True}
    assert pretrained == {"block": 2, "node": 8, "parts": 4, "tail": 0.5}
    with torch.no_grad():
        o = hsattn.attention(q, k, v, **small)
        cache = hsattn.Cache(kv_heads=2, dim=24, **small)
        cache.append(k, v)
        assert torch.equal(cache.attend(q), o)
        whole = hsattn.attention(q, k, v, **{**small, "parts": 1})
    assert not torch.equal(o, whole)
    with pytest.raises(RuntimeError, match="preset is 'fast'; it must be one of any_model, training, pre"):
        hsattn.preset("fast")


def test_scale():
    q, k, v = problem(100)
    o = hsattn.attention(q, k, v, pattern="full", scale=0.7)
    torch.testing.assert_close(o, sdpa(q, k, v, is_causal=True, scale=0.7), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cuts", [(1,), (7, 8, 120), (64, 128, 192), tuple(range(150, 200))])
@pytest.mark.parametrize("far_field", [True, False])
def test_any_cut_equals_the_whole(cuts, far_field):
    q, k, v = problem(200, heads=6, kv_heads=2)
    options = {**SMALL, "far_field": far_field}
    whole, plan = hsattn.attention(q, k, v, **options), hsattn.make_plan(q, k, **options)
    parts, lists = [], []
    for first, end in zip((0, *cuts), (*cuts, 200), strict=True):
        part = q[:, :, first:end], k[:, :, :end], v[:, :, :end]
        parts.append(hsattn.attention(*part, **options))
        lists.append(hsattn.make_plan(*part[:2], **options).kept)
    assert torch.equal(torch.cat(lists, 2), plan.kept)
    torch.testing.assert_close(torch.cat(parts, 2), whole, atol=1e-5, rtol=0)


def test_later_tokens_move_no_bit():
    q, k, v = problem(200, heads=6, kv_heads=2)
    changed = [t.clone() for t in (q, k, v)]
    for t, seed in zip(changed, (1, 2, 3), strict=True):
        t[:, :, 120:] = torch.randn(t[:, :, 120:].shape, generator=torch.Generator().manual_seed(seed))
    before, after = hsattn.attention(q, k, v, **SMALL), hsattn.attention(*changed, **SMALL)
    assert torch.equal(before[:, :, :120], after[:, :, :120])
    assert not torch.equal(before[:, :, 120:], after[:, :, 120:])


def _strided(t):
    """The same numbers as [batch, tokens, heads, dim] with room between tokens, as a fused projection leaves them."""
    batch, heads, tokens, dim = t.shape
    memory = torch.full((batch, tokens, 2 * heads, dim + 3), torch.nan)
    view = memory[:, :, 1 : 1 + heads, :dim].transpose(1, 2)
    return view.copy_(t)


def _ops_of(call):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        result = call()
    return result, {event.key for event in profile.key_averages()}


def test_strided_views_are_read_in_place():
    given = problem(150, batch=2, heads=4, kv_heads=2)
    views = [_strided(t) for t in given]
    o, ops = _ops_of(lambda: hsattn.attention(*views, **SMALL))
    assert torch.equal(o, hsattn.attention(*given, **SMALL))
    assert not ops & {"aten::contiguous", "aten::clone", "aten::copy_"}, ops


def test_only_the_tensor_whose_elements_lie_apart_is_copied():
    q, k, v = problem(150)
    apart = v.transpose(2, 3).contiguous().transpose(2, 3)
    assert apart.stride(3) != 1
    o, ops = _ops_of(lambda: hsattn.attention(q, k, apart, **SMALL))
    assert torch.equal(o, hsattn.attention(q, k, v, **SMALL))
    assert "aten::contiguous" in ops


def test_expanded_tensors():
    q, k, v = problem(80, batch=1, heads=1)
    q, k, v = (t.expand(3, 2, -1, -1) for t in (q, k, v))
    o = hsattn.attention(q, k, v, **SMALL)
    assert torch.equal(o, hsattn.attention(q.contiguous(), k.contiguous(), v.contiguous(), **SMALL))


@pytest.fixture
def threads():
    """Sets torch's thread count; puts it back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("far_field", [True, False])
def test_bits_do_not_depend_on_the_thread_count(threads, far_field):
    options = {**SMALL, "far_field": far_field}
    results = []
    for count in (1, 2, 3):
        threads(count)
        q, k, v = problem(300, batch=2, heads=6, kv_heads=2, grad=True)
        o = hsattn.attention(q, k, v, **options)
        o.backward(torch.sin(o.detach()))
        results.append((o, q.grad, k.grad, v.grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_thread_setting_is_obeyed(threads):
    q, k, v = problem(700, heads=8, dim=64, dtype=torch.float64)

    def share_of_other_threads():
        hsattn.attention(q, k, v, pattern="full")
        whole, own = time.process_time(), time.thread_time()
        hsattn.attention(q, k, v, pattern="full")
        own = time.thread_time() - own
        return (time.process_time() - whole - own) / own

    threads(2)
    assert share_of_other_threads() > 0.3
    threads(1)
    time.sleep(0.1)  # idle workers of the pool stop spinning
    assert share_of_other_threads() < 0.1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_half_precision(dtype, tolerance):
    half = [t.detach().to(dtype).requires_grad_() for t in problem(150)]
    full = [t.detach().float().requires_grad_() for t in half]
    o, lse = hsattn.attention(*half, **SMALL, return_lse=True)
    right, right_lse = hsattn.attention(*full, **SMALL, return_lse=True)
    assert (o.dtype, lse.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(o.float(), right, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse, right_lse, atol=1e-3, rtol=1e-3)
    dout, dlse = torch.randn_like(right), torch.randn_like(lse)
    torch.autograd.backward((o, lse), (dout.to(dtype), dlse))
    torch.autograd.backward((right, right_lse), (dout.to(dtype).float(), dlse))
    for found, exact in zip(half, full, strict=True):
        assert found.grad.dtype == dtype
        torch.testing.assert_close(found.grad.float(), exact.grad, atol=4 * tolerance, rtol=tolerance)
    assert torch.equal(hsattn.make_plan(*half[:2], **SMALL).kept, hsattn.make_plan(*full[:2], **SMALL).kept)


def test_autocast_computes_in_its_type_as_sdpa_does():
    q, k, v = problem(150)
    k = k.bfloat16()  # layers under autocast may leave types mixed
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o = hsattn.attention(q, k, v, **SMALL)
        assert o.dtype == torch.nn.functional.scaled_dot_product_attention(q, k, v).dtype
    assert torch.equal(o, hsattn.attention(q.bfloat16(), k, v.bfloat16(), **SMALL))


def test_a_model_under_autocast_trains():
    torch.manual_seed(0)
    project = torch.nn.Linear(32, 96)
    x = torch.randn(1, 64, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q, k, v = project(x).view(1, 64, 3, 2, 16).permute(2, 0, 3, 1, 4)
        loss = hsattn.attention(q, k, v, **SMALL).float().square().mean()
    loss.backward()
    assert project.weight.grad.abs().max() > 0


def test_module():
    q, k, v = problem(100)
    layer = hsattn.Attention(**SMALL)
    assert torch.equal(layer(q, k, v), hsattn.attention(q, k, v, **SMALL))
    assert "top_k=32" in repr(layer)
    assert not list(layer.parameters())


@pytest.mark.parametrize(("batch", "queries", "keys"), [(0, 10, 10), (2, 0, 10), (2, 5, 0)])
def test_empty_sizes(batch, queries, keys):
    q, k, v = problem(queries, keys, batch=batch, grad=True)
    o = hsattn.attention(q, k, v, **SMALL)
    assert o.shape == q.shape
    assert (o == 0).all()
    o.sum().backward()
    assert k.grad.shape == k.shape
