"""`hsattn reproduce`: a slice of the quick preset, and everything that can go wrong on the way."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from built_program import ROOT, program

# Threads that wait for each other must not spin: the machine may be busy with other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

QUICK = ["reproduce", "all", "--preset", "quick"]
SLICE = [
    "table51/full", "table51/local", "table51/hsa", "table51/sdpa/seed-1", "table51/speed/512", "scaling/512",
    "levels-2/seed-1", "levels/speed", "pooling/warm-up/seed-1", "patterns/", "theory/random", "theory/trained",
    "recall-256/full", "recall-256/hsa",
]  # fmt: skip
RATE = "table51/hsa/rate-0.003"


@pytest.fixture(scope="module")
def slice_of_quick(hsattn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "quick"
    done = hsattn(*QUICK, "--only", ",".join(SLICE), "--out", folder, cwd=ROOT, timeout=1800)
    assert done.returncode == 0, done.stderr
    return folder, done


def result(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def results_of(folder):
    return sorted(p for p in folder.rglob("*.json") if "work" not in p.relative_to(folder).parts)


def test_every_run_leaves_a_whole_result(slice_of_quick):
    folder, done = slice_of_quick
    paths = results_of(folder)
    assert len(paths) >= 25
    for path in paths:
        content = json.loads(path.read_text())
        assert path == folder / f"{content['name']}.json"
        assert content["command"].startswith("hsattn ")
        assert "{" not in content["command"]
        assert content["preset"] == "quick"
        assert {"commit", "processor", "isa", "torch", "threads"} <= set(content["environment"])
        assert content["seconds"] > 0
    assert f"{folder}: {len(paths)} runs, {len(paths)} done" in done.stdout
    assert "for all that is left" in done.stderr
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("preset", ["quick", "small", "paper"])
def test_commands_know_the_options_of_all_runs(hsattn, preset, tmp_path):
    listed = hsattn("reproduce", "all", "--preset", preset, "--dry-run", "--out", tmp_path / "none", cwd=ROOT)
    assert listed.returncode == 0, listed.stderr
    used = {}
    for words in re.findall(r"  hsattn (.*)", listed.stdout):
        used.setdefault(words.split()[0], set()).update(re.findall(r"--[a-z][a-z-]*", words))
    assert "bench-step" in used
    for command, options in used.items():
        known = set(re.findall(r"--[a-z][a-z-]*", hsattn(command, "--help").stdout))
        assert not options - known, command


def test_what_was_measured_is_there(slice_of_quick):
    folder, _ = slice_of_quick
    seed = result(folder, "table51/hsa/seed-2")
    assert seed["seed"] == 2
    assert seed["numbers"]["eval_perplexity_last_quarter"] > 1
    assert 5 < len(seed["curve"]) <= 60
    best = min((result(folder, f"table51/hsa/rate-{rate}")["numbers"]["eval_loss"], rate) for rate in ("0.003", "0.01"))
    assert f"--learning-rate {best[1]} " in seed["command"]
    full, sdpa = result(folder, "table51/full/seed-1")["numbers"], result(folder, "table51/sdpa/seed-1")["numbers"]
    assert sdpa["eval_perplexity"] == pytest.approx(full["eval_perplexity"], rel=1e-2)
    rows = result(folder, "table51/speed/512")["numbers"]["results"]
    assert {"standard", "sdpa", "full", "local:window=104", "hsa"} <= {row["attention"] for row in rows}
    for row in rows:
        assert len(row["all_ms"]) == len(row["all_forward_ms"]) == 3
        assert row["peak_memory_mib"] > row["step_memory_mib"] >= 0
    attended = {row["attention"]: row["attended_tokens"] for row in rows}
    assert attended["hsa"] < attended["full"]
    for rows in ("random", "trained"):
        theory = result(folder, f"theory/{rows}")["numbers"]
        assert (theory["cases"], theory["exceeded"]) == (2000, 0)
        assert theory["tightness_most"] > (0.9 if rows == "random" else 0)
    answers = result(folder, "retrieval/recall-256/hsa/answers")["numbers"]
    assert len(answers["right"]) == answers["answers"] == 1000
    assert answers["accuracy"] == pytest.approx(answers["right"].count("1") / 1000)


def test_patterns_are_shares(slice_of_quick):
    numbers = result(slice_of_quick[0], "patterns/hsa")["numbers"]
    assert len(numbers["heads"]) == 4
    for head in numbers["heads"]:
        assert 0 < head["mass"] <= head["oracle_blocks"] + 1e-9 <= head["oracle_tokens"] + 2e-9 <= 1 + 3e-9
        assert head["near"] + head["blocks"] + sum(head["far"]) == pytest.approx(1, abs=1e-3)
        assert sum(head["true_by_distance"]) == pytest.approx(1, abs=1e-3)
        assert sum(head["held_by_distance"]) == pytest.approx(head["mass"], abs=1e-3)
    masses = [b["mass"] for b in numbers["budgets"]]
    assert masses == sorted(masses)
    row = numbers["rows"][0]
    assert len(row["weights"]) == row["position"] + 1 <= len(numbers["text"])


def test_a_second_call_runs_nothing(hsattn, slice_of_quick):
    folder, _ = slice_of_quick
    before = {path: path.stat().st_mtime_ns for path in results_of(folder)}
    done = hsattn(*QUICK, "--only", ",".join(SLICE), "--out", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "[" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in results_of(folder)} == before


def test_a_changed_run_is_run_again(hsattn, slice_of_quick, tmp_path):
    folder, _ = slice_of_quick
    content = result(folder, "theory/random")
    content["words"][-2] = "17"
    (tmp_path / "theory").mkdir()
    (tmp_path / "theory" / "random.json").write_text(json.dumps(content))
    only = [*QUICK, "--only", "theory/random", "--out", tmp_path]
    assert "changed" in hsattn(*only, "--dry-run", cwd=ROOT).stdout
    assert hsattn(*only, cwd=ROOT).returncode == 0
    assert result(tmp_path, "theory/random")["numbers"]["cases"] == 2000


def test_the_dry_run_lists_and_runs_nothing(hsattn, tmp_path):
    done = hsattn(*QUICK, "--dry-run", "--out", tmp_path / "none", cwd=ROOT)
    assert done.returncode == 0
    assert not (tmp_path / "none").exists()
    lines = done.stdout.splitlines()
    assert any(line.startswith("table51/hsa/seed-1 ") and " hsattn train " in line for line in lines)
    assert " 0 done; about " in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--preset", "huge"], "preset is huge; quick, small or paper are right"),
        (["tables"], "experiment is tables; table51"),
        (["retrieval", "--preset", "paper"], "speed and memory alone"),
        (["--only", "no-such-run"], "--dry-run lists them"),
        (["table51", "levels"], "one, or all, is right"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(hsattn, tmp_path, arguments, says):
    done = hsattn("reproduce", *arguments, "--out", tmp_path / "out", cwd=ROOT)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def start(folder, only=RATE):
    words = [program(), *QUICK, "--only", only, "--out", folder]
    return subprocess.Popen(list(map(str, words)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps_done(folder):
    metrics = folder / "work" / RATE / "metrics.jsonl"
    return metrics.read_text().count('"loss"') if metrics.exists() else 0


def trainers_of(folder):
    """Command lines of processes that train in the folder."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"train" in words and any(str(folder).encode() in word for word in words):
                found.append(words)
    return found


def check_it_goes_on(hsattn, folder, whole):
    """The same command ends with the losses of a run that nobody disturbed."""
    done = hsattn(*QUICK, "--only", RATE, "--out", folder, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    ours, theirs = result(folder, RATE), result(whole, RATE)
    assert ours["numbers"]["eval_loss"] == theirs["numbers"]["eval_loss"]
    assert ours["curve"] == theirs["curve"]
    assert ours["command"].replace(str(folder), "") == theirs["command"].replace(str(whole), "")


def test_a_killed_call_leaves_no_child_and_goes_on(hsattn, slice_of_quick, tmp_path):
    process = start(tmp_path)
    wait_for(lambda: steps_done(tmp_path) >= 5, process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while trainers_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not trainers_of(tmp_path)
    assert not (tmp_path / f"{RATE}.json").exists()
    assert "begun" in hsattn(*QUICK, "--only", RATE, "--out", tmp_path, "--dry-run", cwd=ROOT).stdout
    check_it_goes_on(hsattn, tmp_path, slice_of_quick[0])


def test_an_interrupted_call_ends_with_130_and_goes_on(hsattn, slice_of_quick, tmp_path):
    process = start(tmp_path)
    wait_for(lambda: steps_done(tmp_path) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors.splitlines()[-1].endswith("what is done is kept, the same command goes on")
    assert len(list((tmp_path / "work" / RATE / "checkpoints").iterdir())) == 1
    check_it_goes_on(hsattn, tmp_path, slice_of_quick[0])


def test_two_calls_in_one_folder_are_refused(hsattn, tmp_path):
    process = start(tmp_path)
    wait_for(lambda: (tmp_path / "work" / "lock").exists(), process)
    done = hsattn(*QUICK, "--only", RATE, "--out", tmp_path, cwd=ROOT)
    process.kill()
    process.communicate()
    assert done.returncode == 1
    assert "another `hsattn reproduce` works in it" in done.stderr


def test_a_full_disk_is_one_line_and_loses_nothing(hsattn, tmp_path):
    only = [*QUICK, "--only", "theory/random", "--out", tmp_path]

    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    done = hsattn(*only, cwd=ROOT, preexec_fn=small_files_only)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "failed" in done.stderr.splitlines()[-1] or "cannot write" in done.stderr.splitlines()[-1]
    assert not results_of(tmp_path)
    assert hsattn(*only, cwd=ROOT).returncode == 0


def test_a_failed_run_is_named_with_its_log(hsattn, tmp_path):
    arguments = [*QUICK, "--only", "table51/speed/512", "--text", tmp_path / "missing", "--out", tmp_path / "out"]
    assert hsattn(*arguments, cwd=ROOT).returncode == 0  # timing reads no text
    arguments[arguments.index("table51/speed/512")] = "theory/random," + RATE
    done = hsattn(*arguments, cwd=ROOT)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "data/text failed with exit code 1: hsattn prepare: " in last
    assert "text.log" in last
    assert not (tmp_path / "out" / "theory" / "random.json").exists()
    going = hsattn(*arguments, "--keep-going", cwd=ROOT)
    assert going.returncode == 1
    assert (tmp_path / "out" / "theory" / "random.json").exists()


def test_a_file_that_is_no_result_is_named(hsattn, tmp_path):
    (tmp_path / "theory").mkdir()
    (tmp_path / "theory" / "random.json").write_text('{"half": ')
    done = hsattn(*QUICK, "--only", "theory/random", "--out", tmp_path, cwd=ROOT)
    assert done.returncode == 1
    assert "random.json" in done.stderr


def test_the_report_is_written_from_the_results(hsattn, slice_of_quick, tmp_path):
    page = tmp_path / "page.html"
    done = hsattn("report", slice_of_quick[0], "--out", page)
    assert done.returncode == 0, done.stderr
    assert page.stat().st_size < 3 << 20
    for section in ("table51", "scaling", "patterns", "levels", "pooling", "theory", "retrieval", "losses"):
        assert f'id="{section}"' in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "name one folder"),
        (["/no/such/folder"], 1, "no such folder"),
        (["{folder}", "--python", "no-such-python"], 1, "the report needs Python 3.10"),
        (["{empty}"], 1, "holds no results"),
    ],
)
def test_the_report_says_what_is_missing(hsattn, slice_of_quick, tmp_path, arguments, code, says):
    words = [a.format(folder=slice_of_quick[0], empty=tmp_path) for a in arguments]
    done = hsattn("report", *words)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_an_installed_program_finds_its_report(slice_of_quick, tmp_path):
    (tmp_path / "bin").mkdir()
    installed = shutil.copy(program(), tmp_path / "bin" / "hsattn")
    page = tmp_path / "page.html"
    words = [installed, "report", slice_of_quick[0], "--out", page]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 1
    assert "share/hsattn/report" in done.stderr
    shutil.copytree(
        ROOT / "report", tmp_path / "share" / "hsattn" / "report", ignore=shutil.ignore_patterns("__pycache__")
    )
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert page.exists()
    assert not list(tmp_path.rglob("__pycache__/*results*"))  # nothing is written beside an installed report
