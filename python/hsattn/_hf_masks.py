"""Which tokens a transformers model lets attend to each other, as a table of sequences.

The table is int64 [1, 1, count, 7]. A row is a run of tokens: the five columns of a sequence of attention(sequences=),
the layer's sliding window (0: none), and whether the run goes on with the sequence of the row before, after padding. It
has four dimensions because models take what has four for a mask that is ready, and hand it on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function

COLUMNS = 7


def sequences_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **_: Any,
) -> Tensor | None:
    """The mask function that transformers calls once a forward pass: a table, or None for causal rows without padding.

    Args:
        q_length, q_offset: queries of this call, and how many tokens came before them.
        kv_length, kv_offset: keys that the cache hands out, and the token that the first of them is. A static cache
            hands out more than there are; what lies behind the last query is in no sequence.
        mask_function: (batch, head, query, key) -> visible, on tokens. It says where packed sequences begin.
        attention_mask: bool [batch, tokens], true for a real token.
        local_size: the sliding window of the layers that this mask is for.
        use_vmap: transformers' sign that the caller added mask functions of his own.
    """
    if use_vmap:
        raise NotImplementedError(
            "hsattn.hf: or_mask_function or and_mask_function was given; a mask of the caller's is not supported"
        )
    end = q_offset + q_length
    if not torch.compiler.is_compiling():
        end = int(end)
        if attention_mask is not None and attention_mask.shape[1] < end:
            raise ValueError(
                f"hsattn.hf: attention_mask has {attention_mask.shape[1]} columns; it must have one for each of the "
                f"{end} tokens, those in the cache included"
            )
        whole = end == kv_offset + kv_length and mask_function is causal_mask_function
        if whole and (attention_mask is None or bool(attention_mask.all())):
            return None
    tokens = torch.arange(kv_offset, kv_offset + kv_length, device=device)
    real = (tokens < end).expand(batch_size, -1)
    if attention_mask is not None:
        real = real & _cut_to(attention_mask, kv_offset, kv_length)
    follows = _visible(mask_function, batch_size, tokens[1:], tokens[:-1])
    later = _visible(mask_function, batch_size, tokens[:-1], tokens[1:]) & real[:, 1:]
    end = torch.as_tensor(end, dtype=torch.int64)
    numbers = (q_length, kv_offset, local_size or 0)
    if torch.compiler.is_compiling():
        return torch.ops.hsattn.sequences_of_mask(real, follows, later, end, *numbers, False)
    return _sequences_of_mask(real, follows, later, end, *numbers, True)


def _cut_to(mask: Tensor, first: int, count: int) -> Tensor:
    """Columns [first, first + count) of a mask, false where it has none."""
    mask = mask[:, first : first + count]
    return torch.nn.functional.pad(mask, (0, count - mask.shape[1]), value=False)


def _visible(mask_function: Callable[..., Any], batch: int, queries: Tensor, keys: Tensor) -> Tensor:
    """Whether each query sees the key beside it: bool [batch, tokens]."""
    rows = torch.arange(batch, device=queries.device)[:, None]
    return mask_function(rows, rows.new_zeros(1, 1), queries[None], keys[None]).expand(batch, len(queries))


def _sequences_of_mask(
    real: Tensor, follows: Tensor, later: Tensor, end: Tensor, queries: int, first_key: int, window: int, holes: bool
) -> Tensor:
    """The table of runs of real tokens that see the one before them.

    real [batch, keys]; follows, later [batch, keys - 1]: whether a token sees the one before it, the one after it. end:
    the token after the last query; first_key: the token that is key 0. holes: whether padding may lie between tokens.
    """
    if bool(later.any()):
        raise NotImplementedError("hsattn.hf: the mask lets tokens see later ones; only causal attention is supported")
    joined = real[:, 1:] & real[:, :-1] & follows
    first = (real & ~torch.nn.functional.pad(joined, (1, 0))).nonzero()
    last = (real & ~torch.nn.functional.pad(joined, (0, 1))).nonzero()
    row, begin, after = first[:, 0], first[:, 1], last[:, 1] + 1
    goes_on = torch.zeros_like(row)
    goes_on[1:] = (row[1:] == row[:-1]) & (begin[1:] != after[:-1])
    if not holes or window > 0:
        _refuse_holes(goes_on, row, begin + first_key, after + first_key)
    to_query = first_key - (int(end) - queries)  # from the number of a key to that of its query
    first_query, after_query = (begin + to_query).clamp(min=0), (after + to_query).clamp(min=0)
    columns = (row, first_query, after_query, begin, after, torch.full_like(row, window), goes_on)
    table = torch.stack(columns, dim=1)
    if not bool(goes_on.any()):
        table = table[first_query < after_query]  # what was packed before them is of no use to these queries
    return table[None, None].contiguous()


def _refuse_holes(goes_on: Tensor, row: Tensor, begin: Tensor, after: Tensor) -> None:
    if bool(goes_on.any()):
        i = int(goes_on.nonzero()[0])
        raise NotImplementedError(
            f"hsattn.hf: row {int(row[i])} of attention_mask has real tokens up to {int(after[i - 1])} and again from "
            f"{int(begin[i])}; in compiled models and in layers with a sliding window padding must lie before or after "
            "them (to generate, pad with padding_side='left')"
        )


_op = torch.library.custom_op("hsattn::sequences_of_mask", _sequences_of_mask, mutates_args=())


@_op.register_fake
def _(real, follows, later, end, queries, first_key, window, holes):
    count = torch.library.get_ctx().new_dynamic_size()
    return real.new_empty((1, 1, count, COLUMNS), dtype=torch.int64)
