"""The benchmark of attention alone: its table, what it saves, how it compares, what it refuses."""

import json
import re

import pytest

OWN = ["bench", "--lengths", 64, "--repeats", 1, "--no-backward"]
SHORT = ["bench", "--only", "short any_model 16 ", "--repeats", 1]
ROW = {
    "name", "length", "pass", "dtype", "batch", "heads", "kv_heads", "dim", "pattern", "threads", "turns", "ms",
    "sdpa_ms", "ratio", "attended_tokens", "max_error", "allowed_error",
}  # fmt: skip
COMPARED = {"before_ms", "speedup"}


def rows_of(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["results"]


@pytest.mark.parametrize(
    "pattern", ["hsa", "full", "local", "sparse_transformer_fixed", "longformer", "linear", "performer"]
)
def test_each_pattern_is_checked_and_timed(hsattn, pattern):
    budgets = ["--window", 16, "--top-k", 32, "--top-nodes", 8, "--dense-until", 0]
    arguments = ["--pattern", pattern, "--lengths", "256,300", "--repeats", 1, "--kv-heads", 2, *budgets]
    rows = rows_of(hsattn("bench", *arguments, "--json"))
    passes = ("forward", "forward+backward")
    assert [(row["length"], row["pass"]) for row in rows] == [(n, p) for n in (256, 300) for p in passes]
    for row in rows:
        forward_of_hsa = pattern == "hsa" and row["pass"] == "forward"
        assert set(row) - {"share_of_peak"} == ROW | ({"plan_ms", "attend_ms"} if forward_of_hsa else set()) | (
            {"gflops"} if pattern == "full" else set()
        )
        assert (row["kv_heads"], row["threads"], row["dtype"]) == (2, 1, "float32")
        assert row["ms"] > 0
        assert row["ratio"] == pytest.approx(row["sdpa_ms"] / row["ms"])
        assert 0 < row["max_error"] < 1e-5
    table = hsattn("bench", *arguments)
    assert table.returncode == 0
    assert "faster" in table.stdout
    assert len(table.stdout.splitlines()) >= 4


def test_rows_of_the_table_are_named_and_chosen_by_name(hsattn):
    rows = rows_of(hsattn(*SHORT, "--json"))
    assert [row["name"] for row in rows] == [
        "short any_model 16 forward",
        "short any_model 16 forward+backward",
    ]
    assert all(row["turns"] > 1 for row in rows)  # short calls are repeated, however few turns were asked for


def test_bfloat16_is_as_exact_as_its_type_allows(hsattn):
    (row,) = rows_of(hsattn(*OWN, "--dtype", "bfloat16", "--json"))
    if "skipped" in row:
        assert "bf16" in row["skipped"]
        return
    assert row["dtype"] == "bfloat16"
    assert 1e-4 < row["max_error"] <= row["allowed_error"] < 0.05


def test_several_threads_are_told_for_each_row(hsattn):
    (row,) = rows_of(hsattn("bench", "--only", "threads full", "--repeats", 1, "--json"))
    if "skipped" in row:
        assert "may use" in row["skipped"]
        return
    assert row["threads"] == 2
    assert row["one_thread_ms"] > 0


def test_a_saved_run_is_what_json_prints_and_serves_as_a_baseline(hsattn, tmp_path):
    saved = tmp_path / "before.json"
    done = hsattn(*SHORT, "--json", "--save", saved)
    before = json.loads(saved.read_text())
    assert before == json.loads(done.stdout)
    assert {"environment", "peak_gflops", "results", "repeats", "only", "seed"} <= set(before)
    assert not {"save", "json", "baseline", "fail_below"} & set(before)

    table = hsattn(*SHORT, "--baseline", saved)
    assert table.returncode == 0
    assert "against the baseline" in table.stdout
    after = rows_of(hsattn(*SHORT, "--baseline", saved, "--json"))
    for old, new in zip(before["results"], after, strict=True):
        assert set(new) >= COMPARED
        assert new["before_ms"] == old["ms"]
        assert new["speedup"] == pytest.approx(old["ms"] / new["ms"])


@pytest.mark.parametrize(("factor", "code"), [(1e-6, 1), (1e6, 0)])
def test_a_slower_row_fails(hsattn, tmp_path, factor, code):
    saved = tmp_path / "before.json"
    assert hsattn(*OWN, "--save", saved).returncode == 0
    changed = json.loads(saved.read_text())
    changed["results"][0]["ms"] *= factor
    saved.write_text(json.dumps(changed))
    done = hsattn(*OWN, "--baseline", saved, "--fail-below", 0.9)
    assert done.returncode == code
    assert ("less than 0.9 times as fast as before: hsa training 64 forward" in done.stderr) == (code == 1)


def test_a_run_that_fails_leaves_the_older_file(hsattn, tmp_path):
    saved = tmp_path / "before.json"
    saved.write_text("older")
    done = hsattn(*OWN, "--queries", tmp_path / "no_q.npy", "--save", saved)
    assert done.returncode == 1
    assert saved.read_text() == "older"
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "before.json"),
        ("{", "before.json"),
        ("[]", "not what bench --json or --save writes"),
        ("{}", "not what bench --json or --save writes"),
        ({"results": [{"name": "hsa training 64 forward"}]}, "not what bench --json or --save writes"),
        ({"results": []}, "has none of the rows that would run"),
        ({"dim": 128}, "dim is 128; 64 is right, as here"),
    ],
)
def test_a_wrong_baseline_is_named_before_anything_runs(hsattn, tmp_path, content, message):
    saved = tmp_path / "before.json"
    if isinstance(content, dict):
        assert hsattn(*OWN, "--save", saved).returncode == 0
        content = json.dumps(json.loads(saved.read_text()) | content)
    if content is not None:
        saved.write_text(content)
    done = hsattn(*OWN, "--baseline", saved)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_cannot_be_saved_is_named_before_anything_runs(hsattn, tmp_path):
    done = hsattn(*OWN, "--save", tmp_path / "no" / "folder.json")
    assert done.returncode == 1
    assert "folder.json" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_says_what_is_extrapolated_and_what_runs_only_if_asked_for(hsattn):
    text = re.sub(r"\s+", " ", hsattn("bench", "--help").stdout)
    assert "extrapolated" in text
    assert "growth" in text
