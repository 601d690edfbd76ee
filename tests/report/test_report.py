"""The report reads result files, complete or cut short, and writes a page that stands alone."""

import itertools
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from report.chart import Series, line_chart, log_ticks, nice_ticks  # noqa: E402
from report.page import picture, smooth  # noqa: E402
from report.runs import ReportError, read_bench, read_lines, read_run  # noqa: E402


def write_run(folder, factor, steps=20):
    """A run whose loss falls from 4 to near 1, times `factor`; evaluated at its end."""
    folder.mkdir()
    lines = []
    for step in range(1, steps + 1):
        loss = factor * (1 + 3 * math.exp(-step / 5))
        lines.append({"step": step, "tokens": 100 * step, "loss": loss, "tokens_per_s": 50 / factor, "elapsed_s": step})
    lines.append({"step": steps, "eval_loss": factor, "eval_perplexity": math.exp(factor)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "environment.json").write_text(json.dumps({"processor": "A <processor>", "threads": 2}))
    return folder


def write_bench(path):
    results = [
        {"length": n, "pass": which, "ms": n / 100, "sdpa_ms": n * n / 1e5}
        for n in (8192, 4096)
        for which in ("forward", "forward+backward")
    ]
    path.write_text(json.dumps({"results": results}))
    return path


def report(*arguments):
    return subprocess.run([sys.executable, "-m", "report", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_prints_the_tables_and_writes_a_page_that_needs_nothing_else(tmp_path):
    ours, theirs = write_run(tmp_path / "ours", 1.0), write_run(tmp_path / "theirs", 1.25)
    page = tmp_path / "page.html"
    bench = write_bench(tmp_path / "bench.json")
    done = report("--run", f"HSA={ours}", "--run", f"SDPA={theirs}", "--bench", str(bench), "--out", str(page))
    assert done.returncode == 0, done.stderr
    printed = re.sub(" +", " ", done.stdout)
    assert "held-out perplexity per byte ↓ 2.718 3.490 0.78x" in printed
    assert "tokens/s in training, median step ↑ 50 40 1.25x" in printed
    assert "4,096 41.0 ms 167.8 ms 4.10x" in printed
    assert "(−22.1 %)" in printed

    text = page.read_text(encoding="utf-8")
    assert "A &lt;processor&gt;" in text
    assert not re.search(r'(src|href)="(?!data:)|@import|url\(|<script', text)
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(pictures) == 6
    for drawing in pictures:
        ElementTree.fromstring(drawing)


@pytest.mark.parametrize(
    ("tokenizers", "unit"),
    [(("", ""), "byte"), (("12ab", "12ab"), "token"), (("12ab", ""), "token of its own tokenizer")],
)
def test_perplexity_is_labelled_by_what_a_token_is(tmp_path, tokenizers, unit):
    words = []
    for name, tokenizer in zip(("ours", "theirs"), tokenizers, strict=True):
        run = write_run(tmp_path / name, 1.0)
        (run / "config.json").write_text(json.dumps({"tokenizer": tokenizer}))
        (run / "eval.json").write_text(json.dumps({"eval_perplexity": 9.0, "eval_perplexity_per_byte": 2.5}))
        words += ["--run", f"{name}={run}"]
    done = report(*words, "--out", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    assert re.search(rf"held-out perplexity per {unit} ↓ +9.000", done.stdout)
    assert ("  per byte ↓" in done.stdout) == (unit != "byte")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"loss, nats per {unit}<" in page
    assert f"Perplexity per {unit} on the author" in page
    assert f"perplexity per {unit} of 9.000" in page
    assert "{unit}" not in page
    assert unit == "byte" or "nats per byte" not in page


def test_a_run_that_was_cut_short_is_read_as_far_as_it_goes(tmp_path):
    run = write_run(tmp_path / "run", 1.0)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "lo')
    assert read_run("x", run).steps[-1]["step"] == 20


def test_a_resumed_run_counts_each_step_once(tmp_path):
    run = write_run(tmp_path / "run", 1.0)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "tokens": 2000, "loss": 0.5}\n{"step": 21, "tokens": 2100, "loss": 0.4}\n')
    points = read_run("x", run).curve("tokens", "loss")
    assert len(points) == 21
    assert points[-2:] == [(2000, 0.5), (2100, 0.4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), ("", "no training step"), ('{"loss": 1\n{"loss": 2}\n', "line 1")],
)
def test_bad_metrics_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    done = report("--run", f"HSA={tmp_path}")
    assert done.returncode == 1
    assert "metrics.jsonl" in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_usage_errors_exit_with_2():
    assert report().returncode == 2
    assert report("--run", "no-folder").returncode == 2


def test_an_empty_benchmark_is_an_error(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text("{}")
    with pytest.raises(ReportError, match="no results"):
        read_bench(path)


def test_a_benchmark_of_different_attentions_is_an_error(tmp_path):
    path = write_bench(tmp_path / "bench.json")
    results = json.loads(path.read_text())["results"]
    path.write_text(json.dumps({"results": [*results, results[0]]}))
    with pytest.raises(ReportError, match="two rows of 8192 tokens, forward"):
        read_bench(path)


def test_lines_that_are_complete_are_all_read(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert read_lines(path) == [{"a": 1}, {"a": 2}]


def test_ticks_are_round_and_inside():
    assert nice_ticks(0.3, 4.2) == [1, 2, 3, 4]
    assert nice_ticks(0, 1.23e6) == [0, 500000, 1000000]
    assert log_ticks(15, 900) == [20, 50, 100, 200, 500]


def test_smoothing_keeps_the_mean():
    points = [(float(i), float(i % 7)) for i in range(1000)]
    smoothed = smooth(points, most=100)
    assert len(smoothed) == 100
    assert math.isclose(sum(y for _, y in smoothed) / 100, sum(y for _, y in points) / 1000)


def test_a_drawing_is_taken_from_svg_or_from_a_page(tmp_path):
    drawing, inspected, bare = tmp_path / "a.svg", tmp_path / "b.html", tmp_path / "c.html"
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    inspected.write_text('<html><svg viewBox="0 0 1 1"><rect class="near"/></svg></html>')
    bare.write_text("<html></html>")
    assert picture(drawing).startswith("<img")
    assert '<svg viewBox="0 0 1 1"><rect class="near"/></svg>' in picture(inspected)
    with pytest.raises(ReportError, match="no drawing"):
        picture(bare)


def test_a_chart_without_points_says_so_and_one_point_is_drawn():
    assert "No points" in line_chart([Series("x", "a", [])], "x", "y")
    assert "<circle" in line_chart([Series("x", "a", [(1.0, 2.0)], markers=True)], "x", "y")


@pytest.mark.parametrize("ends", [[1.0] * 11, [1.0 + i / 100 for i in range(11)], [float(i) for i in range(1, 12)]])
def test_names_of_curves_stay_in_the_picture_and_apart(ends):
    curves = [Series(f"a_long_name_of_{i}", "a", [(1.0, 2.0), (9.0, end)]) for i, end in enumerate(ends)]
    picture = ElementTree.fromstring(line_chart(curves, "x", "y"))
    width, height = map(float, picture.attrib["viewBox"].split()[2:])
    names = [t for t in picture.iter("text") if t.attrib["class"].startswith("name")]
    assert len(names) == 11
    assert all(float(t.attrib["x"]) + 7 * len(t.text) <= width for t in names)
    places = sorted(float(t.attrib["y"]) for t in names)
    assert places[0] > 8
    assert places[-1] < height
    assert all(b - a > 12 for a, b in itertools.pairwise(places))


def test_a_curve_that_ends_early_is_named_above_its_end():
    early = Series("early", "a", [(1.0, 1.0), (5.0, 1.0)])
    picture = line_chart([early, Series("late", "b", [(1.0, 2.0), (9.0, 2.0)])], "x", "y")
    anchors = dict(re.findall(r'text-anchor="(\w+)">(early|late)<', picture))
    assert {name: anchor for anchor, name in anchors.items()} == {"early": "middle", "late": "start"}
