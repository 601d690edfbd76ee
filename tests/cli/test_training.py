"""Training from the command line: metrics, resuming, interruption, and what goes wrong."""

import json
import math
import resource
import shutil
import signal
import subprocess

import pytest
from built_program import program

STEP = {
    "step", "tokens", "loss", "perplexity", "tokens_per_s", "peak_memory_mib", "attention_share", "attended_tokens",
    "lr", "grad_norm", "elapsed_s",
}  # fmt: skip


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses_of(run):
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines_of(run) if "loss" in line]


def model_bytes(run, step):
    return (run / "checkpoints" / f"step-{step:08d}" / "model.safetensors").read_bytes()


def moments(run, step):
    from safetensors import safe_open

    with safe_open(run / "checkpoints" / f"step-{step:08d}" / "optimizer.safetensors", "pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}


@pytest.fixture(scope="module")
def whole(hsattn, small, tmp_path_factory):
    """Twenty steps without a break."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = hsattn(*small, "--run", run, "--steps", 20, "--eval-every", 10, "--json")
    assert done.returncode == 0, done.stderr
    return run, done


def test_a_run_folder_holds_what_was_done(whole):
    run, done = whole
    lines = lines_of(run)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert all(set(line) == STEP for line in steps)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert steps[-1]["tokens"] == 20 * 2 * 256
    for line in steps:
        assert line["perplexity"] == pytest.approx(math.exp(line["loss"]))
        assert 0 < line["attention_share"] < 1
        assert line["attended_tokens"] < 16 + 8 + 32 + 8 + 1
    evaluations = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [10, 20]
    assert {"eval_perplexity", "eval_perplexity_last_quarter"} <= set(evaluations[0])
    result = json.loads((run / "result.json").read_text())
    assert result == json.loads(done.stdout)
    assert result["finished"] is True
    assert result["eval_loss"] == evaluations[-1]["eval_loss"]
    environment = json.loads((run / "environment.json").read_text())
    assert {"processor", "isa", "torch", "threads", "commit"} <= set(environment)
    assert json.loads((run / "config.json").read_text())["top_k"] == 32


def test_log_lines_in_a_pipe_are_plain(whole):
    _, done = whole
    assert "\r" not in done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("step 20/20"))
    for word in ("loss", "ppl", "tok/s", "MiB", "attention", "attended", "lr", "eta"):
        assert f" {word} " in line or f" {word}  " in line


def test_the_model_is_readable_by_the_safetensors_package(whole):
    from safetensors import safe_open

    run, _ = whole
    with safe_open(run / "checkpoints" / "step-00000020" / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["hsattn_config"])["width"] == 32
        assert tuple(file.get_tensor("embedding").shape) == (256, 32)
        assert tuple(file.get_tensor("blocks.1.qkv").shape) == (96, 32)


def test_resuming_is_bit_equal(hsattn, small, whole, tmp_path):
    first = hsattn(*small, "--run", tmp_path / "run", "--steps", 20, "--eval-every", 10, "--stop-at", 10)
    assert first.returncode == 0, first.stderr
    again = hsattn("train", "--run", tmp_path / "run", "--resume")
    assert again.returncode == 0, again.stderr
    assert losses_of(tmp_path / "run") == losses_of(whole[0])
    assert model_bytes(tmp_path / "run", 20) == model_bytes(whole[0], 20)
    expected = moments(whole[0], 20)
    for name, tensor in moments(tmp_path / "run", 20).items():
        assert tensor.equal(expected[name]), name


def test_what_a_run_learns_cannot_change_on_the_way(hsattn, whole):
    done = hsattn("train", "--run", whole[0], "--resume", "--learning-rate", 1)
    assert done.returncode == 2
    assert "learning_rate" in done.stderr


def test_a_run_folder_is_not_overwritten(hsattn, small, whole):
    before = model_bytes(whole[0], 20)
    done = hsattn(*small, "--run", whole[0], "--steps", 1)
    assert done.returncode == 1
    assert "--resume" in done.stderr
    assert model_bytes(whole[0], 20) == before


def test_the_seed_decides(hsattn, small, whole, tmp_path):
    done = hsattn(*small, "--run", tmp_path / "run", "--steps", 20, "--stop-at", 1, "--seed", 2)
    assert done.returncode == 0
    assert losses_of(tmp_path / "run")[0] != losses_of(whole[0])[0]


@pytest.mark.parametrize(
    "attention",
    [
        *("standard", "sdpa", "full", "local", "sparse_transformer", "longformer", "bigbird"),
        *("linear", "performer", "linformer"),
    ],
)
def test_every_attention_learns(hsattn, small, tmp_path, attention):
    arguments = ["--attention", attention, "--steps", 12, "--kv-heads", 1, "--accumulate", 2, "--batch", 1]
    done = hsattn(*small, "--run", tmp_path / "run", *arguments, "--checkpointing")
    assert done.returncode == 0, done.stderr
    losses = losses_of(tmp_path / "run")
    assert losses[-1][1] < losses[0][1] - 0.2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_goes_on_bit_equal(small, hsattn, whole, tmp_path, number):
    run = tmp_path / "run"
    command = [program(), *small, "--run", run, "--steps", 20, "--eval-every", 10]
    with subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if line.startswith("step 3/"):
                process.send_signal(number)
                break
        rest = process.stderr.read()
        assert process.wait(timeout=120) == 130, rest
    assert "--resume" in rest
    assert len(list((run / "checkpoints").iterdir())) == 1
    assert hsattn("train", "--run", run, "--resume").returncode == 0
    assert losses_of(run) == losses_of(whole[0])
    assert model_bytes(run, 20) == model_bytes(whole[0], 20)


def test_a_finished_run_that_is_resumed_says_the_same(hsattn, whole, tmp_path):
    """As after a kill between the last checkpoint and the result."""
    run = shutil.copytree(whole[0], tmp_path / "run")
    before = json.loads((run / "result.json").read_text())
    (run / "result.json").unlink()
    done = hsattn("train", "--run", run, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)
    for name in ("step", "tokens", "loss", "eval_loss", "elapsed_s", "attended_tokens", "finished"):
        assert after[name] == before[name], name
    assert after["tokens_per_s"] > 0


def test_a_run_without_a_checkpoint_begins_again(hsattn, small, whole, tmp_path):
    run = tmp_path / "run"
    assert hsattn(*small, "--run", run, "--steps", 20, "--eval-every", 10, "--stop-at", 1).returncode == 0
    for path in (run / "checkpoints" / "step-00000001").iterdir():
        path.unlink()
    (run / "checkpoints" / "step-00000001").rmdir()
    assert hsattn("train", "--run", run, "--resume").returncode == 0
    assert losses_of(run) == losses_of(whole[0])
    assert model_bytes(run, 20) == model_bytes(whole[0], 20)


def test_a_larger_budget_at_first_is_attended_and_resumes(hsattn, small, tmp_path):
    more = ["--first-top-k", 96, "--first-steps", 4, "--steps", 8]
    assert hsattn(*small, "--run", tmp_path / "whole", *more).returncode == 0
    attended = [line["attended_tokens"] for line in lines_of(tmp_path / "whole") if "loss" in line]
    assert min(attended[:4]) > max(attended[4:])
    assert hsattn(*small, "--run", tmp_path / "cut", *more, "--stop-at", 3).returncode == 0
    assert hsattn("train", "--run", tmp_path / "cut", "--resume").returncode == 0
    assert model_bytes(tmp_path / "cut", 8) == model_bytes(tmp_path / "whole", 8)


def test_short_windows_at_first_hold_as_many_tokens_and_resume(hsattn, small, tmp_path):
    more = ["--attention", "full", "--short-context", 64, "--short-steps", 4, "--steps", 8]
    assert hsattn(*small, "--run", tmp_path / "whole", *more).returncode == 0
    steps = [line for line in lines_of(tmp_path / "whole") if "loss" in line]
    assert [line["tokens"] for line in steps] == [512 * step for step in range(1, 9)]
    assert [line["attended_tokens"] for line in steps] == [32.5] * 4 + [128.5] * 4
    assert hsattn(*small, "--run", tmp_path / "cut", *more, "--stop-at", 5).returncode == 0
    assert hsattn("train", "--run", tmp_path / "cut", "--resume").returncode == 0
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")
    assert model_bytes(tmp_path / "cut", 8) == model_bytes(tmp_path / "whole", 8)
    wrong = hsattn(*small, "--run", tmp_path / "wrong", "--short-context", 100, "--short-steps", 4)
    assert wrong.returncode == 2
    assert "a divisor of context, 256, is right" in wrong.stderr


def test_copying_is_learned_from_random_tokens_first_and_resumes(hsattn, small, tmp_path):
    short = ["--attention", "full", "--taps", 3, "--short-context", 64, "--short-steps", 6]
    copying = [*short, "--copy-steps", 3, "--steps", 8]
    assert hsattn(*small, "--run", tmp_path / "whole", *copying).returncode == 0
    steps = [line for line in lines_of(tmp_path / "whole") if "loss" in line]
    assert [line["attended_tokens"] for line in steps] == [32.5] * 6 + [128.5] * 2
    assert hsattn(*small, "--run", tmp_path / "cut", *copying, "--stop-at", 2).returncode == 0
    assert hsattn("train", "--run", tmp_path / "cut", "--resume").returncode == 0
    assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")
    assert model_bytes(tmp_path / "cut", 8) == model_bytes(tmp_path / "whole", 8)
    assert hsattn(*small, "--run", tmp_path / "text", *short, "--steps", 8).returncode == 0
    assert losses_of(tmp_path / "text")[0] != losses_of(tmp_path / "whole")[0]
    wrong = hsattn(*small, "--run", tmp_path / "wrong", "--copy-steps", 9, "--steps", 8)
    assert wrong.returncode == 2
    assert "copy_steps is 9; 0 to steps, 8, is right" in wrong.stderr


def test_a_task_is_learned_and_read_out(hsattn, tmp_path):
    task = tmp_path / "task"
    made = hsattn("task", "--task", "recall", "--length", 160, "--samples", 64, "--held-out", 64, "--out", task)
    assert made.returncode == 0, made.stderr
    model = "--layers 2 --width 32 --heads 2 --context 160 --batch 4 --learning-rate 1e-2 --threads 1 --attention full"
    train = ["train", "--data", task, *model.split(), "--aligned", "--answers-only", "--steps", 60, "--warmup", 5]
    assert hsattn(*train, "--run", tmp_path / "first").returncode == 0
    losses = losses_of(tmp_path / "first")
    assert losses[-1][1] < math.log(10) + 0.5 < losses[0][1]  # answers are digits; nothing else counts
    read = ["recall", "--model", tmp_path / "first", "--data", task, "--context", 160, "--answers", 100, "--threads", 1]
    done = hsattn(*read, "--json")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers["right"]) == len(answers["distances"]) == 100
    assert 0 < answers["accuracy_bytes"] <= 1
    assert hsattn(*read, "--answers", 100_000).returncode == 1
    same, near = (hsattn(*read, "--attention", name, "--window", 8, "--json") for name in ("full", "local"))
    assert json.loads(same.stdout) == answers
    assert json.loads(near.stdout)["attention"] == "local"
    assert "name it too, such as --attention hsa" in hsattn(*read, "--window", 8).stderr
    assert hsattn(*train, "--run", tmp_path / "second", "--init", tmp_path / "first").returncode == 0
    assert losses_of(tmp_path / "second")[0][1] < losses[0][1] - 1
    shifted = hsattn(*train, "--run", tmp_path / "third", "--context", 150)
    assert shifted.returncode == 1
    assert "documents of that length" in shifted.stderr


@pytest.mark.parametrize("pooling", [("attention",), ("attention_paper", "--pooler-per-layer"), ("learnable",)])
def test_a_pooler_learns_and_a_resumed_run_goes_on_bit_equal(hsattn, small, data, tmp_path, pooling):
    run, resumed = tmp_path / "run", tmp_path / "resumed"
    arguments = [*small, "--steps", 4, "--far-field", "--pooling", *pooling, "--json"]
    done = hsattn(*arguments, "--run", run)
    assert done.returncode == 0, done.stderr
    assert hsattn(*arguments, "--run", resumed, "--stop-at", 2).returncode == 0
    assert hsattn("train", "--run", resumed, "--resume").returncode == 0
    assert model_bytes(resumed, 4) == model_bytes(run, 4)
    from safetensors import safe_open

    weights = []
    for step in (2, 4):
        folder = (resumed if step == 2 else run) / "checkpoints" / f"step-{step:08d}"
        with safe_open(folder / "model.safetensors", "pt") as file:
            names = [name for name in file.keys() if name.endswith("pooler")]  # noqa: SIM118
            weights.append({name: file.get_tensor(name) for name in names})
            parameters = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert set(weights[0]) == ({"blocks.0.pooler", "blocks.1.pooler"} if len(pooling) == 2 else {"pooler"})
    assert all((weights[0][name] != weights[1][name]).any() for name in weights[0])
    assert json.loads((run / "result.json").read_text())["parameters"] == parameters
    evaluated = hsattn("eval", "--model", run, "--data", data, "--context", 256, "--windows", 2, "--json")
    assert evaluated.returncode == 0, evaluated.stderr


def test_training_says_that_it_cannot_evaluate(hsattn, small, text, tmp_path):
    done = hsattn("prepare", text, "--out", tmp_path / "data", "--fraction", 0.001)
    assert done.returncode == 0, done.stderr
    words = [tmp_path / "data" if word == small[2] else word for word in small]
    done = hsattn(*words, "--run", tmp_path / "run", "--steps", 1)
    assert done.returncode == 0, done.stderr
    assert "less held-out text than a window, so no evaluation" in done.stderr
    done = hsattn("prepare", text, "--out", tmp_path / "none", "--fraction", 1e-6)
    assert "nothing is held out" in done.stderr


def test_what_could_not_learn_is_refused(hsattn, small, tmp_path):
    done = hsattn(*small, "--run", tmp_path / "run", "--pooling", "attention")
    assert done.returncode == 2
    assert "pooling is attention, whose parameters learn through the far field alone" in done.stderr
    done = hsattn(*small, "--run", tmp_path / "run", "--tail", 0.5)
    assert done.returncode == 2
    assert "tail is 0.5, which has no gradient; 0 is right in training" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_with_a_report(hsattn, small, tmp_path):
    run = tmp_path / "run"
    arguments = ["--steps", 50, "--warmup", 0, "--save-every", 1, "--learning-rate", 1e30, "--precision", "float32"]
    done = hsattn(*small, "--run", run, *arguments)
    assert done.returncode == 1
    report = json.loads((run / "not_finite.json").read_text())
    assert f"step {report['step']}: the " in done.stderr.splitlines()[-1]
    assert report["last_checkpoint"] == report["step"] - 1
    assert len(report["batch_offsets"]) == 2
    assert "nan" in report["loss"] + report["grad_norm"] or "inf" in report["loss"] + report["grad_norm"]


def test_a_full_disk_loses_no_checkpoint(hsattn, small, tmp_path):
    run = tmp_path / "run"
    assert hsattn(*small, "--run", run, "--steps", 20, "--stop-at", 2).returncode == 0
    before = model_bytes(run, 2)

    def small_files_only():  # files may grow to 20 kB: metrics fit, checkpoints do not
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = hsattn("train", "--run", run, "--resume", "--stop-at", 4, preexec_fn=small_files_only)
    assert done.returncode == 1
    assert "cannot write" in done.stderr.splitlines()[-1]
    assert "model.safetensors" in done.stderr.splitlines()[-1]
    assert model_bytes(run, 2) == before
    assert hsattn("train", "--run", run, "--resume", "--stop-at", 4).returncode == 0
    assert len(model_bytes(run, 4)) == len(before)


def test_other_data_is_refused_on_resume(hsattn, small, text, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    assert hsattn("prepare", text, "--out", other, "--fraction", 0.1).returncode == 0
    assert hsattn(*small, "--run", run, "--steps", 20, "--stop-at", 1).returncode == 0
    done = hsattn("train", "--run", run, "--resume", "--data", other)
    assert done.returncode == 1
    assert "the same data is right" in done.stderr


def test_evaluation_of_a_checkpoint_agrees_with_the_run(hsattn, data, whole):
    run, _ = whole
    arguments = ["eval", "--model", run, "--data", data, "--context", 256, "--windows", 4, "--threads", 1]
    done = hsattn(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    expected = json.loads((run / "result.json").read_text())
    assert result["eval_perplexity"] == expected["eval_perplexity"]
    assert result["attention"] == "hsa"
    assert result["forward_ms"] > 0
    assert "perplexity per byte" in hsattn(*arguments).stdout
    other = hsattn(*arguments, "--attention", "sdpa", "--json")
    assert json.loads(other.stdout)["eval_perplexity"] != result["eval_perplexity"]


def test_inspect_measures_every_head_and_draws_one(hsattn, text, whole, tmp_path):
    run, _ = whole
    page = tmp_path / "page.html"
    arguments = ["inspect", "--model", run, "--text", text, "--context", 300, "--positions", 20, "--threads", 1]
    done = hsattn(*arguments, "--out", page, "--json")
    assert done.returncode == 0, done.stderr
    heads = json.loads(done.stdout)["heads"]
    assert [(head["layer"], head["head"]) for head in heads] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for head in heads:
        assert 0 < head["mass"] <= 1
        assert head["near"] + head["blocks"] + sum(head["far"]) == pytest.approx(1)
        assert head["distance_full"] > 0
    html = page.read_text()
    assert html.count('class="near"') >= 20
    assert 'class="block"' in html
    assert 'class="far"' not in html
    budgets = ["--preset", "paper", "--window", 16, "--top-k", 32, "--top-nodes", 8, "--dense-until", 0]
    far = hsattn(*arguments, "--out", page, "--attention", "hsa", *budgets)
    assert far.returncode == 0, far.stderr
    assert 'class="far"' in page.read_text()
    full = hsattn(*arguments, "--out", page, "--attention", "full", "--json")
    assert all(head["mass"] == pytest.approx(1) for head in json.loads(full.stdout)["heads"])
    absent = hsattn(*arguments, "--out", page, "--layer", 7)
    assert absent.returncode == 2
    assert "layer is 7, head is 0; the model has 2 layers of 2 heads" in absent.stderr
    broken = hsattn(*arguments, "--out", "/dev/full")
    assert broken.returncode == 1
    assert "/dev/full" in broken.stderr
