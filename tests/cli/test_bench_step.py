"""The benchmark of a whole training step: what it measures, what it checks, what it refuses."""

import json

import pytest

ALL = "hsa,sdpa,standard,full"
SMALL = [
    "bench-step", "--layers", 2, "--width", 32, "--heads", 2, "--repeats", 1, "--threads", 1,
    "--window", 16, "--top-k", 32, "--top-nodes", 8, "--dense-until", 0,
]  # fmt: skip
ROW = {
    "length", "attention", "fits", "needs_gib", "available_gib", "ms", "all_ms", "attention_ms", "optimizer_ms",
    "peak_memory_mib", "step_memory_mib",
    "attention_share", "tokens_per_s", "attended_tokens", "loss", "loss_error", "gradient_error", "faster",
}  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--checkpointing", "--kv-heads", 1)])
def test_each_attention_is_checked_and_timed(hsattn, options):
    done = hsattn(*SMALL, "--lengths", "256,300", *options, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["checkpointing"] is ("--checkpointing" in options)
    assert {"layers", "width", "heads", "batch", "parameters", "precision", "environment"} <= set(result)
    rows = result["results"]
    assert [(row["length"], row["attention"]) for row in rows] == [(n, a) for n in (256, 300) for a in ALL.split(",")]
    for row in rows:
        assert set(row) == ROW
        hsa, full = (r for r in rows if r["length"] == row["length"] and r["attention"] in ("hsa", "full"))
        assert row["faster"] == {"hsa": row["ms"] / hsa["ms"], "full": row["ms"] / full["ms"]}
        assert 0 < row["attention_ms"] < row["ms"]
        assert row["attention_share"] == pytest.approx(row["attention_ms"] / row["ms"])
        assert row["tokens_per_s"] == pytest.approx(1000 * row["length"] / row["ms"])
        if row["attention"] == "hsa":
            assert row["attended_tokens"] < 16 + 8 + 32 + 8 + 1
            assert 1e-5 < row["gradient_error"] < 1
        else:
            assert row["attended_tokens"] == pytest.approx((row["length"] + 1) / 2)
            assert row["loss_error"] < 1e-6
            assert row["gradient_error"] < 1e-5


def test_the_table_names_the_setting_and_the_ratios(hsattn, text):
    done = hsattn(*SMALL, "--lengths", 256, "--batch", 2, "--text", text, "--attention", "sdpa,hsa")
    assert done.returncode == 0, done.stderr
    for words in ("2 layers, 32 wide, 2 heads of 16", "checkpointing off", str(text), "256 tokens", "vs hsa"):
        assert words in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[-2:]] == ["sdpa", "hsa"]
    assert "repeat 1 of 1, sdpa" in done.stderr


def test_variants_are_compared_in_one_process(hsattn):
    names = "hsa,hsa:top_k=64:far_field=false,local:window=32"
    done = hsattn(*SMALL, "--lengths", 512, "--attention", names, "--forward", "--repeats", 2, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert [row["attention"] for row in rows] == names.split(",")
    attended = [row["attended_tokens"] for row in rows]
    assert attended[2] < attended[0] < attended[1]
    for row in rows:
        assert len(row["all_ms"]) == len(row["all_forward_ms"]) == 2
        assert 0 < row["forward_ms"] < row["ms"]
        assert row["peak_memory_mib"] > row["step_memory_mib"] >= 0


def test_a_variant_that_makes_no_sense_is_refused(hsattn):
    for text, says in (
        ("hsa:depth=3", "no option depth"),
        ("hsa:levels", "NAME:option=value"),
        ("hsa:levels=9", "levels"),
    ):
        done = hsattn(*SMALL, "--lengths", 256, "--attention", text)
        assert done.returncode == 2
        assert says in done.stderr


def test_a_text_that_is_too_short_is_refused(hsattn, text):
    done = hsattn(*SMALL, "--lengths", 100_000, "--text", text)
    assert done.returncode == 1
    assert "at least 100001 are right" in done.stderr.splitlines()[-1]


def test_what_does_not_fit_into_memory_is_not_run(hsattn):
    huge = [*SMALL, "--lengths", 4_000_000, "--attention", "standard"]
    done = hsattn(*huge, "--json")
    assert done.returncode == 1
    (row,) = json.loads(done.stdout)["results"]
    assert row["fits"] is False
    assert row["needs_gib"] > 4 * 2 * 4e6**2 / 2**30
    assert "ms" not in row
    assert "standard  needs " in hsattn(*huge).stdout
