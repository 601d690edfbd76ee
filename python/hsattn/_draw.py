"""A plan's picture as SVG: one row for each of some positions, one column for each run of tokens."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import torch
from torch import Tensor

_ROWS, _COLUMNS = 160, 320  # at most; larger plans are sampled (positions) and binned (tokens)
_WIDTH, _LEFT, _TOP, _RIGHT, _BOTTOM = 760, 62, 66, 16, 46
_FAR_SHADES = 6

# Codes of cells: 0 nothing, 1 near run, 2..4 kept blocks (a third, two thirds, all of the cell), 5.. far field by
# height.
_NEAR_CODE, _KEPT_CODE, _FAR_CODE = 1, 2, 5

_STYLE = """
.hsattn-plan{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;--ink:#1f2933;--soft:#66727f;--paper:#fff;
--field:#f2f4f6;--line:#d5dae0;--near:#2b6cb0;--kept:#d9480f;--far:#2f9e77}
@media (prefers-color-scheme:dark){.hsattn-plan{--ink:#e6eaee;--soft:#9aa6b2;--paper:#14181d;--field:#1e242b;
--line:#37414b;--near:#5aa2ec;--kept:#ff8a4c;--far:#4fd1a1}}
.hsattn-plan text{fill:var(--soft)}.hsattn-plan .title{fill:var(--ink);font-size:15px;font-weight:600}
.hsattn-plan .paper{fill:var(--paper)}.hsattn-plan .field{fill:var(--field)}
.hsattn-plan .axis{stroke:var(--line);fill:none}.hsattn-plan .near{fill:var(--near)}
.hsattn-plan .kept{fill:var(--kept)}.hsattn-plan .far{fill:var(--far)}
"""


def draw_levels(row: Callable[[int], Tensor], queries: int, keys: int, *, title: str, block: int) -> str:
    """SVG of a plan. `row(query)` gives the levels of Plan.levels() for one query, int8 [keys]."""
    count = min(queries, _ROWS)
    sampled = [(i + 1) * queries // count - 1 for i in range(count)]  # the last position is always among them
    columns = min(keys, _COLUMNS)
    levels = [row(query) for query in sampled]
    highest = max([int(r.max()) - 2 for r in levels if r.numel()] + [0])
    cells = [_codes(r, columns, highest) for r in levels]
    seen = int((levels[-1].long() >= 0).sum()) if levels else 0
    apart = int(((levels[-1] == 0) | (levels[-1] == 1)).sum()) if levels else 0

    width = _WIDTH - _LEFT - _RIGHT
    height = width if queries == keys else max(120, min(width, width * queries // max(1, keys)))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="hsattn-plan" viewBox="0 0 {_WIDTH} {_TOP + height + _BOTTOM}" '
        f'role="img" aria-label="{escape(title, quote=True)}"><style>{_STYLE}</style>',
        f'<rect class="paper" width="{_WIDTH}" height="{_TOP + height + _BOTTOM}"/>',
        f'<text class="title" x="{_LEFT}" y="24">{escape(title)}</text>',
        _legend(highest, any(code >= _FAR_CODE for r in cells for code in r)),
        f'<rect class="field" x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}"/>',
        f'<g transform="translate({_LEFT} {_TOP}) scale({width / max(1, columns):.6g} {height / max(1, count):.6g})">',
        *_paths(cells),
        "</g>",
        _axes(width, height, queries, keys),
        f'<text x="{_WIDTH - _RIGHT}" y="24" text-anchor="end">last position: {apart} of {keys} tokens one by one'
        f"{f', {seen - apart} pooled' if seen > apart else ''}; blocks of {block}</text>",
        "</svg>",
    ]
    return "".join(parts)


def _codes(levels: Tensor, columns: int, highest: int) -> list[int]:
    """Cell codes of one row: what most deserves to be seen among a cell's tokens."""
    keys = levels.numel()
    if keys == 0:
        return []
    cell = torch.arange(keys) * columns // keys  # [keys]
    tokens = torch.bincount(cell, minlength=columns)

    def share(mask: Tensor) -> Tensor:
        return torch.bincount(cell[mask], minlength=columns) / tokens

    far = torch.where(levels >= 2, levels - 2, 127).long()
    finest = torch.full((columns,), 127).scatter_reduce(0, cell, far, "amin")
    codes = torch.where(finest < 127, _FAR_CODE + _shade(finest, highest), 0)
    kept = share(levels == 1)
    codes = torch.where(kept > 0, _KEPT_CODE + (kept * 3).ceil().long().clamp(1, 3) - 1, codes)
    codes = torch.where(share(levels == 0) >= 0.5, _NEAR_CODE, codes)
    return codes.tolist()


def _shade(level: Tensor | int, highest: int) -> Tensor | int:
    return level * (_FAR_SHADES - 1) // max(highest, 1)


def _look(code: int) -> str:
    """Class and opacity of a code: far nodes pale with their height, kept blocks with the share of the cell."""
    if code == _NEAR_CODE:
        return 'class="near"'
    if code < _FAR_CODE:
        return f'class="kept" opacity="{(0.45, 0.72, 1)[code - _KEPT_CODE]}"'
    return f'class="far" opacity="{0.75 - 0.12 * (code - _FAR_CODE):.2f}"'


def _paths(cells: list[list[int]]) -> list[str]:
    """One path for each code; equal neighbours in a row are one rectangle."""
    drawn: dict[int, list[str]] = {}
    for y, row in enumerate(cells):
        start = 0
        for x in range(1, len(row) + 1):
            if x < len(row) and row[x] == row[start]:
                continue
            if row[start] != 0:
                drawn.setdefault(row[start], []).append(f"M{start} {y}h{x - start}v1h-{x - start}z")
            start = x
    return [f'<path {_look(code)} d="{"".join(runs)}"/>' for code, runs in sorted(drawn.items())]


def _legend(highest: int, far: bool) -> str:
    items = [(_look(_NEAR_CODE), "near run"), (_look(_KEPT_CODE + 2), "kept blocks")]
    if far:
        items.append((_look(_FAR_CODE), "far field, one block"))
        if highest > 0:
            items.append((_look(_FAR_CODE + _FAR_SHADES - 1), f"up to {2**highest} blocks"))
    items.append(('class="field" stroke="var(--line)"', "not seen"))
    parts, x = [], _LEFT
    for look, text in items:
        parts.append(f'<rect {look} x="{x}" y="40" width="12" height="12"/><text x="{x + 18}" y="50">{text}</text>')
        x += 34 + 6.4 * len(text)
    return "".join(parts)


def _axes(width: int, height: int, queries: int, keys: int) -> str:
    parts = [f'<rect class="axis" x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}"/>']
    for i in range(5):
        x, token = _LEFT + width * i / 4, keys * i // 4
        y, position = _TOP + height * i / 4, keys - queries + queries * i // 4
        parts.append(f'<path class="axis" d="M{x:.1f} {_TOP + height}v5M{_LEFT} {y:.1f}h-5"/>')
        parts.append(f'<text x="{x:.1f}" y="{_TOP + height + 19}" text-anchor="middle">{token}</text>')
        parts.append(f'<text x="{_LEFT - 9}" y="{y + 4:.1f}" text-anchor="end">{position}</text>')
    parts.append(f'<text x="{_LEFT + width / 2}" y="{_TOP + height + 38}" text-anchor="middle">token</text>')
    middle = _TOP + height / 2
    parts.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">position</text>')
    return "".join(parts)
