"""Attention and plans on tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hsattn._baselines import baseline_attention
from hsattn._ops import attention_with_gradient, computable, ops, transformed
from hsattn._options import BASELINES, Budgets, budgets_of, refuse_unsupported
from hsattn._plan import Plan


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: str = "hsa",
    causal: bool = True,
    window: int = 128,
    top_k: int = 512,
    candidates: int = 4096,
    block: int = 8,
    sinks: int = 8,
    top_nodes: int = 1024,
    beam: int | None = None,
    dense_until: int | None = None,
    far_field: bool = False,
    levels: int | str = "auto",
    pooling: str = "mean",
    mass: float = 0.0,
    min_top_k: int = 64,
    stride: int | None = None,
    dilation: int = 1,
    pattern_seed: int = 0,
    node: int | None = None,
    tail: float = 0.0,
    parts: int = 1,
    head_top_k: Sequence[int] | None = None,
    scale: float | None = None,
    features: Tensor | int | None = None,
    seed: int = 0,
    projections: tuple[Tensor, Tensor] | None = None,
    segment: int = 256,
    plan: Plan | list[Plan] | None = None,
    sequences: Tensor | None = None,
    pooled: tuple[Tensor, Tensor] | None = None,
    return_lse: bool = False,
    **unsupported: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of `q` over what each position selects, with one softmax.

    Args:
        q: [batch, heads, n, dim], float32, bfloat16, float16 or float64; dim from 8 to 256. Under torch.autocast it
            becomes autocast's type first, as for torch's SDPA. A view whose last stride is 1 is read in place; any
            other tensor is copied.
        k, v: [batch, kv_heads, m, dim], type of q; heads is a multiple of kv_heads. Query i has position i + m - n.
        pattern: "full" (everything), "local" (the near window alone), "hsa" (near window, sinks and found blocks), or
            one of other papers, whose lists follow from the position alone: near window, sinks and, of top_k tokens,
            "sparse_transformer" every stride-th block, counted from the position's own;
            "sparse_transformer_fixed" the position's own segment of stride tokens and the last block of each other;
            "longformer" every dilation-th block behind the near window;
            "bigbird" random blocks.
            They are made of blocks; the papers' forms, token by token, are block=1, which is slow. In the last two the
            sinks are global tokens: if not causal, they attend everything themselves.
            Or a method without a plan, which takes none of the budgets: "linear" (elu + 1 features in the place of the
            softmax), "performer" (random features that estimate it) or "linformer" (projections of keys and values).
        causal: a position sees no later token; the mask is aligned at the bottom right.
        window: near tokens before each position, always attended (not causal: on both sides).
        top_k: selected tokens that are attended; with mass, at most. So all patterns that select attend the same number
            where the past is long enough.
        candidates: tokens that the search returns for exact rescoring; at most top_k: no rescoring. This and
            the options from top_nodes to min_top_k, node, tail, parts and head_top_k are of hsa; other patterns do
            not look at them, and those with lists refuse far_field, mass, tail and head_top_k.
        block: tokens per block, a power of two up to 64.
        sinks: first tokens, always attended, besides top_k.
        top_nodes: the search starts at the finest level on which at most so many nodes cover the past.
        beam: nodes refined per level; None: candidates / block.
        dense_until: a position whose past is at most this many tokens attends all of it. None: 1024, with a tail as
            many as are candidates, but more where bfloat16 is multiplied by AMX, whose dense attention is faster than a
            search: 8192, without rescoring 2048.
        far_field: attend pooled nodes for all that was not kept; for models trained with it.
        levels: "auto", or 1 to 6: the search starts at nodes of 2**levels tokens.
        pooling: "mean" or "max", of the keys and values of a node, element by element.
        mass: 0: top_k tokens; else the share of the attention that is enough, up to 1: fewer tokens are attended where
            fewer are estimated to hold it, and at most top_k. In steps of a millionth.
        min_top_k: with mass, selected tokens that are attended in any case.
        stride: of sparse_transformer, in tokens, rounded up to blocks; of what it asks for, the nearest top_k tokens
            are attended. None: at each position the smallest with which top_k tokens reach all of its past; what that
            leaves of top_k goes to the nearest blocks.
        dilation: of longformer, in blocks; 1: no gaps.
        pattern_seed: of bigbird's random blocks, at least 0; each block of positions and each kv head draws its own.
        node: tokens of the smallest nodes that the search scores, a power of two from block to 64; None: block. If it
            is more, rescoring keeps single blocks of the candidates, which are nodes; not with far_field.
        tail: 0: what the search rejects is not seen; else each candidate's mean value is attended with this share of
            the attention that its rejected tokens have. Has no gradient; not with far_field, nor with a given plan.
        parts: equal parts of the smallest nodes, a power of two up to node, each of which is scored, and stands in the
            tail, by a mean of its own: finds better candidates for a little more time.
        head_top_k: a top_k for each key/value head, in the place of top_k; each head attends what it would alone, but
            beam, rescoring and dense_until go by the largest.
        scale: multiplies q.k; None: 1/sqrt(dim). "linear" has none.
        features: of "performer": float32 [features, dim] from draw_features(), or their number, drawn with seed; None:
            2 dim.
        projections: of "linformer": those of keys and values, each [rank, longest], learned, for sequences of at most
            longest keys. Bidirectional: of all keys; causal: of each past segment to rank rows, and the tokens of the
            own segment are attended as they are. The layer Linformer holds them.
        segment: of causal "linformer", in tokens.
        plan: a plan of make_plan() for these sizes, used instead of a search; pattern, causal and budgets are its own.
            With sequences: its list of plans, one for each.
        sequences: int64 [count, 5] on the CPU, from packed_sequences(), padded_sequences() or restarting_sequences():
            each is attended as if it were alone; o is 0 and gradients are 0 where a token is in none. Rows: batch
            element, first query, end, first key, end.
        pooled: keys and values of nodes, [batch, kv_heads, nodes, dim] each, float32 (float64 if q is), as Pooler makes
            them: searched and attended in the place of means or maxima. With sequences the pooler must
            have been given them as well.
        return_lse: also return the log of each softmax denominator.

    Returns:
        o [batch, heads, n, dim], of q's type; with return_lse also lse [batch, heads, n], float32 (float64 if q is). A
        row that sees no token gives o = 0 and lse = -inf. Gradients reach q, k and v, and pooled through the far field,
        from o and lse; the selection carries none.

    Raises:
        TypeError for a wrong type, ValueError for an option that cannot be, RuntimeError for shapes or budgets that do
        not fit, NotImplementedError for CUDA tensors, dropout, soft-capping, masks, double backward, derivatives in
        forward mode, torch.func.grad and vjp.
    """
    refuse_unsupported("hsattn.attention", unsupported)
    if pattern in BASELINES:
        if plan is not None:
            raise ValueError(f"hsattn.attention: a plan was given; pattern {pattern!r} has none")
        if pooled is not None:
            raise ValueError(f"hsattn.attention: pooled was given; pattern {pattern!r} attends no nodes")
        if return_lse:
            raise ValueError(f"hsattn.attention: return_lse is True; pattern {pattern!r} returns none")
        q, k, v = (computable("hsattn.attention", name, t) for name, t in (("q", q), ("k", k), ("v", v)))
        rules = {"pattern": pattern, "causal": causal, "scale": scale, "features": features, "seed": seed}
        rules |= {"projections": projections, "segment": segment, "sequences": sequences}
        return baseline_attention("hsattn.attention", q, k, v, **rules)
    for name, given, owner in (("projections", projections, "linformer"), ("features", features, "performer")):
        if given is not None:
            raise ValueError(f"hsattn.attention: {name} are {owner}'s; they were given, pattern is {pattern!r}")
    budgets = budgets_of(
        "hsattn.attention",
        window=window,
        top_k=top_k,
        candidates=candidates,
        block=block,
        sinks=sinks,
        top_nodes=top_nodes,
        beam=beam,
        dense_until=dense_until,
        far_field=far_field,
        levels=levels,
        pooling=pooling,
        mass=mass,
        min_top_k=min_top_k,
        stride=stride,
        dilation=dilation,
        pattern_seed=pattern_seed,
        node=node,
        tail=tail,
        parts=parts,
        head_top_k=head_top_k,
        pattern=pattern,
        others=BASELINES,
    )
    lists = None
    plans = [] if plan is None else _plans_of(plan, q, k, sequences)
    if plans:
        pattern, causal, budgets = _options_of(plans, pattern, causal, budgets)
        lists = plans[0].kept if sequences is None else torch.cat([one.kept.flatten() for one in plans])
    pooled_k, pooled_v = _nodes("hsattn.attention", pooled, budgets)
    q, k, v = (computable("hsattn.attention", name, t) for name, t in (("q", q), ("k", k), ("v", v)))
    if transformed() and any(torch._C._functorch.is_gradtrackingtensor(t) for t in (q, k, v)):
        raise NotImplementedError(
            "hsattn.attention: torch.func.grad and vjp are not supported; backward() and torch.autograd.grad() are"
        )
    if sequences is not None and not isinstance(sequences, Tensor):
        raise TypeError(
            f"hsattn.attention: sequences is {sequences!r}; it must be a tensor, as packed_sequences() gives"
        )
    rules = (pattern, causal, budgets.numbers(), scale)
    sources = (q, k, v) if pooled is None else (q, k, v, pooled_k, pooled_v)
    if torch.is_grad_enabled() and (transformed() or any(t.requires_grad for t in sources)):
        if budgets.tail > 0:
            raise NotImplementedError(
                f"hsattn.attention: tail is {tail!r} and a gradient is asked for; a tail has none: "
                "call within torch.no_grad(), or with tail=0"
            )
        o, lse, _ = attention_with_gradient(q, k, v, lists, *rules, plan is None, sequences, pooled_k, pooled_v)
    else:
        o, lse = ops.attention_no_grad(q, k, v, lists, *rules, sequences, pooled_k, pooled_v)
    return (o, lse) if return_lse else o


def preset(name: str) -> dict[str, Any]:
    """Options that suit a purpose, as far as they are not the defaults: attention(q, k, v, **preset("pretrained")).

    Args:
        name: "any_model" (the defaults, so nothing), "training" (for models that are trained with it: half the
            candidates), "pretrained" (closer to full attention and slower: pairs of tokens, better candidates and a
            tail; for inference alone) or "paper" (no rescoring, far field on).

    Raises:
        RuntimeError for another name.
    """
    usual = Budgets().as_options()
    chosen = Budgets.of_numbers(ops.preset(name)).as_options()
    return {option: value for option, value in chosen.items() if value != usual[option]}


def make_plan(
    q: Tensor,
    k: Tensor,
    *,
    pattern: str = "hsa",
    causal: bool = True,
    window: int = 128,
    top_k: int = 512,
    candidates: int = 4096,
    block: int = 8,
    sinks: int = 8,
    top_nodes: int = 1024,
    beam: int | None = None,
    dense_until: int | None = None,
    far_field: bool = False,
    levels: int | str = "auto",
    pooling: str = "mean",
    mass: float = 0.0,
    min_top_k: int = 64,
    stride: int | None = None,
    dilation: int = 1,
    pattern_seed: int = 0,
    node: int | None = None,
    tail: float = 0.0,
    parts: int = 1,
    head_top_k: Sequence[int] | None = None,
    scale: float | None = None,
    sequences: Tensor | None = None,
    pooled: tuple[Tensor, Tensor] | None = None,
) -> Plan | list[Plan]:
    """Chooses what every position attends: the plan that attention() with the same arguments follows.

    A position's list depends on its own queries and the keys before it alone, never on other queries, the thread count
    or how a sequence is cut into calls. Arguments, shapes and errors are those of attention(). With sequences: a list,
    the plan of each sequence as if it were alone.
    """
    budgets = budgets_of(
        "hsattn.make_plan",
        window=window,
        top_k=top_k,
        candidates=candidates,
        block=block,
        sinks=sinks,
        top_nodes=top_nodes,
        beam=beam,
        dense_until=dense_until,
        far_field=far_field,
        levels=levels,
        pooling=pooling,
        mass=mass,
        min_top_k=min_top_k,
        stride=stride,
        dilation=dilation,
        pattern_seed=pattern_seed,
        node=node,
        tail=tail,
        parts=parts,
        head_top_k=head_top_k,
        pattern=pattern,
    )
    q, k = (computable("hsattn.make_plan", name, t.detach()) for name, t in (("q", q), ("k", k)))
    pooled_k = None if pooled is None else pooled[0].detach()
    lists = ops.make_plan(q, k, pattern, causal, budgets.numbers(), scale, sequences, pooled_k)
    budgets = budgets._replace(dense_until=ops.dense_until(q, budgets.numbers()))  # what auto is for this type
    rules = {"pattern": pattern, "causal": causal, "budgets": budgets, "heads": q.shape[1]}
    if sequences is None:
        return Plan(lists, keys=k.shape[2], **rules)
    shapes = [(1, k.shape[1], end - begin, budgets.slots(pattern)) for _, begin, end, _, _ in sequences.tolist()]
    counts = [math.prod(shape) for shape in shapes]
    parts = lists[: sum(counts)].split(counts)
    keys = (sequences[:, 4] - sequences[:, 3]).tolist()
    return [Plan(part.view(shape), keys=m, **rules) for part, shape, m in zip(parts, shapes, keys, strict=True)]


class Attention(torch.nn.Module):
    """attention() with its options fixed, as a layer: `Attention(top_k=256)(q, k, v)`. It has no parameters."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plan: Plan | list[Plan] | None = None,
        pooled: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        return attention(q, k, v, plan=plan, pooled=pooled, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


def _nodes(who: str, pooled: tuple[Tensor, Tensor] | None, budgets: Budgets) -> tuple[Tensor | None, Tensor | None]:
    """The caller's nodes, after a check that nothing contradicts them."""
    if pooled is None:
        return None, None
    if budgets.pooling != 0:
        raise ValueError(f"{who}: pooled was given, so nothing is pooled here; leave pooling out")
    k, v = pooled
    if not budgets.far_field and torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
        raise ValueError(
            f"{who}: pooled requires a gradient, which reaches nodes and the parameters behind them through the far "
            "field alone, and far_field is False; set it, or pool under torch.no_grad()"
        )
    return k, v


def _plans_of(plan: Plan | list[Plan], q: Tensor, k: Tensor, sequences: Tensor | None) -> list[Plan]:
    """One plan for the tensors, or one for each sequence, after a check that their sizes are right."""
    if isinstance(plan, Plan) != (sequences is None):
        found, right = ("one plan", "one for each") if isinstance(plan, Plan) else ("a list of plans", "one plan")
        given = "no sequences were" if sequences is None else f"{sequences.shape[0]} sequences were"
        raise ValueError(f"hsattn.attention: plan is {found} and {given} given; {right} is right, as make_plan() gives")
    heads = (q.shape[1], k.shape[1])
    if sequences is None:
        plans, sizes = [plan], [(q.shape[0], *heads, q.shape[2], k.shape[2])]
    else:
        plans = plan
        sizes = [(1, *heads, end - begin, last - first) for _, begin, end, first, last in sequences.tolist()]
    if len(plans) != len(sizes):
        raise ValueError(f"hsattn.attention: there are {len(plans)} plans for {len(sizes)} sequences")
    for one, right in zip(plans, sizes, strict=True):
        found = (one.batch, one.heads, one.kv_heads, one.queries, one.keys)
        if found != right:
            raise ValueError(
                "hsattn.attention: the plan is for batch, heads, kv_heads, queries, keys "
                f"{found}; the tensors have {right}"
            )
    return plans


def _options_of(plans: list[Plan], pattern: str, causal: bool, budgets: Budgets) -> tuple[str, bool, Budgets]:
    """The plans' options, after a check that the call does not name others."""
    default = ("hsa", True, *Budgets())
    asked = (pattern, causal, *budgets)
    for plan in plans:
        found = (plan.pattern, plan.causal, *plan.budgets)
        for name, a, d, f in zip(("pattern", "causal", *Budgets._fields), asked, default, found, strict=True):
            if a not in (d, f):
                raise ValueError(f"hsattn.attention: {name} is {a!r}, the plan was made with {f!r}; leave it out")
        if found != (plans[0].pattern, plans[0].causal, *plans[0].budgets):
            raise ValueError("hsattn.attention: the plans were made with different options; all must be the same")
    return plans[0].pattern, plans[0].causal, plans[0].budgets
