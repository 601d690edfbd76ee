"""The page of a comparison: one HTML file that needs nothing else, neither scripts nor the network."""

import base64
import re
from html import escape
from pathlib import Path

from report.chart import Series, line_chart, short
from report.runs import ReportError, unit_of
from report.table import compare_pass, compare_runs

STYLES = ("a", "b", "c", "d")

CAN = [
    "Whether both models train without trouble, and learn equally fast per token on the same data in the same order.",
    "What a training step, a forward pass and attention alone cost on this machine, at these lengths.",
    "What the search of a trained head picks, as a drawing.",
]
CANNOT = [  # {unit}: what a token is
    "How good either model would be after real training: a few minutes on a few megabytes end far from that.",
    "Small differences of quality: there is one run of each, with one seed, so nothing here says how much is chance. "
    "Repeat it with another <code>--seed</code> before believing a difference of a percent.",
    "What long context is worth: a model this young predicts mostly from the last few words, so it would lose little "
    "with a short window as well. The perplexity of the last quarter of the window is the place to look first.",
    "Other text: one author is held out, and a perplexity per {unit} cannot be compared with one per any other unit.",
]


def smooth(points, most=120):
    """Means of consecutive groups, so that at most `most` points are left: (mean x, mean y) of each group."""
    size = max(1, -(-len(points) // most))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def table_html(table):
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def figure(title, picture, caption):
    return f"<figure><h3>{escape(title)}</h3>{picture}<figcaption>{caption}</figcaption></figure>"


def run_charts(runs):
    """Loss by tokens, loss by time, held-out perplexity, memory-free speed: what the metrics hold."""

    def curves(x, y):
        return [Series(run.name, style, smooth(run.curve(x, y))) for run, style in zip(runs, STYLES, strict=False)]

    held_out = [
        Series(run.name, style, run.eval_curve("eval_perplexity"), markers=True)
        for run, style in zip(runs, STYLES, strict=False)
    ]
    unit = unit_of(runs)
    charts = [
        figure(
            "Loss by tokens",
            line_chart(curves("tokens", "loss"), "tokens trained", f"loss, nats per {unit}"),
            "Training loss; neighbouring steps averaged. Curves that lie on each other learn alike.",
        ),
        figure(
            "Loss by time",
            line_chart(curves("elapsed_s", "loss"), "seconds of training", f"loss, nats per {unit}"),
            "The same against the clock: what speed is worth on this machine.",
        ),
        figure(
            "Speed",
            line_chart(curves("tokens", "tokens_per_s"), "tokens trained", "tokens per second", from_zero=True),
            "As each step measured it. A dip is time that something took: another program, or the training itself; "
            "the table's figure is the median step, which hides it.",
        ),
    ]
    if any(s.points for s in held_out):
        chart = line_chart(held_out, "tokens trained", f"perplexity per {unit}")
        caption = f"Perplexity per {unit} on the author who is not trained on."
        charts.insert(2, figure("Held-out text", chart, caption))
    return f'<div class="charts">{"".join(charts)}</div>'


def bench_charts(rows):
    """Time by length with its table, both axes logarithmic: a slope of 2 is quadratic, a slope of 1 linear."""
    charts = []
    for title, which in (("Forward", "forward"), ("Forward + backward", "both")):
        series = [
            Series(
                name, style, [(r.length, time) for r in rows if (time := getattr(getattr(r, which), key))], markers=True
            )
            for name, style, key in (("HSA", "a", "hsa"), ("SDPA", "b", "sdpa"))
        ]
        lengths = [r.length for r in rows]
        chart = line_chart(
            series, "tokens", "milliseconds", log_x=True, log_y=True, x_ticks=lengths, x_text=lambda t: f"{t:,.0f}"
        )
        charts.append(figure(title, chart + table_html(compare_pass(rows, which)), "Both axes are logarithmic."))
    return f'<div class="charts">{"".join(charts)}</div>'


def picture(path):
    """The drawing in an SVG file (Plan.draw()), or the one in a page of `hsattn inspect`.

    A drawing of its own is carried by an <img>, where its styles stay its own; one out of a page takes this page's
    colours.
    """
    text = Path(path).read_text(encoding="utf-8")
    if text.lstrip().startswith("<svg"):
        data = base64.b64encode(text.encode("utf-8")).decode("ascii")
        return f'<img alt="What a head attends" src="data:image/svg+xml;base64,{data}">'
    found = re.search(r"<svg\b.*?</svg>", text, flags=re.DOTALL)
    if not found:
        raise ReportError(f"{path}: holds no drawing (<svg>)")
    keys = (("near", "near tokens"), ("block", "selected blocks"), ("far", "far field"))
    legend = "".join(f'<span><i class="key {style}"></i>{name}</span>' for style, name in keys)
    return f'<div class="plan"><p class="legend">{legend}</p>{found[0]}</div>'


def signed(value):
    """-5.83 -> "−5.8", with the minus sign of print."""
    return f"{value:+.1f}".replace("-", "−")


def summary(runs):
    """One sentence with the figures that matter, for the top of the page; empty if they are not there."""
    if len(runs) < 2:
        return ""
    first, second = runs[0], runs[1]
    quality = [run.evaluated("eval_perplexity") for run in (first, second)]
    speed = [run.trained("tokens_per_s") for run in (first, second)]
    tokens = first.trained("tokens")
    if None in (*quality, *speed, tokens):
        return ""
    change = (quality[0] / quality[1] - 1) * 100
    return (
        f"After {short(tokens)} tokens each, {first.name} reaches a held-out perplexity per {unit_of(runs)} of "
        f"{quality[0]:.3f} "
        f"and {second.name} {quality[1]:.3f} ({signed(change)} %), with {first.name} training at "
        f"{speed[0] / speed[1]:.2f} times the speed of {second.name} (median step)."
    )


def machine_line(environment):
    """The machine in one line, from environment.json: whatever plain values it holds, in their order."""
    parts = [
        f"{escape(key.replace('_', ' '))}: {escape(f'{value:,.0f}' if isinstance(value, float) else str(value))}"
        for key, value in environment.items()
        if isinstance(value, (str, int, float)) and str(value)
    ]
    return " · ".join(parts) or "machine not recorded"


def page(title, runs, bench_rows, plan=None, plan_caption="", commands=()):
    """The whole page as text. `plan` is the path of a drawing, see picture()."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    body = [f"<h1>{escape(title)}</h1>"]
    if runs:
        body += [
            f'<p class="lead">{escape(summary(runs))}</p>',
            f'<p class="machine">{machine_line(runs[0].environment)}</p>',
        ]
        body += [
            "<h2>Two models, one difference</h2>",
            "<p>Same data, order, seed and tokens; only the attention differs. ↑ more is better, ↓ less is better.</p>",
        ]
        body += [table_html(compare_runs(runs)), run_charts(runs)]
    if bench_rows:
        body += ["<h2>Attention alone</h2>", bench_charts(bench_rows)]
    if plan:
        body += [
            "<h2>What a head attends</h2>",
            f"<figure>{picture(plan)}<figcaption>{escape(plan_caption)}</figcaption></figure>",
        ]
    body += ["<h2>What so short a training can tell</h2>", "<ul>", *(f"<li>{item}</li>" for item in CAN), "</ul>"]
    cannot = [item.format(unit=unit_of(runs) if runs else "byte") for item in CANNOT]
    body += ["<h2>What it cannot</h2>", "<ul>", *(f"<li>{item}</li>" for item in cannot), "</ul>"]
    if commands:
        body += ["<h2>Commands</h2>", f"<pre>{escape(chr(10).join(commands))}</pre>"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )
