"""`hsattn convert`: budgets that hold a target are found, written beside the model, and read by both readers."""

import importlib
import json
import math
import signal
import subprocess
import time

import pytest
from built_program import program
from tiny_folders import make_folder, random_text, torch

LENGTH = 256
WINDOWS = 4  # of each text
KV_HEADS = 2
SMALL = "--window 16 --sinks 8 --dense-until 0 --candidates 512 --least 16 --most 256 --threads 1 --precision float32"
SIZES = f"--context {LENGTH} --windows 2 --calibration 2 --steps 4"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return folder, make_folder(folder, "llama")


@pytest.fixture(scope="module")
def model(made):
    return made[0]


@pytest.fixture(scope="module")
def texts(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    paths = [folder / "one.txt", folder / "two.txt"]
    for seed, path in enumerate(paths):
        path.write_bytes(written_by(made[1], seed))
    return paths


def written_by(model, seed):
    """Windows that a model wrote with full attention, each from its own start: what is left out of it must cost."""
    ids = bytes_to_ids()
    letters = sorted(b"abcdefghijklmnopqrstuvwxyz \n")
    allowed = torch.tensor([ids[b] for b in letters])
    generator = torch.Generator().manual_seed(seed)
    rows, cache = allowed[torch.randint(len(letters), (WINDOWS, 1), generator=generator)], None
    with torch.no_grad():
        while rows.shape[1] < LENGTH:
            out = model(rows[:, -1:] if cache else rows, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            drawn = torch.multinomial(out.logits[:, -1, allowed].softmax(-1), 1, generator=generator)
            rows = torch.cat([rows, allowed[drawn]], dim=1)
    back = {i: b for b, i in ids.items()}
    return bytes(back[i] for i in rows.flatten().tolist()) + b"\n"


def convert(hsattn, model, *options, code=0):
    done = hsattn("convert", "--model", model, *SMALL.split(), *SIZES.split(), *options)
    assert done.returncode == code, done.stderr
    return done


def perplexity(hsattn, folder, text, *options):
    done = hsattn("eval", "--model", folder, "--text", text, "--context", 3 * LENGTH, "--json", *options,
                  *("--threads", 1, "--precision", "float32"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["losses"]


@pytest.fixture(scope="module")
def found(hsattn, model, texts):
    before = (model / "config.json").read_bytes()
    done = convert(hsattn, model, "--text", ",".join(map(str, texts)), "--target", "5%", "--json")
    assert (model / "config.json").read_bytes() == before
    return json.loads(done.stdout)


def test_the_smallest_budgets_that_hold_the_target(found, model, texts):
    chosen, points = found["chosen"], found["points"]
    assert (found["target"], found["texts"], found["layers"]) == (0.05, [str(t) for t in texts], [0, 1, 2])
    assert chosen["worst"] <= 0.05
    assert chosen["worst"] == pytest.approx(max(chosen["change"]))
    by_head = [p for p in points if p["budget"] == "by head"]
    assert chosen["average_top_k"] == min(p["average_top_k"] for p in by_head if p["worst"] <= 0.05)
    assert any(p["worst"] > 0.05 for p in by_head), "the target asks for nothing"
    budgets = [k for layer in chosen["top_k"] for k in layer]
    assert len(budgets) == 3 * KV_HEADS
    assert all(16 <= k <= 256 and k % 8 == 0 for k in budgets)
    for point in points:
        assert point["average_top_k"] == pytest.approx(sum(map(sum, point["top_k"])) / (3 * KV_HEADS))
        assert len({k for layer in point["top_k"] for k in layer}) == 1 or point["budget"] == "by head"
        attended = 16 + 1 + 8 + point["average_top_k"]  # at most: a window may begin 7 earlier
        assert min(attended, LENGTH) / LENGTH - 0.2 <= point["attended_last"] <= min((attended + 7) / LENGTH, 1) + 1e-9
    assert len(found["held_out"]) == 2
    for row in found["held_out"]:
        assert row["all"]["half"] > 0
        assert row["perplexity_full"] > 1
    written = json.loads((model / "hsattn.json").read_text())
    assert [written["layers"][str(i)]["head_top_k"] for i in range(3)] == chosen["top_k"]
    assert (written["window"], written["dense_until"], written["candidates"]) == (16, 0, 512)
    assert written["measured"]["target"] == 0.05
    assert not list(model.glob("*.partial"))


def test_errors_are_those_of_the_states_in_transformers(hsattn, made, texts, tmp_path):
    pytest.importorskip("hsattn.hf")
    from transformers import AttentionInterface

    attention = importlib.import_module("hsattn").attention
    model, top_k, states, errors = made[1], [16, 32, 64], {}, torch.zeros(3, KV_HEADS, 3, dtype=torch.float64)

    def attend(module, q, k, v, mask, scaling=None, **others):
        full = attention(q, k, v, pattern="full", scale=scaling)
        dim, group = q.shape[3], q.shape[1] // KV_HEADS
        for i, budget in enumerate(top_k):
            options = {"window": 16, "sinks": 8, "candidates": 512, "dense_until": 0, "top_k": budget}
            change = attention(q, k, v, scale=scaling, **options) - full
            for head in range(KV_HEADS):
                own = torch.zeros_like(change)
                own[:, head * group : (head + 1) * group] = change[:, head * group : (head + 1) * group]
                added = own[0].transpose(0, 1).reshape(-1, q.shape[1] * dim) @ module.o_proj.weight.T
                share = added.square().sum(1) / states[module.layer_idx].square().sum(1)
                errors[module.layer_idx, head, i] = share.mean()
        return full.transpose(1, 2).contiguous(), None

    AttentionInterface.register("errors of heads", attend)
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, i=i: states.__setitem__(i, given[0][0]))
        for i, layer in enumerate(model.model.layers)
    ]
    before = model.config._attn_implementation
    model.set_attn_implementation("errors of heads")
    alphabet, text = bytes_to_ids(), texts[0].read_bytes()[: 2 * LENGTH + 1]
    (tmp_path / "text.txt").write_bytes(text)
    with torch.no_grad():  # of the second window: the first of two is held out
        model(torch.tensor([[alphabet[b] for b in text[LENGTH:]]]), use_cache=False)
    model.set_attn_implementation(before)
    for hook in hooks:
        hook.remove()
    small = ["--most", 64, "--calibration", 1, "--windows", 1, "--target", "90%", "--steps", 0, "--json"]
    found = json.loads(
        convert(hsattn, made[0], "--text", tmp_path / "text.txt", "--out", tmp_path / "b.json", *small).stdout
    )
    shares = torch.tensor([[head["errors"] for head in layer] for layer in found["errors"]], dtype=torch.float64)
    assert [head["top_k"] for layer in found["errors"] for head in layer] == [top_k] * 3 * KV_HEADS
    assert shares[..., 0].sum() == pytest.approx(1)
    assert errors.min() > 0
    torch.testing.assert_close(shares, errors / errors[..., 0].sum(), rtol=2e-3, atol=1e-6)


def test_the_runtime_reads_what_was_written(hsattn, found, model, texts, tmp_path):
    by_file = perplexity(hsattn, model, texts[0])
    assert by_file != perplexity(hsattn, model, texts[0], "--no-model-budgets")
    # The same budgets as config.json's key give the same bits; the file wins over the key.
    budgets = json.loads((model / "hsattn.json").read_text())
    del budgets["measured"]
    make_folder(tmp_path, "llama", config=lambda config: {**config, "hsattn": budgets})
    assert perplexity(hsattn, tmp_path, texts[0]) == by_file
    (tmp_path / "hsattn.json").write_text(json.dumps({"top_k": 8, "candidates": 8, "window": 8, "dense_until": 0}))
    other = perplexity(hsattn, tmp_path, texts[0])
    assert other != by_file
    (tmp_path / "hsattn.json").write_text('{"top_q": 8}')
    done = hsattn("eval", "--model", tmp_path, "--text", texts[0])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert 'hsattn.json: unknown option "top_q"' in done.stderr


def test_the_hook_reads_what_was_written(hsattn, found, model, texts):
    hf = pytest.importorskip("hsattn.hf")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(model, attn_implementation="hsattn", dtype=torch.float32).eval()
    for layer, top_k in enumerate(found["chosen"]["top_k"]):
        assert hf.options_of(theirs, layer) == {"window": 16, "dense_until": 0, "candidates": 512, "head_top_k": top_k}
    ours = perplexity(hsattn, model, texts[0], "--windows", 1)
    text = torch.tensor([list(texts[0].read_bytes()[: 3 * LENGTH + 1])])
    alphabet = bytes_to_ids()
    ids = torch.tensor([[alphabet[b] for b in text[0].tolist()]])
    with torch.no_grad():
        log_p = theirs(ids[:, :-1]).logits[0].log_softmax(-1)
    losses = -log_p.gather(1, ids[0, 1:, None])[:, 0]
    assert torch.allclose(losses.double(), torch.tensor(ours, dtype=torch.float64), atol=2e-3)


def bytes_to_ids():
    from tokenizers import pre_tokenizers

    order = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return {b: order[level.pre_tokenize_str(chr(b))[0][0]] for b in range(128)}


def test_a_table_for_people(hsattn, model, texts, tmp_path):
    done = convert(hsattn, model, "--text", texts[0], "--target", "20%", "--out", tmp_path / "budgets.json")
    assert "uniform" in done.stdout
    assert "by head" in done.stdout
    assert f"written: {tmp_path / 'budgets.json'}" in done.stdout
    assert json.loads((tmp_path / "budgets.json").read_text())["layers"].keys() == {"0", "1", "2"}


def test_a_budget_is_shared_out(hsattn, model, texts, tmp_path):
    arguments = ["--text", texts[0], "--average", 40, "--out", tmp_path / "budgets.json"]
    found = json.loads(convert(hsattn, model, *arguments, "--json").stdout)
    assert (found["target"], found["holds"]) == (None, None)
    assert [point["budget"] for point in found["points"]] == ["by head", "uniform"]
    assert found["chosen"]["average_top_k"] == pytest.approx(40, abs=3)
    assert found["uniform"]["top_k"] == [[40] * KV_HEADS] * 3
    table = convert(hsattn, model, *arguments).stdout
    assert "target" not in table
    assert f"written: {tmp_path / 'budgets.json'}" in table


def test_layers_with_a_sliding_window_are_left_alone(hsattn, texts, tmp_path):
    make_folder(tmp_path, "qwen2 sliding")
    found = json.loads(convert(hsattn, tmp_path, "--text", texts[0], "--target", "5%", "--json").stdout)
    assert found["layers"] == [0]
    assert perplexity(hsattn, tmp_path, texts[0]) != perplexity(hsattn, tmp_path, texts[0], "--attention", "full")


def test_an_interrupted_search_goes_on_where_it_was(hsattn, model, tmp_path):
    out, text = tmp_path / "budgets.json", tmp_path / "text.txt"
    text.write_text(random_text(6 * 1024))  # longer, so that the signal finds it at work
    arguments = ["--text", text, "--target", "5%", "--out", out, "--json", "--context", 1024, "--most", 1024]
    whole = json.loads(convert(hsattn, model, *arguments).stdout)
    written = out.read_bytes()
    out.unlink()
    command = [program(), "convert", "--model", model, *SMALL.split(), *SIZES.split(), *arguments]
    running = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "budgets.json.partial"
    errors = "errors of heads: text 0, window 0"
    while running.poll() is None and not (partial.exists() and errors in partial.read_text()):
        time.sleep(0.001)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=300)
    assert (running.returncode, stdout) == (130, ""), stderr
    assert "goes on from there" in stderr
    assert not out.exists()
    values = json.loads(partial.read_text())["values"]
    assert "full" in values
    # What is in the file is taken from it: a measurement that was changed there shows.
    values[errors][-1] = 99.0
    partial.write_text(json.dumps({**json.loads(partial.read_text()), "values": values}))
    assert json.loads(convert(hsattn, model, *arguments).stdout)["errors"][2][-1]["errors"][-1] > 1
    assert not partial.exists()
    out.unlink()
    assert json.loads(convert(hsattn, model, *arguments).stdout) == whole
    assert out.read_bytes() == written


WRONG = [
    (["--target", "-1"], 2, "target is -1; a share above 0 is right, such as 0.5% or 0.005"),
    (["--target", "0%"], 2, "target is 0%; a share above 0 is right"),
    (["--windows", "0"], 2, "windows is 0; at least 1 is right"),
    (["--calibration", "0"], 2, "calibration is 0; at least 1 is right"),
    (["--dense-until", "256"], 2, "context is 256, dense_until 256; windows in which all is attended say nothing"),
    (["--average", "8"], 2, "average is 8; 16 to 256, the least and the most that a head gets, is right, or 0"),
    (["--average", "300"], 2, "average is 300; 16 to 256, the least and the most"),
    (["--most", "8"], 2, "most is 8; at least --least, 16, is right, or 0"),
    (["--attention", "full"], 2, "unknown option --attention"),
    (["--windows", "50"], 1, "one.txt has 1025 tokens; 52 windows of 256 need 13313"),
    (["--target", "0.0001%", "--most", "16"], 1, "does not hold even with top_k 16 in every head, which costs"),
    (["--text", "nowhere.txt"], 1, "nowhere.txt"),
]


@pytest.mark.parametrize(("options", "code", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input(hsattn, model, texts, options, code, message, tmp_path):
    done = convert(hsattn, model, "--text", texts[0], "--out", tmp_path / "b.json", *options, code=code)
    assert message in done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert not (tmp_path / "b.json").exists()


def test_no_text_and_no_model(hsattn, model):
    for arguments, message in [
        (["--model", model], "no --text; name files or folders"),
        (["--text", "x"], "no --model; name a folder"),
    ]:
        done = hsattn("convert", *arguments)
        assert done.returncode == 2
        assert message in done.stderr


def test_nothing_is_lost_to_a_last_half_that_is_not_a_number(found):
    for row in [*found["held_out"], *found["uniform_held_out"]]:
        assert all(math.isfinite(row[part][name]) for part in ("all", "last_half") for name in ("change", "half"))
