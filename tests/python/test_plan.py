"""Plans as data."""

import copy
import pickle
import xml.etree.ElementTree as ET

import pytest
import torch
from helpers import LISTING, PATTERNS, SMALL, problem

import hsattn


@pytest.fixture
def grouped():
    """A plan of two key heads with three query heads each, and the tensors it was made from."""
    q, k, _ = problem(200, batch=2, heads=6, kv_heads=2)
    return q, k, hsattn.make_plan(q, k, **SMALL)


def test_blocks(grouped):
    _, _, plan = grouped
    assert plan.kept.shape == (2, 2, 200, 5)
    assert plan.blocks(10, head=0) == []  # all of its past is near
    blocks = plan.blocks(199, head=5, batch=1)
    assert blocks == plan.kept[1, 1, 199].tolist()
    assert blocks == plan.blocks(199, head=3, batch=1)  # heads of a group share a list
    assert blocks[0] == 0  # the sink
    assert len(blocks) == 5
    assert blocks == sorted(set(blocks))
    assert blocks[-1] * 8 < 199 - 16


def test_positions_count_keys_when_queries_are_fewer():
    q, k, _ = problem(200)
    whole = hsattn.make_plan(q, k, **SMALL)
    tail = hsattn.make_plan(q[:, :, 150:], k, **SMALL)
    assert tail.blocks(170, head=1) == whole.blocks(170, head=1)
    with pytest.raises(IndexError, match="position is 149; the plan has positions 150 to 199"):
        tail.blocks(149, head=0)


def test_wrong_places(grouped):
    _, _, plan = grouped
    with pytest.raises(IndexError, match="head is 6; the plan has 6 query heads"):
        plan.blocks(0, head=6)
    with pytest.raises(IndexError, match="batch is 2; the plan has 2"):
        plan.blocks(0, head=0, batch=2)
    with pytest.raises(RuntimeError, match="plan_map: queries 199 to 201 were asked; the plan has 200"):
        plan.levels(0, first=199, count=2)


@pytest.mark.parametrize("far_field", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_levels_agree_with_blocks(far_field, causal):
    q, k, _ = problem(150, heads=1)
    plan = hsattn.make_plan(q, k, causal=causal, far_field=far_field, **SMALL)
    plan.check()
    levels = plan.levels(0)
    assert levels.shape == (150, 150)
    for position in (0, 17, 80, 149):
        row = levels[position]
        assert sorted(set((torch.nonzero(row == 1)[:, 0] // 8).tolist())) == plan.blocks(position, 0)
        assert row[position] == 0
        if causal:
            assert (row[position + 1 :] == -1).all()
        allowed = row[: position + 1] if causal else row
        assert (allowed >= 0).all() == (far_field or (position < 50 and causal))


@pytest.mark.parametrize("chunk", [2**22, 7000])
def test_mass(grouped, monkeypatch, chunk):
    monkeypatch.setattr("hsattn._plan._CHUNK", chunk)  # rows of scores at a time: all, 35
    q, k, plan = grouped
    mass = plan.mass(q, k, scale=0.3)
    assert mass.shape == (2, 6, 200)
    weights = q.double() @ k.double().repeat_interleave(3, 1).mT * 0.3
    weights = weights.masked_fill(torch.ones(200, 200, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
    levels = torch.stack([torch.stack([plan.levels(h, batch=b) for h in range(6)]) for b in range(2)])
    right = (weights * (levels >= 0)).sum(-1)
    torch.testing.assert_close(mass.double(), right, atol=1e-5, rtol=0)
    assert mass.min() < 0.9
    assert (mass[:, :, :16] > 1 - 1e-6).all()


def test_mass_of_full_and_of_nothing():
    q, k, _ = problem(8, 4)
    mass = hsattn.make_plan(q, k, pattern="full").mass(q, k)
    torch.testing.assert_close(mass, torch.ones_like(mass))
    with pytest.raises(ValueError, match=r"Plan\.mass: q and k have shapes"):
        hsattn.make_plan(q, k).mass(q[:, :, :3], k)


def test_pooled_tokens_do_not_count_as_mass():
    q, k, _ = problem(200)
    kept = hsattn.make_plan(q, k, **SMALL)
    pooled = hsattn.make_plan(q, k, far_field=True, **SMALL)
    assert torch.equal(kept.mass(q, k), pooled.mass(q, k))


def test_selection_finds_more_mass_than_chance():
    q, k, _ = problem(400, heads=1, dim=32)
    q = q * 3  # peaked, so that there is something to find
    plan = hsattn.make_plan(q, k, **SMALL)
    random = copy.copy(plan)
    random.kept = plan.kept.clone()
    generator = torch.Generator().manual_seed(0)
    for query in range(120, 400):
        past = (query - 16) // 8
        random.kept[0, 0, query] = torch.randperm(past, generator=generator)[:5].sort().values
    random.check()
    mass, chance = (p.mass(q, k)[0, 0, 120:].mean() for p in (plan, random))
    assert mass > chance + 0.1


@pytest.mark.parametrize("candidates", [0, 200])
def test_mass_shortens_lists_and_holds_its_share(candidates):
    q, k, _ = problem(300, heads=2, kv_heads=1, dim=32)
    q = q * 3
    options = {**SMALL, "top_k": 128, "candidates": candidates, "top_nodes": 64, "beam": None, "min_top_k": 8}
    length, held = [], []
    for mass in (0.4, 0.8, 0.0):
        plan = hsattn.make_plan(q, k, mass=mass, **options)
        plan.check()
        length.append((plan.kept[:, :, 200:] >= 0).float().sum(-1).mean())
        held.append(plan.mass(q, k)[:, :, 200:].mean())
        assert "listed tokens" in plan.describe()
    assert length[0] < length[1] < length[2]
    assert held[0] < held[1] < held[2]
    assert candidates == 0 or held[1] > 0.79


def test_equality_and_copies(grouped):
    q, k, plan = grouped
    assert plan == hsattn.make_plan(q, k, **SMALL)
    assert plan == pickle.loads(pickle.dumps(plan))
    assert plan != hsattn.make_plan(q, k, **{**SMALL, "top_k": 24})
    assert plan != hsattn.make_plan(q.flip(2), k, **SMALL)
    assert plan != "plan"
    with pytest.raises(TypeError, match="unhashable"):
        hash(plan)


def test_text(grouped):
    _, _, plan = grouped
    assert repr(plan) == (
        "Plan('hsa', causal=True, batch=2, heads=6, kv_heads=2, queries=200, keys=200, block=8, slots=5)"
    )
    assert "attended tokens" in plan.describe()


@pytest.mark.parametrize("pattern", LISTING)
@pytest.mark.parametrize("causal", [True, False])
def test_a_list_that_follows_from_the_position(pattern, causal):
    q, k, v = problem(200, heads=6, kv_heads=2)
    plan = hsattn.make_plan(q, k, pattern=pattern, causal=causal, **SMALL)
    plan.check()
    assert plan == hsattn.make_plan(q.flip(2), k.flip(2), pattern=pattern, causal=causal, **SMALL)
    assert pickle.loads(pickle.dumps(plan)) == plan
    mass = plan.mass(q, k)
    assert ((mass > 0) & (mass <= 1)).all()
    assert mass.mean() < 1
    o = hsattn.attention(q, k, v, pattern=pattern, causal=causal, **SMALL)
    assert torch.equal(o, hsattn.attention(q, k, v, plan=plan))
    listed = plan.blocks(199, 0)
    assert listed[0] == 0
    assert len(listed) == (5 if causal or pattern != "longformer" else 3)  # half of longformer's lies behind the end
    if not causal:
        assert bool((plan.levels(0)[:8] == 0).all()) == (pattern in ("longformer", "bigbird"))  # global tokens


def test_options_of_patterns_reach_the_plan():
    q, k, _ = problem(100, heads=1)
    options = {**SMALL, "block": 1, "window": 0, "sinks": 0, "top_k": 4}

    def listed(**more):
        return hsattn.make_plan(q, k, **options, **more).blocks(99, 0)

    assert listed(pattern="longformer", dilation=3) == [87, 90, 93, 96]
    assert listed(pattern="sparse_transformer", stride=20) == [19, 39, 59, 79]
    assert listed(pattern="sparse_transformer_fixed", stride=50) == [95, 96, 97, 98]
    assert listed(pattern="sparse_transformer_fixed", stride=33) == [32, 65, 98]
    assert listed(pattern="bigbird", pattern_seed=1) == listed(pattern="bigbird", pattern_seed=1)
    assert listed(pattern="bigbird", pattern_seed=1) != listed(pattern="bigbird", pattern_seed=2)


def test_levels_option_lowers_the_block():
    q, k, _ = problem(100)
    plan = hsattn.make_plan(q, k, **{**SMALL, "levels": 2})
    assert plan.block == 4
    plan.check()
    assert max(plan.blocks(99, 0)) < 25


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("queries", "keys", "far_field", "causal"),
    [(300, 300, True, True), (700, 700, False, True), (20, 150, True, False), (1, 1, False, True), (3, 0, True, True)],
)
def test_draw(pattern, queries, keys, far_field, causal):
    q, k, _ = problem(queries, keys, heads=4, kv_heads=2)
    far_field = far_field and pattern not in LISTING
    plan = hsattn.make_plan(q, k, pattern=pattern, causal=causal, far_field=far_field, **SMALL)
    svg = plan.draw(head=3)
    root = ET.fromstring(svg)  # well formed
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    drawn = [e.get("class") for e in root.iter("{http://www.w3.org/2000/svg}path")]
    assert ("near" in drawn) == (keys > 0)
    selects = pattern not in ("full", "local") and keys > 100
    assert ("kept" in drawn) == selects
    assert ("far" in drawn) == (selects and far_field)
    assert len(svg) < 400_000


def test_draw_shows_the_head_that_is_asked_for(grouped):
    _, _, plan = grouped
    assert plan.draw(head=0) != plan.draw(head=5)
    assert plan.draw(head=0) == plan.draw(head=0)
    with pytest.raises(IndexError, match="head is 6"):
        plan.draw(head=6)
