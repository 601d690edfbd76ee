"""5.3: what HSA finds of the true attention, and the explorer."""

import json
from html import escape
from pathlib import Path

from report.blocks import DASH, Block, Section, Table, number, percent
from report.chart import Series, line_chart
from report.statistics import mean

GOAL = 0.97  # of the oracle's mass
ENOUGH = 0.95
ROW = ("layer", "head", "position", "most", "weights", "spans")  # of the explorer, in the order of explorer.js


def share_of_oracle(head):
    return head["mass"] / head["oracle_blocks"] if head["oracle_blocks"] else None


def heads_table(heads, tokens):
    lines = []
    for h in heads:
        lines.append([
            f"{h['layer']}.{h['head']}", percent(h["mass"]), percent(h["oracle_blocks"]), percent(share_of_oracle(h)),
            percent(h["oracle_tokens"]), number(h["error"], 3), number(h["tokens_for_95"], 0), number(h["attended"], 0),
            percent(h["attended_last"] / tokens), percent(h["attended"] / ((tokens + 1) / 2)), percent(h["near"]),
            percent(h["blocks"]), percent(sum(h["far"])), number(h["sentence"], 2), number(h["paragraph"], 2),
        ])  # fmt: skip
    head = [
        "layer.head", "mass held", "oracle", "of the oracle's", "oracle, tokens", "error", "for 95 %", "attended",
        "of the past, last", "on average", "near", "blocks", "far", "sentence", "paragraph",
    ]  # fmt: skip
    return Table("Every head", head, lines)


def heads_chart(heads):
    ours = [(i, h["mass"]) for i, h in enumerate(heads)]
    oracle = [(i, h["oracle_blocks"]) for i, h in enumerate(heads)]
    names = [f"{h['layer']}.{h['head']}" for h in heads]
    return line_chart(
        [Series("HSA", "a", ours, markers=True), Series("oracle", "b", oracle, markers=True)],
        "layer.head", "share of the true mass", x_ticks=list(range(0, len(heads), max(1, len(heads) // 8))),
        x_text=lambda i: names[round(i)],
    )  # fmt: skip


def distance_chart(heads):
    def curve(key):
        sums = [mean(column) for column in zip(*(h[key] for h in heads), strict=True)]
        last = max((i for i, v in enumerate(sums) if v > 0), default=0)
        return [(2**i, v) for i, v in enumerate(sums[: last + 1])]

    series = [
        Series("full", "b", curve("true_by_distance"), markers=True),
        Series("HSA", "a", curve("held_by_distance"), markers=True),
    ]
    return line_chart(series, "distance, tokens", "share of the true mass", log_x=True, from_zero=True)


def levels_table(heads, block):
    deepest = max((len(h["far"]) for h in heads), default=0)
    lines = []
    for layer in sorted({h["layer"] for h in heads}):
        mine = [h for h in heads if h["layer"] == layer]
        far = [mean([h["far"][i] if i < len(h["far"]) else 0 for h in mine]) for i in range(deepest)]
        shares = [mean([h["near"] for h in mine]), mean([h["blocks"] for h in mine]), *far]
        lines.append([str(layer), *(percent(s) for s in shares)])
    head = ["layer", "near window", "selected blocks", *(f"nodes of {block << i}" for i in range(deepest))]
    return Table("Share of HSA's softmax by level", head, lines)


def budgets_table(budgets):
    lines = [
        [f"{b['top_k']:,}", number(b["attended"], 0), percent(b["mass"]), percent(b["least_mass"])] for b in budgets
    ]
    return Table("Budgets", ["top_k", "attended", "mass held", "in the worst head"], lines)


def budget_for(budgets, enough):
    return next((b for b in budgets if b["mass"] >= enough), None)


def model_blocks(result):
    n, model = result.numbers, result.labels.get("trained_with", "?")
    heads, name = n["heads"], f"patterns-{model}"
    held, oracle = mean([h["mass"] for h in heads]), mean([h["oracle_blocks"] for h in heads])
    needed = budget_for(n["budgets"], ENOUGH)
    needs = f"{needed['attended']:,.0f} attended tokens" if needed else "more than the largest budget that was tried"
    caption = (
        f"Trained with {model}: {n['positions']} positions of {n['tokens']:,} tokens. HSA holds {percent(held)} of "
        f"the true mass, {percent(held / oracle)} of what an oracle with as many blocks would hold (goal: "
        f"{percent(GOAL, 0)}). {percent(ENOUGH, 0)} of the mass on average takes HSA {needs}, the oracle "
        f"{mean([h['tokens_for_95'] for h in heads]):,.0f}. Sentence, paragraph: mass on the first token of one, as a "
        "multiple of that on any token."
    )
    return [
        Block(f"{name}-heads", f"Mass held, model of {model}", "", heads_chart(heads), results=[result]),
        Block(f"{name}-distance", f"Mass by distance, model of {model}", "", distance_chart(heads), results=[result]),
        Block(f"{name}-table", f"Every head, model of {model}", caption, table=heads_table(heads, n["tokens"]),
              results=[result]),
        Block(f"{name}-levels", "By level", "", table=levels_table(heads, n["block"]), results=[result]),
        Block(f"{name}-budgets", "By budget", "", table=budgets_table(n["budgets"]), results=[result]),
    ]  # fmt: skip


def patterns_section(results):
    found = results.of("patterns")
    if not found:
        return None
    section = Section("patterns", "5.3 What HSA finds")
    section.text.append(
        "Shares of the softmax of full attention, exact on sampled rows, that lie on tokens which HSA attends one by "
        "one. The oracle keeps the near window and as many blocks, the heaviest."
    )
    for result in found:
        section.blocks += model_blocks(result)
    section.extra = explorer(found)
    return section


def explorer(found):
    """The explorer, with its data in the page; empty if no result has rows."""
    data = {}
    for result in found:
        n = result.numbers
        if n.get("rows"):
            data[str(result.labels.get("trained_with"))] = {
                "text": n["text"], "block": n["block"],
                "rows": [[r[name] for name in ROW] for r in n["rows"]],
            }  # fmt: skip
    if not data:
        return ""
    folder = Path(__file__).parent
    script = (folder / "explorer.js").read_text(encoding="utf-8")
    body = (folder / "explorer.html").read_text(encoding="utf-8")
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    models = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in data)
    return (
        body.replace("<!-- models -->", models)
        + f'<script type="application/json" id="explorer-data">{text}</script>\n<script>\n{script}</script>'
    )


def patterns_losses(results):
    lines = []
    for result in results.of("patterns"):
        for h in result.numbers["heads"]:
            share = share_of_oracle(h)
            if share is not None and share < GOAL:
                lines.append(
                    f"Selection, model of {result.labels.get('trained_with', DASH)}, layer {h['layer']}, "
                    f"head {h['head']}: {percent(share)} of the oracle's mass"
                )
    return lines
