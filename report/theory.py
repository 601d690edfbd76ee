"""The two theorems: the bound of pooled softmax, and the rates at which losses fall."""

import math

from report.blocks import Block, Section, Table, number, plus_minus
from report.chart import Series, line_chart
from report.quality import system_qualities
from report.statistics import decay_rate, interval, mean


def bound_table(found):
    lines = [
        [r.labels.get("cases", ""), f"{r.numbers['cases']:,}", f"{r.numbers['exceeded']:,}",
         *(number(r.numbers[key], 3) for key in ("tightness_median", "tightness_90", "tightness_99", "tightness_most"))]
        for r in found
    ]  # fmt: skip
    head = ["rows", "cases", "bound exceeded", "error / bound: median", "90 %", "99 %", "most"]
    return Table("Theorem 1: is the bound ever exceeded?", head, lines)


def bound_chart(result):
    """Error by alpha, a curve for each length."""
    cells = result.numbers["by_length_and_alpha"]
    series = []
    for style, tokens in zip("abcdefghijk", sorted({c["tokens"] for c in cells}), strict=False):
        points = sorted((c["alpha"], c["error"]) for c in cells if c["tokens"] == tokens and c["error"] > 1e-12)
        series.append(Series(f"{tokens:,}", style, points, markers=True))
    bins = {}
    for c in cells:
        bins.setdefault(math.floor(math.log2(c["alpha"])), []).append(c)
    bound = [(mean([c["alpha"] for c in own]), max(c["bound"] for c in own)) for _, own in sorted(bins.items())]
    series.append(Series("bound", "k", [(alpha, most) for alpha, most in bound if most > 1e-12]))
    return line_chart(series, "coherence α", "error / diameter of the values", log_x=True, log_y=True)


def length_table(result):
    """Means by length, weighted by cases, and what would be constant if the error fell like alpha / log n."""
    cells, lines = result.numbers["by_length_and_alpha"], []
    for tokens in sorted({c["tokens"] for c in cells}):
        own = [c for c in cells if c["tokens"] == tokens]
        cases = sum(c["cases"] for c in own)
        weighted = {key: sum(c[key] * c["cases"] for c in own) / cases for key in ("alpha", "error", "bound", "mass")}
        constant = weighted["error"] * math.log(tokens) / weighted["alpha"] if weighted["alpha"] else None
        lines.append([
            f"{tokens:,}", f"{cases:,.0f}", number(weighted["alpha"]), number(weighted["error"], 5),
            number(weighted["bound"], 5), number(weighted["mass"], 4), number(constant, 5),
        ])  # fmt: skip
    head = ["tokens from", "cases", "α", "error", "bound", "mass on nodes", "error · ln n / α"]
    return Table("By length", head, lines)


def rates(results):
    """{system: [(seed, rate)]}"""
    return {
        system: [
            (r.labels["seed"], fit["rate"])
            for r in results.of("table51", part="seeds", system=system)
            if (fit := decay_rate(r.curve))
        ]
        for system in system_qualities(results)
    }


def rates_table(results):
    fitted = rates(results)
    full = dict(fitted.get("full") or fitted.get("sdpa") or [])
    lines = []
    for system, found in fitted.items():
        if not found:
            continue
        values = [rate for _, rate in found]
        apart = [rate - full[seed] for seed, rate in found if seed in full]
        wide = interval(apart) if apart else None
        inside = "yes" if wide is not None and abs(mean(apart)) <= wide else "no" if wide is not None else "–"
        lines.append([
            system, plus_minus(mean(values), interval(values)), plus_minus(mean(apart), wide) if apart else "–", inside,
        ])  # fmt: skip
    head = ["system", "rate c", "apart from full", "0 inside the interval"]
    return Table("Theorem 2: rates of loss = floor + a · tokens^−c", head, lines)


def theory_section(results):
    found, seeds = results.of("theory"), results.of("table51", part="seeds")
    if not found:
        return None
    section = Section("theory", "The theorems")
    section.text.append("Statements and proofs are in docs/theory.md.")
    section.blocks.append(
        Block("theorem-1", "Theorem 1: the bound", "Error / bound of 1 would be a bound that is reached.",
              table=bound_table(found), results=found)
    )  # fmt: skip
    for r in found:
        kind = r.labels.get("cases")
        caption = "Means over the rows of like length and coherence; the bound is the largest mean of any length."
        section.blocks.append(
            Block(f"theorem-1-{kind}", f"Error by coherence, {kind} rows", caption, bound_chart(r), results=[r])
        )
        caption = "Errors as shares of the values' diameter. Were they O(α / log n), the last column would not grow."
        title, table = f"By length, {kind} rows", length_table(r)
        section.blocks.append(Block(f"theorem-1-{kind}-length", title, caption, table=table, results=[r]))
    if seeds:
        caption = (
            "Fitted to the training loss of each seed without its first tenth; ± is half of the 95 % interval over the "
            "seeds (Student's t). “Apart” compares seed by seed."
        )
        section.blocks.append(
            Block("theorem-2", "Theorem 2: rates", caption, table=rates_table(results), results=seeds)
        )
    return section
