"""Keys and values of sequences that grow: decoding without packing the past again."""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hsattn._attention import attention, computable
from hsattn._ops import ops
from hsattn._options import BASELINES, Budgets, budgets_of, refuse_unsupported

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DEFAULTS = {n: p.default for n, p in inspect.signature(attention).parameters.items() if n in Budgets._fields}


def _rules(who: str, pattern: str, options: dict[str, Any]) -> tuple[str, Budgets]:
    if pattern in BASELINES:
        state = "attention_step() keeps their state of constant size" if pattern != "linformer" else "it has no state"
        raise NotImplementedError(f"{who}: pattern is {pattern!r}; a cache is for patterns that are plans; {state}")
    refuse_unsupported(who, {name: value for name, value in options.items() if name not in _DEFAULTS})
    return pattern, budgets_of(who, pattern=pattern, **(_DEFAULTS | options))


class Cache:
    """Keys and values of one layer, for any number of sequences of different lengths.

    append() packs new tokens, and attend() gives what attention() over the whole sequence gives, bit by bit, however
    its tokens came in: the key pyramid grows with them. Memory grows by pages, which forks share until one of them
    writes. Causal; without gradients; calls on one cache take turns.

    Example:
        cache = hsattn.Cache(kv_heads=3, dim=64, top_k=512)
        cache.append(k, v)                       # the prompt: [1, 3, n, 64]
        o = cache.attend(q)                      # [1, 9, n, 64]
        cache.append(next_k, next_v)             # then token by token
        o = cache.attend(next_q)

    Args:
        kv_heads, dim: of k and v.
        sequences: how many there are, all of them empty.
        dtype: of k, v and q: torch.float32, bfloat16 or float16.
        pattern: as in attention(), but for "linear", "performer" (attention_step() keeps their state) and "linformer".
        page: tokens of a page, a power of two from 64 to 65536.
        rounded_keys: keep keys rounded to bytes, which makes rescoring faster and takes 1 + 4 / dim bytes a number;
            None: yes, but for bfloat16 where the processor multiplies pairs of them.
        options: budgets, named as in attention(). block, levels, pooling and far_field hold for the cache's life; the
            others may differ in each attend().
    """

    def __init__(
        self,
        kv_heads: int,
        dim: int,
        *,
        sequences: int = 1,
        dtype: torch.dtype = torch.float32,
        pattern: str = "hsa",
        page: int = 256,
        rounded_keys: bool | None = None,
        **options: Any,
    ) -> None:
        who = "hsattn.Cache"
        pattern, budgets = _rules(who, pattern, options)
        if dtype not in _DTYPES.values():
            raise TypeError(f"{who}: dtype is {dtype}; it must be torch.float32, bfloat16 or float16")
        name = str(dtype).removeprefix("torch.")
        self._options = options
        self._own(
            ops.cache_new(sequences, kv_heads, dim, name, pattern, budgets.numbers(), page, rounded_keys),
            dtype,
            pattern,
        )

    def _own(self, handle: int, dtype: torch.dtype, pattern: str) -> None:
        self._handle, self.dtype, self.pattern = handle, dtype, pattern
        weakref.finalize(self, ops.cache_free, handle)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return ops.cache_lengths(self._handle)

    @property
    def nbytes(self) -> int:
        """Memory of all pages, each counted once however many sequences share it."""
        return ops.cache_bytes(self._handle)

    @torch.compiler.disable
    def append(self, k: Tensor, v: Tensor, sequence: int | None = None) -> None:
        """Tokens at the end of every sequence, k and v [sequences, kv_heads, n, dim], or of one, [1, kv_heads, n, dim].

        Under torch.autocast they become autocast's type first, as in attention().
        """
        k, v = (_without_gradient("append", name, t) for name, t in (("k", k), ("v", v)))
        ops.cache_append(self._handle, k, v, sequence)

    @torch.compiler.disable
    def attend(
        self,
        q: Tensor,
        sequences: Sequence[int] | None = None,
        *,
        pattern: str | None = None,
        scale: float | None = None,
        return_lse: bool = False,
        **options: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of the last n tokens of these sequences (None: all), whose keys and values have been appended.

        Args:
            q: [sequences, heads, n, dim]; heads is a multiple of kv_heads.
            pattern, options: other than the cache's for this call. A search needs the cache's pyramid: the same block,
                levels and pooling, and far_field only if the cache has it.
            scale, return_lse: as in attention().

        Returns:
            o as q; with return_lse also lse [sequences, heads, n].
        """
        pattern, budgets = _rules("hsattn.Cache.attend", pattern or self.pattern, self._options | options)
        chosen = list(range(len(self.lengths))) if sequences is None else list(sequences)
        q = _without_gradient("attend", "q", q)
        o, lse = ops.cache_attend(self._handle, q, chosen, pattern, budgets.numbers(), scale)
        return (o, lse) if return_lse else o

    def tokens(self, sequence: int = 0) -> tuple[Tensor, Tensor]:
        """A copy of a sequence's keys and values as they were appended: [1, kv_heads, n, dim] each."""
        return ops.cache_tokens(self._handle, torch.empty(0, dtype=self.dtype), sequence)

    def crop(self, length: int, sequence: int | None = None) -> None:
        """Forgets the tokens from `length` on: of one sequence, or of all that are longer."""
        if sequence is not None:
            return ops.cache_crop(self._handle, sequence, length)
        for i, had in enumerate(self.lengths):
            ops.cache_crop(self._handle, i, min(had, length))
        return None

    def fork(self, sequence: int = 0) -> int:
        """A new, last sequence with the tokens of this one, which shares its pages. Returns its number."""
        return ops.cache_fork(self._handle, sequence)

    def reorder(self, parents: Sequence[int] | Tensor) -> None:
        """Sequence i becomes what sequence parents[i] was, and there are as many sequences as parents: for beams."""
        ops.cache_reorder(self._handle, [int(parent) for parent in parents])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes plain keys and values to a file beside `path`, syncs it and renames it."""
        ops.cache_save(self._handle, os.fspath(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Cache:
        """What save() wrote. The file is not trusted: RuntimeError says what is wrong with it."""
        cache = cls.__new__(cls)
        handle = ops.cache_load(os.fspath(path))
        dtype, pattern, budgets = ops.cache_options(handle)
        cache._options = Budgets.of_numbers(budgets).as_options()
        cache._own(handle, _DTYPES[dtype], pattern)
        return cache

    def __deepcopy__(self, memo: Any = None) -> Cache:
        raise TypeError("hsattn.Cache: it cannot be copied; fork() shares what it holds, save() and load() copy it")

    __copy__ = __reduce__ = __reduce_ex__ = __deepcopy__

    def __repr__(self) -> str:
        return f"hsattn.Cache({self.pattern!r}, {self.dtype}, lengths={self.lengths}, nbytes={self.nbytes})"


def _without_gradient(who: str, name: str, t: Tensor) -> Tensor:
    who = f"hsattn.Cache.{who}"
    if torch.is_grad_enabled() and t.requires_grad:
        raise NotImplementedError(
            f"{who}: {name} requires a gradient; a cache carries none: call under torch.no_grad()"
        )
    return computable(who, name, t)
