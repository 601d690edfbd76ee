"""python -m report --run HSA=runs/demo/hsa --run SDPA=runs/demo/sdpa --bench bench.json --plan plan.svg --out page.html

Prints the tables and writes the page. Exit codes: 0, 1 for files that cannot be read or written, 2 for usage.
"""

import argparse
import sys
from pathlib import Path

from report.page import page, summary
from report.runs import ReportError, read_bench, read_run
from report.table import compare_attention, compare_runs, print_table


def named_run(text):
    name, found, folder = text.partition("=")
    if not found or not name or not folder:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=FOLDER")
    return name, folder


def parse(arguments):
    parser = argparse.ArgumentParser(prog="report", description="Compare training runs and benchmarks.")
    parser.add_argument("--run", type=named_run, action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--bench", metavar="FILE", help="output of `hsattn bench --json`")
    parser.add_argument("--plan", metavar="FILE", help="drawing of a plan: SVG, or a page of `hsattn inspect`")
    parser.add_argument("--plan-caption", default="", metavar="TEXT")
    parser.add_argument("--command", action="append", default=[], metavar="TEXT", help="a command to name on the page")
    parser.add_argument("--title", default="Hierarchical sparse attention, compared", metavar="TEXT")
    parser.add_argument("--out", metavar="FILE", help="the page; without it only the tables are printed")
    options = parser.parse_args(arguments)
    if not options.run and not options.bench:
        parser.error("name at least one --run or a --bench")
    return options


def main(arguments):
    options = parse(arguments)
    try:
        runs = [read_run(name, folder) for name, folder in options.run]
        rows = read_bench(options.bench) if options.bench else []
        if runs:
            print(print_table(compare_runs(runs)), end="\n\n")
        if rows:
            print(print_table(compare_attention(rows)), end="\n\n")
        if summary(runs):
            print(summary(runs))
        if options.out:
            text = page(options.title, runs, rows, options.plan, options.plan_caption, options.command)
            Path(options.out).write_text(text, encoding="utf-8")
    except (ReportError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
