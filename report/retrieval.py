"""Passkey, recall and copying: trained and read out for each system."""

from report.blocks import DASH, Block, Section, Table, percent
from report.chart import Series, line_chart
from report.statistics import paired_difference

GOAL = 0.01  # within a point of full


def answers(results, task, length):
    return {r.labels["system"]: r for r in results.of("retrieval", part="answers", task=task, length=length)}


def difference(found, system):
    if system == "full" or "full" not in found:
        return None
    return paired_difference(found[system].numbers["right"], found["full"].numbers["right"])


def task_table(results, task, lengths):
    systems = list(dict.fromkeys(s for n in lengths for s in answers(results, task, n)))
    lines = []
    for system in systems:
        line = [system]
        for n in lengths:
            found = answers(results, task, n)
            if system not in found:
                line += [DASH, DASH]
                continue
            apart = difference(found, system)
            text = f"{100 * apart[0]:+.1f} ± {100 * apart[1]:.1f}".replace("-", "−") if apart else DASH
            line += [percent(found[system].numbers["accuracy"]), text]
        lines.append(line)
    head = ["system", *(cell for n in lengths for cell in (f"{n:,} tokens", "to full"))]
    return Table(task, head, lines)


def retrieval_section(results):
    tasks = list(dict.fromkeys(r.labels["task"] for r in results.of("retrieval", part="answers")))
    if not tasks:
        return None
    section = Section("retrieval", "Retrieval")
    section.text.append(
        "Share of right answers to the same questions; an answer is right if each of its bytes is the likeliest one. "
        "“To full”: points apart, and the standard error of the paired difference."
    )
    for task in tasks:
        found = results.of("retrieval", part="answers", task=task)
        lengths = sorted({r.labels["length"] for r in found})
        count = found[0].numbers["answers"]
        caption = f"{count:,} answers of each. A table in which full itself answers little says little."
        section.blocks.append(
            Block(f"retrieval-{task}", task, caption, table=task_table(results, task, lengths), results=found)
        )
        if len(lengths) > 1:
            systems = list(dict.fromkeys(r.labels["system"] for r in found))
            series = [
                Series(s, style, [(n, answers(results, task, n)[s].numbers["accuracy"]) for n in lengths
                                  if s in answers(results, task, n)], markers=True)
                for s, style in zip(systems, "abcdefghijk", strict=False)
            ]  # fmt: skip
            chart = line_chart(series, "tokens", "share of right answers", log_x=True, from_zero=True, x_ticks=lengths)
            section.blocks.append(Block(f"retrieval-{task}-chart", f"{task} by length", "", chart, results=found))
    return section


def retrieval_losses(results):
    lines = []
    for task in results.values("retrieval", "task"):
        for n in sorted({r.labels["length"] for r in results.of("retrieval", part="answers", task=task)}):
            found = answers(results, task, n)
            apart = difference(found, "hsa") if "hsa" in found else None
            if apart and apart[0] < -GOAL:
                lines.append(
                    f"Retrieval, {task}, {n:,} tokens: {-100 * apart[0]:.1f} ± {100 * apart[1]:.1f} points below full"
                )
    return lines
