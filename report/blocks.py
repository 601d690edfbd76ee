"""The pieces that sections are made of: headings, tables and figures with the commands behind them."""

from dataclasses import dataclass, field
from html import escape

from report.table import DASH, Table

__all__ = ["DASH", "Block", "Section", "Table", "commands_of", "number", "percent", "plus_minus", "table_html"]


SENTENCE = 20  # letters; a longer cell is one


@dataclass
class Block:
    """A figure, or with an empty `picture` a table. `name` names its PNG file and its anchor."""

    name: str
    title: str
    caption: str = ""
    picture: str = ""
    table: Table | None = None
    results: list = field(default_factory=list)  # whose commands made it


@dataclass
class Section:
    name: str
    title: str
    blocks: list = field(default_factory=list)
    text: list = field(default_factory=list)  # paragraphs, HTML
    extra: str = ""  # HTML behind the blocks


def number(value, digits=3):
    return DASH if value is None else f"{value:,.{digits}f}"


def percent(value, digits=1):
    return DASH if value is None else f"{100 * value:.{digits}f} %"


def signed_percent(value, digits=2):
    return DASH if value is None else f"{100 * value:+.{digits}f} %".replace("-", "−")


def plus_minus(middle, spread, digits=3):
    if middle is None:
        return DASH
    return number(middle, digits) + (f" ± {spread:.{digits}f}" if spread else "")


def cell_html(cell):
    """Sentences are set as text, everything else as a number."""
    kind = ' class="text"' if len(cell) > SENTENCE else ""
    return f"<td{kind}>{escape(cell)}</td>"


def table_html(table):
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "".join("<tr>" + "".join(map(cell_html, row)) + "</tr>" for row in table.rows)
    label = escape(table.title)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def commands_of(results):
    """The commands behind a figure, folded away."""
    lines = list(dict.fromkeys(r.command for r in results))
    if not lines:
        return ""
    word = "command" if len(lines) == 1 else "commands"
    return (
        f'<details class="commands"><summary>{len(lines)} {word}</summary>'
        f'<pre tabindex="0">{escape(chr(10).join(lines))}</pre></details>'
    )


def block_html(block):
    body = block.picture + (table_html(block.table) if block.table else "")
    caption = f"<figcaption>{block.caption}</figcaption>" if block.caption else ""
    return (
        f'<figure id="{block.name}"><h3>{escape(block.title)}</h3>{body}{caption}{commands_of(block.results)}</figure>'
    )


def section_html(section):
    # Charts side by side where there is room; tables over the whole width.
    parts, row = [], []

    def end_row():
        if row:
            parts.append(f'<div class="charts">{"".join(row)}</div>')
            row.clear()

    for block in section.blocks:
        if block.picture and not block.table:
            row.append(block_html(block))
        else:
            end_row()
            parts.append(block_html(block))
    end_row()
    text = "".join(f"<p>{paragraph}</p>" for paragraph in section.text)
    return (
        f'<section id="{section.name}"><h2>{escape(section.title)}</h2>{text}{"".join(parts)}{section.extra}</section>'
    )
