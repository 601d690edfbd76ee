"""The page of `hsattn report`: one HTML file that needs nothing else. Numbers come from result files alone."""

from html import escape
from pathlib import Path

from report.blocks import Table, commands_of, section_html, table_html
from report.page import machine_line
from report.patterns import patterns_losses, patterns_section
from report.quality import quality_losses, table51_section, variants_section
from report.retrieval import retrieval_losses, retrieval_section
from report.scaling import scaling_losses, scaling_section
from report.theory import theory_section

LEVELS = (
    "The search starts at nodes of 2^levels tokens, as in the paper's pseudo-code, or with auto where at most "
    "top_nodes nodes cover the past. Everything else is the same."
)
ABLATIONS = "HSA with one thing changed at a time. The rate is that of the unchanged one."


def sections_of(results):
    found = [
        table51_section(results),
        scaling_section(results),
        patterns_section(results),
        variants_section(results, "levels", "6.1 Levels", "levels-auto", LEVELS),
        variants_section(results, "pooling", "6.2 What earns its cost", "base", ABLATIONS),
        theory_section(results),
        retrieval_section(results),
    ]
    return [section for section in found if section]


def losses_html(results):
    lines = [*quality_losses(results), *scaling_losses(results), *patterns_losses(results), *retrieval_losses(results)]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines) or "<li>Nowhere among what was measured.</li>"
    return (
        '<section id="losses"><h2>Where HSA loses</h2><p>Every comparison above in which HSA is behind, or misses its '
        f"goal, found by the same rules.</p><ul>{items}</ul></section>"
    )


def runs_html(results):
    lines = [
        [r.name, f"{r.labels.get('seconds', 0) / 60:.1f} min", str(r.environment.get("commit", ""))[:12]]
        for r in results.all
    ]
    table = table_html(Table("All runs", ["run", "time", "commit"], lines))
    return (
        f'<section id="runs"><h2>Runs</h2><p>{len(results.all)} result files.</p>'
        f'<details class="commands"><summary>All runs</summary>{table}</details>'
        f"{commands_of(results.all)}</section>"
    )


def machines_html(results):
    # Memory that is free for a system varies; commits stand in the list of runs.
    lines = dict.fromkeys(
        machine_line({k: v for k, v in r.environment.items() if k not in ("commit", "memory_mib")}) for r in results.all
    )
    return "".join(f'<p class="machine">{line}</p>' for line in lines)


def results_page(results, title="Hierarchical sparse attention: the paper, run"):
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    sections = sections_of(results)
    presets = ", ".join(dict.fromkeys(str(r.labels.get("preset", "?")) for r in results.all))
    names = [(s.name, s.title) for s in sections] + [("losses", "Where HSA loses"), ("runs", "Runs")]
    links = "".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in names)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">Preset {escape(presets)}, {len(results.all)} runs. Every figure names its commands.</p>',
        machines_html(results),
        f'<nav aria-label="sections">{links}</nav>',
        *(section_html(section) for section in sections),
        losses_html(results),
        runs_html(results),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n'
        "</head>\n<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def pictures_of(results):
    """(name, SVG) of every figure that is drawn."""
    return [
        (block.name, block.picture) for section in sections_of(results) for block in section.blocks
        if "<svg" in block.picture
    ]  # fmt: skip
