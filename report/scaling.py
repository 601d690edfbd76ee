"""5.2: a training step and a forward pass by length, against standard and sdpa."""

from report import paper
from report.blocks import DASH, Block, Section, Table, number
from report.chart import Series, line_chart
from report.quality import middle_of

STYLES = {"hsa": "a", "sdpa": "b", "standard": "c"}
PASSES = (("step", "Training step", "all_ms"), ("forward", "Forward pass", "all_forward_ms"))


def rows_by_system(results):
    """{attention: {length: row}}"""
    rows = {}
    for r in results.of("scaling"):
        for row in r.numbers.get("results", []):
            rows.setdefault(row["attention"], {})[row["length"]] = row
    return rows


def scaling_section(results):
    rows = rows_by_system(results)
    if not rows:
        return None
    section = Section("scaling", "5.2 Scaling")
    section.text.append(
        "Both axes are logarithmic: a slope of 2 is quadratic, of 1 linear. Bars reach from the fastest to the slowest "
        "timing. Where a system ends before the others, its memory was not there."
    )
    lengths = sorted({length for by_length in rows.values() for length in by_length})
    for key, title, times in PASSES:
        series = []
        for attention, by_length in rows.items():
            found = {n: m for n in sorted(by_length) if (m := middle_of(by_length[n], times))}
            series.append(
                Series(
                    attention,
                    STYLES.get(attention, "d"),
                    [(n, m[0]) for n, m in found.items()],
                    markers=True,
                    spread=[m[1:] for m in found.values()],
                )
            )
        chart = line_chart(
            series, "tokens", "milliseconds", log_x=True, log_y=True, x_ticks=lengths, x_text=lambda n: f"{n:,.0f}"
        )
        section.blocks.append(Block(f"scaling-{key}", title, "", chart, results=results.of("scaling")))
    section.blocks.append(
        Block("scaling-table", "By length", caption(rows), table=scaling_table(rows, lengths),
              results=results.of("scaling"))
    )  # fmt: skip
    return section


def ratio(rows, length, key, other):
    ours, theirs = rows.get("hsa", {}).get(length, {}).get(key), rows.get(other, {}).get(length, {}).get(key)
    return ours / theirs if ours and theirs else None


def scaling_table(rows, lengths):
    lines = []
    for n in lengths:
        line = [f"{n:,}"]
        for key in ("ms", "forward_ms"):
            line += [number(rows.get(a, {}).get(n, {}).get(key), 1) for a in ("hsa", "sdpa", "standard")]
            line += [number(ratio(rows, n, key, other), 2) for other in ("sdpa", "standard")]
        lines.append(line)
    names = ["hsa", "sdpa", "standard", "hsa / sdpa", "hsa / standard"]
    head = ["tokens", *(f"step: {n}" if i == 0 else n for i, n in enumerate(names))]
    head += [f"forward: {n}" if i == 0 else n for i, n in enumerate(names)]
    return Table("Milliseconds by length", head, lines)


def caption(rows):
    here = ratio(rows, 512, "ms", "standard")
    return (
        f"At 512 tokens the paper's HSA takes {paper.TIME_AT_512} times standard's training time; here "
        f"{number(here, 2) if here else DASH}. The step is {paper.STEP_SPEEDUP} times as fast as standard's (paper) "
        f"{fastest(rows)}."
    )


def fastest(rows):
    """The shortest length at which the whole step reaches the paper's ratio."""
    for n in sorted(rows.get("hsa", {})):
        there = ratio(rows, n, "ms", "standard")
        if there and 1 / there >= paper.STEP_SPEEDUP:
            return f"from {n:,} tokens on: {1 / there:.2f} times there"
    return "at no length that was measured"


def scaling_losses(results):
    rows = rows_by_system(results)
    lines = []
    for n in sorted(rows.get("hsa", {})):
        for key, what in (("ms", "Training step"), ("forward_ms", "Forward pass")):
            for other in ("sdpa", "standard"):
                r = ratio(rows, n, key, other)
                if r and r > 1:
                    lines.append(f"{what} of {n:,} tokens: {r:.2f} times as long as {other}")
    return lines
