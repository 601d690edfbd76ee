"""Perplexity: table 5.1, levels, ablations, and whether the setting can rank at all."""

import math

from report import paper
from report.blocks import DASH, Block, Section, Table, number, percent, plus_minus, signed_percent
from report.chart import Series, line_chart
from report.statistics import deviation, mean, median

ALL = "eval_perplexity"
LAST = "eval_perplexity_last_quarter"
FULL = ("full", "sdpa", "standard")  # the same function by different kernels
LINEAR = ("linformer", "performer", "linear")
RANKS = 3  # standard deviations by which full must beat local


class Quality:
    """Perplexities of one system or variant over its seeds."""

    def __init__(self, results):
        self.results = results
        self.all = [v for r in results if (v := r.number(ALL)) is not None]
        self.last = [v for r in results if (v := r.number(LAST)) is not None]

    def text(self, values, digits=3):
        return plus_minus(mean(values), deviation(values), digits) if values else DASH

    def relative_to(self, other):
        """Mean over the seeds that both have: the same data in the same order."""
        theirs = {r.labels.get("seed"): r.number(ALL) for r in other.results}
        ratios = [
            r.number(ALL) / theirs[r.labels.get("seed")] - 1
            for r in self.results
            if r.number(ALL) is not None and theirs.get(r.labels.get("seed"))
        ]
        return (mean(ratios), deviation(ratios)) if ratios else (None, 0)


def system_qualities(results):
    return {
        system: Quality(found)
        for system in results.values("table51", "system")
        if (found := results.of("table51", part="seeds", system=system))
    }


def control(results):
    """(can rank, sentence): whether full beats local at equal budget on the last quarter of the context."""
    qualities = system_qualities(results)
    if "full" not in qualities or "local" not in qualities:
        return None, "Whether the setting can rank is not known: full or local has no results."
    full, local = qualities["full"].last, qualities["local"].last
    if len(full) < 2 or len(local) < 2:
        return None, "Whether the setting can rank is not known: full and local need two seeds each."
    gain = mean(local) - mean(full)
    noise = (deviation(full) ** 2 + deviation(local) ** 2) ** 0.5
    times = gain / noise if noise else float("inf")
    facts = (
        f"on the last quarter of the context local has a perplexity of {mean(local):.3f} and full {mean(full):.3f}, "
        f"{times:.1f} standard deviations apart ({len(full)} seeds)"
    )
    if times >= RANKS:
        return True, f"This setting can rank: {facts}."
    return False, (
        f"<strong>This setting cannot rank</strong>: {facts}; {RANKS} are needed. The context has nothing to offer "
        "that a window does not, so the perplexities below say that everything trains, not which is better."
    )


def speeds(results):
    """{(length, attention): row of bench-step}."""
    return {
        (row["length"], row["attention"].split(":")[0]): row
        for r in results.of("table51", part="speed")
        for row in r.numbers.get("results", [])
        if row["fits"]
    }


def best_rate(quality):
    words = quality.results[0].command.split()
    return words[words.index("--learning-rate") + 1] if "--learning-rate" in words else DASH


def quality_table(results):
    qualities = dict(sorted(system_qualities(results).items(), key=lambda item: mean(item[1].all or [math.inf])))
    full = next((qualities[name] for name in FULL if name in qualities), None)
    fewest = min((p for q in qualities.values() if (p := q.results[0].number("parameters"))), default=0)
    rows = []
    for system, q in qualities.items():
        change, spread = q.relative_to(full) if full else (None, 0)
        parameters = q.results[0].number("parameters")
        extra = f" (+{parameters - fewest:,.0f})" if parameters and parameters > fewest else ""
        rows.append([
            system,
            q.text(q.all),
            signed_percent(change) + (f" ± {100 * spread:.2f}" if spread and change is not None else ""),
            q.text(q.last),
            number(q.results[0].number("attended_tokens"), 0),
            f"{parameters:,.0f}{extra}" if parameters else DASH,
            best_rate(q),
        ])  # fmt: skip
    head = ["system", "perplexity", "to full", "last quarter", "attended", "parameters", "rate"]
    return Table("Perplexity of each system", head, rows)


def speed_table(results):
    rows = []
    for (length, attention), row in sorted(speeds(results).items(), key=lambda item: (item[0][0], item[1]["ms"])):
        standard = speeds(results).get((length, "standard"))
        sdpa = speeds(results).get((length, "sdpa"))

        def times(key, other, row=row):
            return f"{other[key] / row[key]:.2f}x" if other and row.get(key) else DASH

        memory = row["step_memory_mib"] / standard["step_memory_mib"] if standard else None
        rows.append([
            f"{length:,}", attention, number(row["ms"], 1), times("ms", standard), times("ms", sdpa),
            times("attention_ms", standard), number(row["step_memory_mib"], 0), number(memory, 2),
            number(row.get("forward_ms"), 1),
        ])  # fmt: skip
    head = [
        "tokens", "system", "step, ms", "vs standard", "vs sdpa", "attention vs standard", "memory, MiB",
        "of standard's", "forward, ms",
    ]  # fmt: skip
    return Table("A training step of each system", head, rows)


def paper_table(results):
    """The paper's figures beside ours."""
    qualities, timed = system_qualities(results), speeds(results)
    lines = []

    def line(what, theirs, ours):
        lines.append([what, f"{theirs:.4g}", number(ours, 3), f"{ours / theirs:.2f}" if ours else DASH])

    standard = next((qualities[name] for name in ("standard", *FULL) if name in qualities), None)
    hsa = qualities.get("hsa")
    line("perplexity, full attention", paper.STANDARD_PERPLEXITY, mean(standard.all) if standard else None)
    line("perplexity, HSA", paper.HSA_PERPLEXITY, mean(hsa.all) if hsa else None)
    change = hsa.relative_to(standard)[0] if hsa and standard else None
    line(
        "HSA / full attention", paper.HSA_PERPLEXITY / paper.STANDARD_PERPLEXITY, None if change is None else 1 + change
    )
    for length in sorted({length for length, _ in timed}):
        ours, theirs = timed.get((length, "hsa")), timed.get((length, "standard"))
        if ours and theirs:
            line(f"step, times as fast as standard, {length:,}", paper.STEP_SPEEDUP, theirs["ms"] / ours["ms"])
            line(f"memory of standard's, {length:,}", paper.MEMORY, ours["step_memory_mib"] / theirs["step_memory_mib"])
    return Table("The paper beside this library", ["", "paper", "here", "here / paper"], lines)


def loss_block(results):
    series = []
    for style, system in zip("abcdefghijk", system_qualities(results), strict=False):
        runs = results.of("table51", part="seeds", system=system)
        curves = [r.curve for r in runs if r.curve]
        if not curves:
            continue
        points = [
            (column[0][0], mean([loss for _, loss in column])) for column in zip(*curves, strict=False)
        ]  # the same steps in each seed
        series.append(Series(system, style, points))
    chart = line_chart(series, "tokens trained", "loss, nats per token", log_x=True, log_y=True)
    caption = "Training loss, mean over the seeds; both axes logarithmic."
    return Block("loss-curves", "Loss curves", caption, chart, results=results.of("table51", part="seeds"))


def table51_section(results):
    section = Section("table51", "5.1 Every system")
    if not results.of("table51"):
        return None
    seeds, timed = results.of("table51", part="seeds"), results.of("table51", part="speed")
    section.text.append(control(results)[1] if seeds else "Speed and memory alone: this preset trains nothing.")
    if seeds:
        caption = (
            "Held-out perplexity per token, mean ± standard deviation over the seeds; the same tokens in the same "
            "order and the same initial weights for each. “To full” compares seed by seed. The sparse systems attend "
            "equally many tokens; the rate is the best of the grid, for each on its own. standard and sdpa read the "
            "models of full with their kernels: the same function."
        )
        section.blocks.append(Block("perplexity", "Perplexity", caption, table=quality_table(results), results=seeds))
        section.blocks.append(loss_block(results))
    if timed:
        caption = (
            "Forward, loss, backward, clipping and AdamW; systems taken in turn in one process, the median step. "
            "Memory: the process's peak during a step besides weights and moments."
        )
        section.blocks.append(Block("step", "A training step", caption, table=speed_table(results), results=timed))
    section.blocks.append(
        Block("paper", "The paper beside this", "Other model, other text, other machine: compare ratios.",
              table=paper_table(results), results=seeds + timed)
    )  # fmt: skip
    return section


def variant_rows(results, experiment):
    """(variant, Quality, its row of the interleaved timing or None); rows of the timing come in the variants' order."""
    speed = results.one(experiment, part="speed")
    rows = speed.numbers.get("results", []) if speed else []
    named = {}
    for row in rows:
        named.setdefault(frozenset(row["attention"].split(":")[1:]), row)
    for variant in results.values(experiment, "variant"):
        found = results.of(experiment, part="seeds", variant=variant)
        words = found[0].labels.get("words", [])
        yield variant, Quality(found), timing_of(variant, named, words)


def timing_of(variant, named, words):
    """The row whose options all stand in the command."""
    options = {}
    for name, value in zip(words, [*words[1:], ""], strict=True):
        if name.startswith("--"):
            option, equal, given = name[2:].partition("=")
            options[option.replace("-", "_")] = given if equal else value
    fitting = [key for key in named if all(options.get(k.partition("=")[0]) == k.partition("=")[2] for k in key)]
    return named[max(fitting, key=len)] if fitting else None


def variants_section(results, experiment, title, first, text):
    if not results.of(experiment):
        return None
    rows = list(variant_rows(results, experiment))
    if not rows:
        return None
    base = next((q for name, q, _ in rows if name == first), rows[0][1])
    lines, points = [], []
    for variant, q, timing in rows:
        change, spread = q.relative_to(base)
        apart = signed_percent(change) + (f" ± {100 * spread:.2f}" if spread else "")
        lines.append([
            variant, q.text(q.all), apart, q.text(q.last),
            number(timing["ms"], 1) if timing else DASH, number(timing["step_memory_mib"], 0) if timing else DASH,
            str(q.results[0].labels.get("shows", "")),
        ])  # fmt: skip
        level = variant.removeprefix("levels-")
        if level.isdigit() and q.all:
            points.append((int(level), mean(q.all)))
    head = ["variant", "perplexity", f"to {first}", "last quarter", "step, ms", "memory, MiB", "what it is"]
    section = Section(experiment, title, text=[text])
    caption = "Mean ± standard deviation over the seeds; steps taken in turn in one process, the median."
    table = Table(title, head, lines)
    section.blocks.append(Block(experiment + "-table", title, caption, table=table, results=results.of(experiment)))
    if experiment == "levels" and len(points) > 1:
        chart = line_chart(
            [Series("HSA", "a", points, markers=True)], "levels", "perplexity", x_ticks=[p[0] for p in points]
        )
        picture = Block("levels-chart", "Perplexity by levels", "", chart, results=results.of("levels", part="seeds"))
        section.blocks.append(picture)
    return section


def quality_losses(results):
    """Sentences: where HSA's perplexity is behind."""
    qualities = system_qualities(results)
    hsa = qualities.get("hsa")
    if not hsa or not hsa.all:
        return []
    lines = []
    for system, q in qualities.items():
        if system == "hsa" or not q.all:
            continue
        change, spread = hsa.relative_to(q)
        if change is not None and change > 0:
            inside = spread and change < RANKS * spread
            lines.append(
                f"Perplexity: {percent(change, 2)} above {system}"
                + (f", which {RANKS} standard deviations ({100 * spread:.2f} %) cover" if inside else "")
            )
    for (length, attention), row in sorted(speeds(results).items()):
        ours = speeds(results).get((length, "hsa"))
        if not ours or attention == "hsa":
            continue
        if row["ms"] < ours["ms"]:
            lines.append(
                f"Training step of {length:,} tokens: {ours['ms'] / row['ms']:.2f} times as long as {attention}"
            )
        if row["step_memory_mib"] < ours["step_memory_mib"]:
            ratio = ours["step_memory_mib"] / row["step_memory_mib"] if row["step_memory_mib"] else 0
            lines.append(f"Memory of a step of {length:,} tokens: {ratio:.2f} times that of {attention}")
    return lines


def middle_of(row, key):
    """The median of all timings of a row, with the lowest and highest."""
    times = row.get(key) or []
    return (median(times), min(times), max(times)) if times else None
