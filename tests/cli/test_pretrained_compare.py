"""`hsattn compare`: figures of several ways to attend, beside each other and paired with full attention's."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from built_program import program
from tiny_folders import make_folder, random_text

LENGTH = 600
SMALL = "--window 16 --sinks 8 --dense-until 0 --candidates 512 --top-k 64 --threads 1 --precision float32"
SIZES = f"--context {LENGTH} --windows 2 --answers 50 --numbers 2 --positions 8 --decode 4 --repeats 1"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_folder(folder, "llama")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    paths = [folder / "one.txt", folder / "two.txt"]
    for seed, path in enumerate(paths):
        path.write_text(random_text(3 * LENGTH, seed))
    return paths


def compare(hsattn, model, texts, *options, code=0):
    named = [word for text in texts for word in ("--text", text)]
    done = hsattn("compare", "--model", model, *named, *SMALL.split(), *SIZES.split(), *options)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def found(hsattn, model, texts, tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "compare.html"
    report = json.loads(compare(hsattn, model, texts, "--json", "--page", page).stdout)
    return report, page.read_text()


def test_every_row_has_every_figure(found, texts):
    report, _ = found
    assert [row["row"] for row in report["rows"]] == ["full", "sdpa", "local", "hsa"]
    assert report["texts"] == [str(text) for text in texts]
    for row in report["rows"]:
        assert 0 < row["attended_last"] <= row["attended_average"] <= 1
        assert 0 < row["mass"] <= 1 + 1e-9
        assert len(row["texts"]) == 2
        for text in [*row["texts"], row["all_texts"]]:
            assert text["perplexity"] > 1
            assert text["perplexity_last_half"] > 1
            assert text["change"]["half"] >= 0
        assert (row["pass_key"]["digits"], row["pass_key"]["samples"]) == (10, 2)
        assert (row["numbers"]["digits"], row["numbers"]["samples"]) == (40, 4)
        assert row["pass_key"]["right"] <= 10
        for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "cache_mib"):
            assert row[name] > 0, name


def test_full_and_sdpa_hardly_differ_and_small_budgets_do(found):
    full, sdpa, local, hsa = found[0]["rows"]
    assert full["all_texts"]["change"] == {"difference": 0, "half": 0}
    assert abs(sdpa["all_texts"]["change"]["difference"]) < 1e-4
    assert sdpa["texts"][1]["perplexity"] == pytest.approx(full["texts"][1]["perplexity"], rel=1e-4)
    assert sdpa["pass_key"] == full["pass_key"]
    assert (full["attended_average"], full["mass"], sdpa["attended_last"], sdpa["mass"]) == pytest.approx((1, 1, 1, 1))
    assert local["attended_last"] == hsa["attended_last"] < 0.2
    assert local["mass"] < hsa["mass"] < 1
    assert hsa["all_texts"]["change"]["difference"] != 0


def test_the_same_command_gives_the_same_figures(hsattn, model, texts, found):
    again = json.loads(compare(hsattn, model, texts, "--json", "--no-speed").stdout)
    for row, before in zip(again["rows"], found[0]["rows"], strict=True):
        assert row == {name: before[name] for name in row}
    assert "cache_mib" not in again["rows"][0]


def test_parts_are_left_out(hsattn, model, texts):
    options = ["--json", "--no-speed", "--answers", 0, "--positions", 0, "--rows", "hsa,bigbird"]
    report = json.loads(compare(hsattn, model, texts[:1], *options).stdout)
    assert [row["row"] for row in report["rows"]] == ["full", "hsa", "bigbird"]
    assert not {"mass", "pass_key", "numbers", "decode_tokens_per_s"} & report["rows"][1].keys()


def test_the_page_holds_everything_itself(found):
    report, page = found
    assert page.startswith("<!doctype html>")
    assert page.endswith("</body></html>\n")
    for word in ("src=", "href=", "http:", "https:", "url("):
        assert word not in page
    for row in report["rows"]:
        assert f"<td>{row['row']}</td>" in page
        assert f"{row['all_texts']['perplexity']:.3f}" in page


def test_a_table_for_people(hsattn, model, texts):
    done = compare(hsattn, model, texts, "--rows", "local,hsa")
    for word in ("full", "local", "hsa", "one.txt", "digits found again: 10 of pass keys", "tokens read/s"):
        assert word in done.stdout


def test_budgets_beside_the_model_are_those_of_the_row_hsa(hsattn, model, texts, tmp_path):
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "hsattn.json").write_text(json.dumps({"layers": {"0": {"top_k": 256}, "2": {"pattern": "full"}}}))
    options = ["--json", "--no-speed", "--answers", 0]
    plain = json.loads(compare(hsattn, model, texts[:1], *options).stdout)["rows"][3]
    own = json.loads(compare(hsattn, tmp_path, texts[:1], *options).stdout)["rows"]
    assert own[3]["attended_last"] > plain["attended_last"] + 0.3
    assert own[3]["mass"] > plain["mass"]
    assert own[2]["attended_last"] == pytest.approx(own[3]["attended_last"])


def test_with_a_mass_budget_it_measures_what_is_attended(hsattn, model, texts, found):
    most = found[0]["rows"][3]
    options = ["--json", "--no-speed", "--answers", 0, "--rows", "hsa", "--mass", 0.3, "--min-top-k", 8]
    measured = json.loads(compare(hsattn, model, texts, *options).stdout)["rows"][1]
    assert measured["attended_last"] < most["attended_last"]
    assert measured["attended_average"] < most["attended_average"]
    unlimited = [*options[:-3], 1, "--min-top-k", 8]
    everything = json.loads(compare(hsattn, model, texts, *unlimited).stdout)["rows"][1]
    assert everything["attended_last"] == pytest.approx(most["attended_last"])


def test_an_interrupt_ends_it(model, texts):
    command = [program(), "compare", "--model", model, "--text", texts[0], *SMALL.split(), *SIZES.split()]
    running = subprocess.Popen(
        list(map(str, [*command, "--answers", 1000000])), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not catches_interrupts(running.pid):
        time.sleep(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1)
    running.send_signal(signal.SIGINT)
    stdout, _ = running.communicate(timeout=300)
    assert (running.returncode, stdout) == (130, "")


def catches_interrupts(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("SigCgt:")[1].split()[0], 16) >> (signal.SIGINT - 1) & 1


WRONG = [
    (["--rows", "hsa,linear"], 2, "rows names linear; "),
    (["--answers", "-1"], 2, "answers is -1; at least 0 is right"),
    (["--numbers", "200"], 2, "numbers is 200; 1 to 144 is right"),
    (["--attention", "local"], 2, "unknown option --attention"),
    (["--windows", "50"], 1, "one.txt has 1800 tokens; 50 windows of 600 need 30001"),
    (["--numbers", "40"], 2, "numbers and their questions take"),
    (["--page", "/nowhere/page.html", "--answers", "0", "--no-speed"], 1, "/nowhere/page.html"),
]


@pytest.mark.parametrize(("options", "code", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input(hsattn, model, texts, options, code, message):
    done = compare(hsattn, model, texts[:1], *options, code=code)
    assert message in done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
