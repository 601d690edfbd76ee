"""Poolers with parameters: keys and values of the nodes that stand for many tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hsattn._ops import computable, ops
from hsattn._options import POOLERS


class Pooled(NamedTuple):
    """Keys and values of nodes, for attention(pooled=): each [batch, kv_heads, nodes, dim], float32 (float64 if k is).

    Levels lie one after another, blocks first; each level has half as many nodes as the one before, rounded up, down
    to one. With sequences, one sequence after another.
    """

    k: Tensor
    v: Tensor


def pool(
    k: Tensor, v: Tensor, weight: Tensor, *, pooling: str, block: int = 8, sequences: Tensor | None = None
) -> Pooled:
    """What a pooler makes of keys and values [batch, kv_heads, m, dim]; differentiable in all three tensors.

    Args:
        k, v: as in attention(); under torch.autocast they become autocast's type first.
        weight: the pooler's parameters [rows, dim], as Pooler has them.
        pooling: "attention": means of a node's tokens with weights softmax(w.k), the same for k and v; weight is [w].
            "learnable": pairs from single tokens up, with softmax over two positions of a weight for each position and
            channel; rows: first position's of k, of v, second position's of k, of v.
            "attention_paper": the paper's AdaptivePool, multi-head attention among a node's children, mean, LayerNorm;
            rows: W_q, W_k, W_v, W_o as [outputs, inputs], LayerNorm's factor and offset, for k and v alike.
        block: tokens per block, that of the attention that takes the nodes: min(block, 2**levels) if levels are set.
        sequences: as in attention(): each is pooled as if it were alone, and its nodes follow those of the sequence
            before it. There is room for as many nodes as sequences of any lengths can have; what is left is 0.
    """
    if pooling not in POOLERS:
        raise ValueError(f"hsattn.pool: pooling is {pooling!r}; it must be one of {', '.join(POOLERS)}")
    k, v = computable("hsattn.pool", "k", k), computable("hsattn.pool", "v", v)
    weight = weight.to(torch.float64 if k.dtype == torch.float64 else torch.float32)
    return Pooled(*ops.pool_forward(k, v, weight, pooling, block, sequences))


class Pooler(torch.nn.Module):
    """pool() with parameters of its own: `attention(q, k, v, far_field=True, pooled=Pooler("attention", 64)(k, v))`.

    One pooler may serve all layers, heads and levels, or there may be one for each layer. "attention" and "learnable"
    start as the mean. Parameters get a gradient through the far field alone.
    """

    def __init__(self, pooling: str, dim: int, *, block: int = 8, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if pooling not in POOLERS:
            raise ValueError(f"hsattn.Pooler: pooling is {pooling!r}; it must be one of {', '.join(POOLERS)}")
        self.pooling = pooling
        self.block = block
        self.weight = torch.nn.Parameter(ops.initial_pooler(torch.empty(0, dim, dtype=dtype), pooling))

    def forward(self, k: Tensor, v: Tensor, *, sequences: Tensor | None = None) -> Pooled:
        return pool(k, v, self.weight, pooling=self.pooling, block=self.block, sequences=sequences)

    def extra_repr(self) -> str:
        return f"{self.pooling!r}, {self.weight.shape[1]}, block={self.block}"
