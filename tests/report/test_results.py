"""The page of `hsattn report`: made from result files alone, the same each time, working in a browser."""

import json
import re
import shutil
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent / "expected" / "results.html"
sys.path.insert(0, str(ROOT))

from report.quality import control  # noqa: E402
from report.results import Results, read_result, read_results, text_curve  # noqa: E402
from report.results_page import pictures_of, results_page  # noqa: E402
from report.runs import ReportError  # noqa: E402
from report.statistics import decay_rate, interval, paired_difference  # noqa: E402


@pytest.fixture(scope="module")
def page():
    return results_page(read_results(RESULTS))


def test_the_page_of_the_committed_results_is_the_committed_page(page):
    assert page == PAGE.read_text(encoding="utf-8"), "to renew it: python -m report --results R --out PAGE, see README"


@pytest.mark.parametrize("folder", sorted(p.name for p in (ROOT / "results").iterdir() if p.is_dir()))
def test_a_page_is_written_of_all_results_that_are_kept(folder):
    text = results_page(read_results(ROOT / "results" / folder))
    assert 'id="losses"' in text
    assert len(text) < 3 << 20


def test_the_page_needs_nothing_else_and_is_small(page):
    assert len(page.encode()) < 3 << 20
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!data:|#)|@import|url\(', outside)
    assert "http" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(drawing)


def test_numbers_come_from_the_result_files(page):
    """Another number in a file is another number on the page."""
    results = read_results(RESULTS)
    seeds = results.of("table51", part="seeds", system="hsa")
    for r in seeds:
        r.numbers["eval_perplexity"] = 12.345
    assert "12.345" not in page
    assert "12.345" in results_page(results)


def test_curves_begin_behind_the_steps_that_teach_to_copy():
    words = ["train", "--context", "256", "--batch", "4", "--accumulate", "2", "--copy-steps", "3"]
    curve = [[2048 * step, 5.0] for step in range(1, 7)]
    assert text_curve({"words": words, "curve": curve}) == curve[3:]
    assert text_curve({"words": words[:-2], "curve": curve}) == curve
    assert text_curve({}) == []


def test_every_figure_names_its_commands(page):
    for figure in re.findall(r'<figure id="(?!explorer)(.*?)</figure>', page, flags=re.DOTALL):
        assert "<summary>" in figure, figure[:80]
        assert "hsattn " in figure


class Outline(HTMLParser):
    """Names of anchors and links, to find dead ones; labels of what can be focused."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.unnamed = [], [], []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if "id" in named:
            self.ids.append(named["id"])
        if tag == "a":
            self.links.append(named["href"])
        if "tabindex" in named and tag != "pre" and "aria-label" not in named:
            self.unnamed.append(tag)


def test_links_lead_somewhere_and_regions_have_names(page):
    outline = Outline()
    outline.feed(page)
    assert len(outline.ids) == len(set(outline.ids))
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)
    assert outline.links
    assert not outline.unnamed


def system_results(full, local):
    def result(system, seed, last):
        numbers = {"eval_perplexity": last, "eval_perplexity_last_quarter": last}
        labels = {"experiment": "table51", "part": "seeds", "system": system, "seed": seed}
        return {"name": f"{system}-{seed}", "command": "hsattn train", "environment": {}, **labels, "numbers": numbers}

    return [result("full", i, v) for i, v in enumerate(full)] + [result("local", i, v) for i, v in enumerate(local)]


@pytest.mark.parametrize(
    ("full", "local", "ranks"),
    [
        ([10.0, 10.1, 9.9], [11.0, 11.1, 10.9], True),
        ([10.0, 10.5, 9.5], [11.0, 11.5, 10.5], False),
        ([10.0, 10.1, 9.9], [9.0, 9.1, 8.9], False),
        ([10.0], [11.0], None),
    ],
)
def test_the_control_decides_whether_a_setting_ranks(tmp_path, full, local, ranks):
    for content in system_results(full, local):
        (tmp_path / f"{content['name']}.json").write_text(json.dumps(content))
    can, sentence = control(read_results(tmp_path))
    assert can is ranks
    assert ("cannot rank" in sentence) is (ranks is False)


def test_an_experiment_without_results_is_left_out():
    results = Results([r for r in read_results(RESULTS).all if r.labels["experiment"] == "scaling"])
    text = results_page(results)
    assert 'id="scaling"' in text
    assert 'id="table51"' not in text


@pytest.mark.parametrize(
    ("content", "message"), [("{", "Expecting"), ("[]", "not a result"), ('{"name": "x"}', "not a result")]
)
def test_a_bad_result_file_is_named(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ReportError, match=f"x.json.*{message}"):
        read_result(path)


def test_rates_intervals_and_pairs():
    curve = [[t, 1.5 + 40 * t**-0.4] for t in range(1000, 100_000, 1000)]
    assert decay_rate(curve)["rate"] == pytest.approx(0.4, abs=0.02)
    assert decay_rate(curve)["floor"] == pytest.approx(1.5, abs=0.05)
    assert decay_rate(curve[:4]) is None
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5)
    assert interval([1.0]) is None
    difference, error = paired_difference("1100", "1010")
    assert difference == 0
    assert error == pytest.approx(2**0.5 / 4)
    assert paired_difference("1111", "1111") == (0, 0)


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.fail("chromium is not installed; ./run setup installs it")

    def run(*arguments, scratch):
        words = [found, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
                 f"--user-data-dir={scratch}/profile", *map(str, arguments)]  # fmt: skip
        return subprocess.run(words, capture_output=True, text=True, timeout=300)

    return run


# Works every control, and writes what happened where --dump-dom shows it.
DRIVER = """
<script>
const found = [], part = (name) => document.getElementById("explorer-" + name);
const text = () => part("text").innerHTML;
window.addEventListener("error", (event) => found.push("ERROR " + event.message));
for (const name of ["model", "layer", "head", "query", "view"]) {
  const select = part(name), before = text();
  if (select.options.length < 2) { found.push(name + " has one choice"); continue; }
  select.selectedIndex = select.options.length - 1;
  select.dispatchEvent(new Event("change"));
  found.push(name + (text() !== before ? " changes the text" : " CHANGES NOTHING"));
}
part("view").selectedIndex = 0;
part("view").dispatchEvent(new Event("change"));
for (const [key, name] of [["ArrowLeft", "query"], ["ArrowUp", "head"]]) {
  const before = part(name).selectedIndex;
  part("text").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  found.push(key + (part(name).selectedIndex === before - 1 ? " moves" : " DOES NOT MOVE"));
}
const kinds = [".held", ".far", ".missed", ".query"].filter((kind) => part("text").querySelector(kind));
found.push("kinds " + kinds.join(" "), "facts " + part("facts").textContent);
for (const details of document.querySelectorAll("details")) details.open = true;
found.push("wide " + (document.documentElement.scrollWidth <= innerWidth));
const report = document.createElement("pre");
report.id = "driver-report";
report.textContent = found.join("\\n");
document.body.append(report);
</script>
"""


@pytest.mark.parametrize("width", [1200, 400])
def test_the_controls_work_without_an_error(chromium, page, tmp_path, width):
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", DRIVER + "</body>"), encoding="utf-8")
    done = chromium(f"--window-size={width},900", "--dump-dom", path.as_uri(), scratch=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    report = re.search(r'<pre id="driver-report">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert report, done.stdout[-2000:]
    lines = report[1].splitlines()
    for name in ("layer", "head", "query", "view"):
        assert f"{name} changes the text" in lines
    assert "ArrowLeft moves" in lines
    assert "ArrowUp moves" in lines
    assert "wide true" in lines, "the page is wider than the window"
    assert "kinds .held .far .missed .query" in lines
    assert any(re.match(r"facts True attention on what HSA attends: near window [\d.]+ %", line) for line in lines)


def test_an_error_in_the_script_would_be_noticed(chromium, page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page.replace('"use strict";', '"use strict"; noSuchThing();'), encoding="utf-8")
    done = chromium("--dump-dom", path.as_uri(), scratch=tmp_path)
    assert "CONSOLE" in done.stderr


def png_size(path):
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:24])


def test_figures_are_drawn_as_png(tmp_path):
    results = read_results(RESULTS)
    few = Results(results.of("scaling"))
    folder = tmp_path / "scaling"
    folder.mkdir()
    for r in few.all:
        shutil.copy(RESULTS / f"{r.name}.json", folder)
    words = [
        sys.executable,
        "-m",
        "report",
        "--results",
        folder,
        "--out",
        tmp_path / "page.html",
        "--png",
        tmp_path / "png",
    ]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    drawn = sorted(p.stem for p in (tmp_path / "png").iterdir())
    assert drawn == sorted(name for name, _ in pictures_of(few)) == ["scaling-forward", "scaling-step"]
    for name in drawn:
        assert png_size(tmp_path / "png" / f"{name}.png") == (840, 560)


COLOURS = """<script>
document.title = getComputedStyle(document.body).backgroundColor + " " + getComputedStyle(document.body).color;
</script>"""


def test_dark_and_light_are_each_readable(chromium, page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", COLOURS + "</body>"), encoding="utf-8")
    brightness = []
    for scheme in (0, 1):  # dark, light
        done = chromium(
            f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom", path.as_uri(), scratch=tmp_path
        )
        colours = re.search("<title>(.*?)</title>", done.stdout)[1]
        paper, ink = (sum(map(int, part)) / 3 for part in re.findall(r"rgb\((\d+), (\d+), (\d+)\)", colours))
        assert abs(paper - ink) > 150, colours
        brightness.append(paper)
    assert brightness[0] < 80 < 200 < brightness[1]


def test_the_page_can_be_printed(chromium, page, tmp_path):
    path, out = tmp_path / "page.html", tmp_path / "page.pdf"
    path.write_text(page, encoding="utf-8")
    done = chromium("--no-pdf-header-footer", f"--print-to-pdf={out}", path.as_uri(), scratch=tmp_path)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"%PDF")
    assert out.stat().st_size > 50_000
