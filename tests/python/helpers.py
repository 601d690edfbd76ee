"""Problems and plain references that the tests share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import hsattn

# Budgets small enough that every stage of the search acts on a few hundred tokens.
SMALL = {
    "window": 16,
    "top_k": 32,
    "candidates": 64,
    "block": 8,
    "sinks": 8,
    "top_nodes": 8,
    "beam": 4,
    "dense_until": 0,
}

# Patterns whose lists follow from the position alone; they have no far field and no mass budget.
LISTING = ("sparse_transformer", "sparse_transformer_fixed", "longformer", "bigbird")
PATTERNS = ("full", "local", "hsa", *LISTING)
PATTERN_AND_FAR_FIELD = [(p, far) for p in PATTERNS for far in (True, False) if not (far and p in LISTING)]


def problem(
    queries: int = 200,
    keys: int | None = None,
    *,
    batch: int = 1,
    heads: int = 2,
    kv_heads: int | None = None,
    dim: int = 16,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    grad: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k, v."""
    keys = queries if keys is None else keys
    kv_heads = heads if kv_heads is None else kv_heads
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, heads, queries, dim), (batch, kv_heads, keys, dim), (batch, kv_heads, keys, dim)
    return tuple(torch.randn(s, generator=generator, dtype=dtype).requires_grad_(grad) for s in shapes)


def by_plan(q: Tensor, k: Tensor, v: Tensor, plan: hsattn.Plan) -> tuple[Tensor, Tensor]:
    """o and lse in double by plain tensor operations: one row of scores for each position, from Plan.levels() alone.

    A token that only a pooled node stands for takes the node's pooled key and value; with all its tokens doing so,
    that is the node itself with the bias log(tokens).
    """
    q, k, v = q.double(), k.double(), v.double()
    group = plan.heads // plan.kv_heads
    o, lse = torch.zeros_like(q), q.new_full(q.shape[:3], -math.inf)
    for b in range(plan.batch):
        for h in range(plan.heads):
            levels = plan.levels(h, batch=b)
            for i in range(plan.queries):
                seen = levels[i] >= 0
                if not seen.any():
                    continue
                keys, values = _pooled(k[b, h // group], v[b, h // group], levels[i], plan.block, plan.budgets.pooling)
                scores = (keys[seen] @ q[b, h, i]) / math.sqrt(q.shape[3])
                o[b, h, i] = scores.softmax(0) @ values[seen]
                lse[b, h, i] = scores.logsumexp(0)
    return o, lse


def _pooled(k: Tensor, v: Tensor, levels: Tensor, block: int, pooling: int) -> tuple[Tensor, Tensor]:
    k, v = k.clone(), v.clone()
    token = 0
    while token < len(levels):
        level = int(levels[token])
        width = block << (level - 2) if level >= 2 else 1
        end = min(token + width, len(levels))
        if level >= 2:
            assert (levels[token:end] == level).all(), "a pooled node was cut"
            for x in (k, v):
                x[token:end] = x[token:end].amax(0) if pooling == 1 else x[token:end].mean(0)
        token = end
    return k, v
