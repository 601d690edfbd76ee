"""A plan: what every position attends, as data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hsattn._draw import draw_levels
from hsattn._ops import ops
from hsattn._options import Budgets

_CHUNK = 2**22  # scores that mass() holds at once: 16 MiB in float32

UNSEEN, NEAR, KEPT, FAR = -1, 0, 1, 2  # values of levels()


class Plan:
    """The blocks that each position attends besides its near run, and the rules that give the rest.

    Attributes:
        kept: int32 [batch, kv_heads, queries, slots]: block ids, ascending, then -1. Block b is tokens
            [b * block, (b + 1) * block). slots is 0 if the pattern selects nothing.
        pattern, causal, budgets: what the plan was made with.
        batch, heads, kv_heads, queries, keys: sizes it was made for.

    In every method `head` is a query head; the heads of a group share one list. `position` is a place in the keys:
    query i has the position i + keys - queries.
    """

    def __init__(self, kept: Tensor, *, pattern: str, causal: bool, budgets: Budgets, heads: int, keys: int) -> None:
        self.kept = kept
        self.pattern = pattern
        self.causal = causal
        self.budgets = budgets
        self.heads = heads
        self.keys = keys
        self.batch, self.kv_heads, self.queries, self.slots = kept.shape

    @property
    def block(self) -> int:
        """Tokens per block, after `levels` has had its say."""
        levels = self.budgets.levels
        return min(self.budgets.block, 2**levels) if levels > 0 else self.budgets.block

    def blocks(self, position: int, head: int, batch: int = 0) -> list[int]:
        """Block ids that `position` attends besides its near run, ascending. Empty for a dense position."""
        kv_head = self._kv_head(head, batch)
        ids = self.kept[batch, kv_head, self._query(position)]
        return [b for b in ids.tolist() if b >= 0]

    def levels(self, head: int, batch: int = 0, first: int = 0, count: int | None = None) -> Tensor:
        """At which level queries [first, first + count) see each token: int8 [count, keys].

        -1 not at all, 0 in the near run, 1 in a kept block, 2 + l in a pooled node of 2**l blocks.
        """
        kv_head = self._kv_head(head, batch)
        count = self.queries - first if count is None else count
        return ops.plan_map(*self._arguments(), batch, kv_head, first, count)

    def mass(self, q: Tensor, k: Tensor, *, scale: float | None = None) -> Tensor:
        """Share of full attention's softmax mass that lies on tokens which the plan attends one by one.

        q [batch, heads, queries, dim], k [batch, kv_heads, keys, dim]; scale: 1/sqrt(dim) if None. Returns
        [batch, heads, queries], from 0 to 1; 1 where there is nothing to see. Tokens that only a pooled node stands for
        count as not attended. Works through 2**22 scores at a time; the time is that of full attention.
        """
        sizes = (self.batch, self.heads, self.queries), (self.batch, self.kv_heads, self.keys)
        if (tuple(q.shape[:3]), tuple(k.shape[:3])) != sizes:
            raise ValueError(
                f"Plan.mass: q and k have shapes {tuple(q.shape)} and {tuple(k.shape)}; the plan is for [{self.batch}, "
                f"{self.heads}, {self.queries}, dim] and [{self.batch}, {self.kv_heads}, {self.keys}, dim]"
            )
        scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
        mass = q.new_ones(q.shape[:3])
        rows = max(1, _CHUNK // max(1, self.keys))
        with torch.no_grad():
            for first in range(0, self.queries, rows):
                count = min(rows, self.queries - first)
                for batch in range(self.batch):
                    self._mass_of_rows(q, k, scale, batch, first, count, mass)
        return mass

    def draw(self, head: int = 0, batch: int = 0) -> str:
        """A picture of one head, as a self-contained SVG: positions downwards, the tokens they see to the right."""
        kv_head = self._kv_head(head, batch)
        lists = self.kept[batch : batch + 1, kv_head : kv_head + 1].contiguous()
        sizes = [1, 1, self.queries, self.keys]
        rules = (self.pattern, self.causal, self.budgets.numbers(), sizes)

        def row(query: int) -> Tensor:
            return ops.plan_map(lists, *rules, 0, 0, query, 1)[0]

        title = f"{self.pattern}, {'causal' if self.causal else 'bidirectional'}, head {head}"
        return draw_levels(row, self.queries, self.keys, title=title, block=self.block)

    def describe(self) -> str:
        """A few lines: sizes, budgets, attended tokens on average and at most."""
        return ops.describe_plan(*self._arguments())

    def check(self) -> None:
        """Raises ValueError unless no position sees a token twice and, with the far field, each sees all once."""
        wrong = ops.check_plan(*self._arguments())
        if wrong:
            raise ValueError(f"Plan.check: {wrong}")

    def __repr__(self) -> str:
        return (
            f"Plan({self.pattern!r}, causal={self.causal}, batch={self.batch}, heads={self.heads}, "
            f"kv_heads={self.kv_heads}, queries={self.queries}, keys={self.keys}, block={self.block}, "
            f"slots={self.slots})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        rules = (self.pattern, self.causal, self.budgets, self.heads, self.keys)
        same = rules == (other.pattern, other.causal, other.budgets, other.heads, other.keys)
        return same and torch.equal(self.kept, other.kept)

    __hash__ = None  # its tensor can change

    def _mass_of_rows(
        self, q: Tensor, k: Tensor, scale: float, batch: int, first: int, count: int, mass: Tensor
    ) -> None:
        group = self.heads // self.kv_heads
        positions = torch.arange(first, first + count) + (self.keys - self.queries)
        hidden = torch.arange(self.keys) > positions[:, None] if self.causal else None
        for head in range(self.heads):
            scores = q[batch, head, first : first + count] @ k[batch, head // group].T * scale  # [count, keys]
            if hidden is not None:
                scores.masked_fill_(hidden, -math.inf)
            whole = scores.logsumexp(-1)
            if head % group == 0:
                levels = self.levels(head, batch, first, count)
                missed = (levels != NEAR) & (levels != KEPT)
            seen = scores.masked_fill_(missed, -math.inf).logsumexp(-1)
            share = (seen - whole).exp().clamp_(max=1.0)
            mass[batch, head, first : first + count] = torch.where(whole == -math.inf, 1.0, share)

    def _arguments(self) -> tuple[Tensor, str, bool, list[int], list[int]]:
        sizes = [self.batch, self.kv_heads, self.queries, self.keys]
        return self.kept, self.pattern, self.causal, self.budgets.numbers(), sizes

    def _kv_head(self, head: int, batch: int) -> int:
        if not 0 <= batch < self.batch:
            raise IndexError(f"Plan: batch is {batch}; the plan has {self.batch}")
        if not 0 <= head < self.heads:
            raise IndexError(f"Plan: head is {head}; the plan has {self.heads} query heads")
        return head // (self.heads // self.kv_heads)

    def _query(self, position: int) -> int:
        query = position - (self.keys - self.queries)
        if not 0 <= query < self.queries:
            raise IndexError(
                f"Plan: position is {position}; the plan has positions {self.keys - self.queries} to {self.keys - 1}"
            )
        return query
