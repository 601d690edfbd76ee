"""Sequences that share tensors: packed one after another, or padded rows of a batch."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from hsattn._attention import attention
from hsattn._ops import ops


def packed_sequences(cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None = None) -> Tensor:
    """Sequences, for attention(sequences=), that are packed into batch element 0.

    cu_seqlens_q, cu_seqlens_k: int32 or int64 [count + 1] on the CPU, from 0, not decreasing: sequence i has the tokens
    [cu_seqlens[i], cu_seqlens[i + 1]). The keys' offsets are the queries' if not given. Tokens after the last one are
    padding.
    """
    return ops.packed_sequences(cu_seqlens_q, cu_seqlens_k)


def padded_sequences(mask: Tensor, queries: int | None = None) -> Tensor:
    """Sequences, for attention(sequences=), that are the rows of a batch without their padding.

    mask: bool or integer [batch, keys], true where a token is real, as tokenizers give it; the real tokens of a row lie
    side by side, with padding left or right of them. queries: how many of the last tokens are queries; None: all.
    """
    if mask.is_floating_point():
        raise TypeError(f"hsattn.padded_sequences: mask has type {mask.dtype}; it must be bool or integer, 1 for real")
    return ops.padded_sequences(mask.bool(), mask.shape[-1] if queries is None else queries)


def restarting_sequences(position_ids: Tensor) -> Tensor:
    """Sequences, for attention(sequences=), that begin wherever positions [batch, tokens] do not go on by 1.

    Their number depends on the values: call it outside of compiled code.
    """
    if position_ids.dim() != 2:
        raise ValueError(
            f"hsattn.restarting_sequences: position_ids has {position_ids.dim()} dimensions; [batch, tokens] is right"
        )
    sequences = []
    for batch, row in enumerate(position_ids):
        starts = (torch.nonzero(row[1:] != row[:-1] + 1).flatten() + 1).tolist()
        edges = [0, *starts, len(row)]
        sequences += [[batch, begin, end, begin, end] for begin, end in itertools.pairwise(edges)]
    return torch.tensor(sequences, dtype=torch.int64).reshape(-1, 5)


def attention_packed(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None = None, **options: Any
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of sequences packed one after another, each as if it were alone.

    Args:
        q: [total, heads, dim]; views are read in place as in attention().
        k, v: [total keys, kv_heads, dim].
        cu_seqlens_q, cu_seqlens_k: as in packed_sequences().
        options: those of attention(), without sequences; plan is a list, as make_plan(sequences=) gives it.

    Returns:
        o [total, heads, dim], contiguous; with return_lse also lse [heads, total].
    """
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.dim() != 3:
            raise ValueError(
                f"hsattn.attention_packed: {name} has shape {list(t.shape)}; it must be [tokens, heads, dim]"
            )
    views = (t.transpose(0, 1).unsqueeze(0) for t in (q, k, v))
    found = attention(*views, sequences=packed_sequences(cu_seqlens_q, cu_seqlens_k), **options)
    if isinstance(found, tuple):
        return found[0][0].transpose(0, 1), found[1][0]
    return found[0].transpose(0, 1)
