"""python -m report --run HSA=runs/demo/hsa --run SDPA=runs/demo/sdpa --bench bench.json --plan plan.svg --out page.html
python -m report --results runs/reproduce-quick --out page.html

The first prints the tables of a comparison and writes its page; the second, which `hsattn report` calls, writes the
page of what `hsattn reproduce` found. Exit codes: 0, 1 for files that cannot be read or written, 2 for usage.
"""

import argparse
import sys
from pathlib import Path

from report.page import page, summary
from report.pictures import write_pictures
from report.results import read_results
from report.results_page import pictures_of, results_page
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
    parser.add_argument("--results", metavar="FOLDER", help="what `hsattn reproduce` wrote; needs --out")
    parser.add_argument("--png", metavar="FOLDER", help="with --results: a picture of each figure")
    parser.add_argument("--out", metavar="FILE", help="the page; without it only the tables are printed")
    options = parser.parse_args(arguments)
    if options.results and not options.out:
        parser.error("--results needs --out")
    if not options.run and not options.bench and not options.results:
        parser.error("name at least one --run or a --bench, or --results")
    return options


def write_results(options):
    results = read_results(options.results)
    text = results_page(results)
    Path(options.out).write_text(text, encoding="utf-8")
    print(f"{options.out}: {len(results.all)} results, {len(text.encode()) / 1024:,.0f} KiB")
    if options.png:
        print("\n".join(map(str, write_pictures(pictures_of(results), options.png))))


def main(arguments):
    options = parse(arguments)
    try:
        if options.results:
            write_results(options)
            return 0
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
