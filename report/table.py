"""The tables of a comparison, as rows of text that stdout and the page share."""

from dataclasses import dataclass

from report.runs import Run, unit_of

DASH = "–"


@dataclass
class Table:
    """`rows` are lists of text as long as `head`; the first column is a name, the others are numbers."""

    title: str
    head: list[str]
    rows: list[list[str]]


def text_of(value, digits=2, unit=""):
    """1234.5 -> "1,234.50"; None -> a dash."""
    return DASH if value is None else f"{value:,.{digits}f}{unit}"


def ratio(first, second):
    """How many times `first` is `second`, as text; a dash if one is unknown."""
    return DASH if not first or not second else f"{first / second:.2f}x"


# What is compared: (label, Run.trained or Run.evaluated, name, digits, unit); an arrow says which way is better.
MEASURES = [
    ("  last quarter of the window ↓", Run.evaluated, "eval_perplexity_last_quarter", 3, ""),
    ("tokens/s in training, median step ↑", Run.trained, "tokens_per_s", 0, ""),
    ("training in all ↓", Run.trained, "elapsed_s", 0, " s"),
    ("peak memory of training ↓", Run.trained, "peak_memory_mib", 0, " MiB"),
    ("forward pass, one window ↓", Run.evaluated, "forward_ms", 0, " ms"),
    ("share of a step in attention ↓", Run.trained, "attention_share", 2, ""),
    ("tokens a position attends ↓", Run.trained, "attended_tokens", 0, ""),
]


def held_out_measures(runs):
    """Perplexity per token, and per byte and word where a token is none and they are known."""
    unit = unit_of(runs)
    measures = [(f"held-out perplexity per {unit} ↓", Run.evaluated, "eval_perplexity", 3, "")]
    if unit != "byte":
        measures += [(f"  per {of} ↓", Run.evaluated, f"eval_perplexity_per_{of}", 3, "") for of in ("byte", "word")]
    return measures


def compare_runs(runs):
    """One row per measure, one column per run, and how the first two relate."""
    rows = []
    for label, source, name, digits, unit in held_out_measures(runs) + MEASURES:
        values = [source(run, name) for run in runs]
        if all(value is None for value in values):
            continue
        rows.append(
            [label, *(text_of(v, digits, unit) for v in values)]
            + ([ratio(values[0], values[1])] if len(runs) > 1 else [])
        )
    head = ["", *(run.name for run in runs)]
    if len(runs) > 1:
        head.append(f"{runs[0].name} / {runs[1].name}")
    return Table("Trained with the same data, seed and tokens", head, rows)


def compare_attention(rows):
    """One row per length; "faster" is how many times faster HSA is than SDPA."""
    head = ["length", "forward: HSA", "SDPA", "faster", "forward + backward: HSA", "SDPA", "faster"]
    return Table("Attention alone", head, [[f"{r.length:,}", *_times(r.forward), *_times(r.both)] for r in rows])


def compare_pass(rows, which):
    """The same for one pass, `which` being "forward" or "both"."""
    lines = [[f"{r.length:,}", *_times(getattr(r, which))] for r in rows]
    return Table("Attention alone", ["length", "HSA", "SDPA", "faster"], lines)


def _times(pair):
    return [text_of(pair.hsa, 1, " ms"), text_of(pair.sdpa, 1, " ms"), ratio(pair.sdpa, pair.hsa)]


def print_table(table):
    """The table as plain text, columns aligned, for a terminal or a log."""
    lines = [table.head, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.head))]
    text = [table.title]
    for number, line in enumerate(lines):
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        text.append("  " + "  ".join(cells).rstrip())
        if number == 0:
            text.append("  " + "  ".join("-" * width for width in widths))
    return "\n".join(text)
