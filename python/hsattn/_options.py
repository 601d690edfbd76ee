"""Options of a call: names, types, what is refused. Ranges are checked by the library itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

PATTERNS = ("full", "local", "hsa", "sparse_transformer", "sparse_transformer_fixed", "longformer", "bigbird")
BY_FEATURES = ("linear", "performer")
BASELINES = (*BY_FEATURES, "linformer")  # without lists: _baselines.py
_POOLINGS = ("mean", "max")
POOLERS = ("attention", "attention_paper", "learnable")  # with parameters: _pooler.py
_MILLION = 1_000_000  # the ops take whole numbers

# Options whose name given to other patterns would be a mistake: the value that asks for nothing, the patterns that take
# them. full and local, which list nothing, let pass what others do with their lists.
_OWN = {
    "far_field": (0, ("full", "local", "hsa")),
    "mass": (0, ("full", "local", "hsa")),
    "tail": (0, ("full", "local", "hsa")),
    "head_top_k": ((), ("full", "local", "hsa")),
    "stride": (0, ("sparse_transformer", "sparse_transformer_fixed")),
    "dilation": (1, ("longformer",)),
    "pattern_seed": (0, ("bigbird",)),
}

# Refused by name, so that nobody believes that they took effect; a value that asks for nothing is accepted.
_UNSUPPORTED = {
    "dropout": "dropout on attention weights",
    "dropout_p": "dropout on attention weights",
    "softcap": "soft-capping of scores",
    "soft_cap": "soft-capping of scores",
    "logits_soft_cap": "soft-capping of scores",
    "attn_mask": "a mask of the caller's",
    "alibi_slopes": "a bias on scores",
}


class Budgets(NamedTuple):
    """Numbers of a call, in tokens unless said otherwise, in the order in which the ops take them.

    beam (nodes), levels, stride and node: 0 means auto; dense_until: -1 does. far_field: 0 or 1. pooling: 0 (mean) or 1
    (max). mass, tail: in millionths. head_top_k: empty if top_k is for all heads.
    """

    window: int = 128
    top_k: int = 512
    candidates: int = 4096
    block: int = 8
    sinks: int = 8
    top_nodes: int = 1024
    beam: int = 0
    dense_until: int = -1
    far_field: int = 0
    levels: int = 0
    pooling: int = 0
    mass: int = 0
    min_top_k: int = 64
    stride: int = 0
    dilation: int = 1
    pattern_seed: int = 0
    node: int = 0
    tail: int = 0
    parts: int = 1
    head_top_k: tuple[int, ...] = ()

    @classmethod
    def of_numbers(cls, numbers: Sequence[int]) -> Budgets:
        """The list that the ops take, back."""
        single = len(cls._fields) - 1
        return cls(*numbers[:single], tuple(numbers[single:]))

    def numbers(self) -> list[int]:
        """The list that the ops take."""
        return [*self[:-1], *self.head_top_k]

    def slots(self, pattern: str) -> int:
        """Length of each position's list, in blocks."""
        if pattern in ("full", "local"):
            return 0
        most = 2**self.levels if self.levels > 0 else 64
        block = min(self.block, most)
        node = max(block, min(self.node, most)) if pattern == "hsa" else block
        top_k = max(self.head_top_k) if pattern == "hsa" and self.head_top_k else self.top_k
        return -(-top_k // block) - (-self.sinks // node) * (node // block)

    def as_options(self) -> dict[str, Any]:
        """The same as attention() takes them."""
        return self._asdict() | {
            "beam": self.beam or None,
            "dense_until": None if self.dense_until < 0 else self.dense_until,
            "far_field": bool(self.far_field),
            "levels": self.levels or "auto",
            "pooling": _POOLINGS[self.pooling],
            "mass": self.mass / _MILLION,
            "stride": self.stride or None,
            "node": self.node or None,
            "tail": self.tail / _MILLION,
            "head_top_k": list(self.head_top_k) or None,
        }


def budgets_of(
    who: str,
    *,
    window: int,
    top_k: int,
    candidates: int,
    block: int,
    sinks: int,
    top_nodes: int,
    beam: int | None,
    dense_until: int | None,
    far_field: bool,
    levels: int | str,
    pooling: str,
    mass: float,
    min_top_k: int,
    stride: int | None,
    dilation: int,
    pattern_seed: int,
    node: int | None,
    tail: float,
    parts: int,
    head_top_k: Sequence[int] | None,
    pattern: str,
    others: tuple[str, ...] = (),
) -> Budgets:
    """Checks the types of a call's options, and that the pattern has them, and gives them the form of the ops.

    others: patterns without budgets that the caller takes besides, for the message.

    Raises TypeError for a wrong type, ValueError for a wrong value.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"{who}: pattern is {pattern!r}; it must be one of {', '.join(PATTERNS + others)}")
    counts = {
        "window": window,
        "top_k": top_k,
        "candidates": candidates,
        "block": block,
        "sinks": sinks,
        "top_nodes": top_nodes,
        "min_top_k": min_top_k,
        "dilation": dilation,
        "pattern_seed": pattern_seed,
        "parts": parts,
    }
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{who}: {name} is {value!r}; it must be an int")
    if beam is not None and (not isinstance(beam, int) or isinstance(beam, bool)):
        raise TypeError(f"{who}: beam is {beam!r}; it must be an int, or None for candidates / block")
    if dense_until is not None and (not isinstance(dense_until, int) or isinstance(dense_until, bool)):
        raise TypeError(f"{who}: dense_until is {dense_until!r}; it must be an int, or None for auto")
    if stride is not None and (not isinstance(stride, int) or isinstance(stride, bool) or stride < 1):
        raise ValueError(f"{who}: stride is {stride!r}; it must be an int of at least 1, or None for auto")
    if node is not None and (not isinstance(node, int) or isinstance(node, bool) or node < 1):
        raise ValueError(f"{who}: node is {node!r}; it must be an int of at least 1, or None for block")
    if head_top_k is not None and not _are_counts(head_top_k):
        raise TypeError(f"{who}: head_top_k is {head_top_k!r}; it must be a list of ints, or None for top_k for all")
    if not isinstance(far_field, bool):
        raise TypeError(f"{who}: far_field is {far_field!r}; it must be True or False")
    if levels != "auto" and (not isinstance(levels, int) or isinstance(levels, bool) or not 1 <= levels <= 6):
        raise ValueError(f"{who}: levels is {levels!r}; it must be 'auto' or from 1 to 6")
    if pooling in POOLERS:
        raise ValueError(
            f"{who}: pooling {pooling!r} has parameters; give pooled=hsattn.Pooler({pooling!r}, dim)(k, v)"
        )
    if pooling not in _POOLINGS:
        raise ValueError(f"{who}: pooling is {pooling!r}; it must be one of {', '.join(_POOLINGS)}")
    for name, share in (("mass", mass), ("tail", tail)):
        if not isinstance(share, (int, float)) or isinstance(share, bool):
            raise TypeError(f"{who}: {name} is {share!r}; it must be a float")
        if not 0 <= share <= 1:
            raise ValueError(f"{who}: {name} is {share!r}; it must be 0 (off) or a share of at most 1")
        if share > 0 and round(share * _MILLION) == 0:
            raise ValueError(f"{who}: {name} is {share!r}; it counts in millionths, and 0 would switch it off")
    budgets = Budgets(
        window,
        top_k,
        candidates,
        block,
        sinks,
        top_nodes,
        0 if beam is None else beam,
        -1 if dense_until is None else dense_until,
        int(far_field),
        0 if levels == "auto" else int(levels),
        _POOLINGS.index(pooling),
        round(mass * _MILLION),
        min_top_k,
        0 if stride is None else stride,
        dilation,
        pattern_seed,
        0 if node is None else node,
        round(tail * _MILLION),
        parts,
        () if head_top_k is None else tuple(head_top_k),
    )
    for name, (unset, patterns) in _OWN.items():
        if getattr(budgets, name) != unset and pattern not in patterns:
            raise ValueError(f"{who}: {name} was given; pattern {pattern!r} has none; leave it out")
    return budgets


def _are_counts(values: Any) -> bool:
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)) or not values:
        return False
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def refuse_unsupported(who: str, options: dict[str, Any]) -> None:
    """Raises NotImplementedError for what attention elsewhere can do and this one cannot, TypeError for other names."""
    for name, value in options.items():
        if name not in _UNSUPPORTED:
            raise TypeError(f"{who}: unexpected keyword argument {name!r}")
        if value is not None and not (isinstance(value, (int, float)) and value == 0):
            raise NotImplementedError(f"{who}: {name} was given; {_UNSUPPORTED[name]} is not supported")
