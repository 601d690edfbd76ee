"""`hsattn generate` and `hsattn eval` of pretrained models: the tokens and losses of transformers; how a text ends."""

import json
import math
import signal
import subprocess

import pytest
from built_program import program
from tiny_folders import BEGIN, END, FAMILIES, LENGTH, make_folder, random_text, torch

NEW = 40


def generate(hsattn, folder, prompt, *options):
    done = hsattn(
        "generate",
        "--model",
        folder,
        "--prompt",
        prompt,
        *("--json", "--threads", 1, "--precision", "float32", *options),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tokens_of_transformers(model, tokens, new=NEW, **options):
    given = torch.tensor([tokens])
    out = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=new, do_sample=False, pad_token_id=0, **options
    )
    return out[0, len(tokens) :].tolist()


def bytes_as_tokens(text):
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [
        alphabet.index(c)
        for c in pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
    ]


@pytest.mark.parametrize("attention", ["hsa", "full", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers(hsattn, tmp_path, family, attention):
    model = make_folder(tmp_path, family)
    prompt = random_text(90)
    found = generate(hsattn, tmp_path, prompt, "--max-tokens", NEW, "--attention", attention, "--chunk", 32)
    right = tokens_of_transformers(model, bytes_as_tokens(prompt))
    assert found["tokens"] == right
    assert len(set(right)) > 3
    assert (found["prompt_tokens"], found["finish"]) == (90, "length")


@pytest.mark.parametrize("rope", ["dynamic", "llama3"])
def test_rotary_scaling_as_a_text_grows(hsattn, tmp_path, rope):
    parameters = {"rope_type": rope, "factor": 4.0, "rope_theta": 10000.0}
    if rope == "llama3":
        parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    model = make_folder(tmp_path, "llama", rope_parameters=parameters, max_position_embeddings=64)
    prompt = random_text(50)
    found = generate(hsattn, tmp_path, prompt, "--max-tokens", NEW)
    assert found["tokens"] == tokens_of_transformers(model, bytes_as_tokens(prompt))


def test_the_template_of_the_tokenizer_is_put_around_the_prompt(hsattn, tmp_path):
    model = make_folder(tmp_path, "llama", with_template=True)
    found = generate(hsattn, tmp_path, "abc", "--max-tokens", NEW)
    assert found["tokens"] == tokens_of_transformers(model, [BEGIN, *bytes_as_tokens("abc")])


def test_end_tokens_penalty_and_sampling_of_generation_config(hsattn, tmp_path):
    model = make_folder(tmp_path, "llama")
    prompt = random_text(30)
    right = tokens_of_transformers(model, bytes_as_tokens(prompt))
    config = tmp_path / "generation_config.json"
    config.write_text(json.dumps({"eos_token_id": [right[5], END]}))
    found = generate(hsattn, tmp_path, prompt)
    cut = right[: right.index(right[5]) + 1]
    assert (found["tokens"], found["finish"]) == (cut, "end")
    assert len(generate(hsattn, tmp_path, prompt, "--ignore-end", "--max-tokens", NEW)["tokens"]) == NEW
    config.write_text(json.dumps({"repetition_penalty": 1.3}))
    penalised = tokens_of_transformers(model, bytes_as_tokens(prompt), repetition_penalty=1.3)
    assert generate(hsattn, tmp_path, prompt, "--max-tokens", NEW)["tokens"] == penalised != right
    config.write_text(json.dumps({"do_sample": True, "temperature": 2.0, "top_k": 0}))
    texts = {
        tuple(generate(hsattn, tmp_path, prompt, "--seed", seed, "--max-tokens", 20)["tokens"]) for seed in (1, 1, 2)
    }
    assert len(texts) == 2
    assert generate(hsattn, tmp_path, prompt, "--temperature", 0, "--max-tokens", NEW)["tokens"] == right


def test_stop_words_and_streaming(hsattn, tmp_path):
    make_folder(tmp_path, "llama")
    whole = generate(hsattn, tmp_path, "Once", "--max-tokens", 60)
    text = whole["text"]
    stop = text[10:13]
    found = generate(hsattn, tmp_path, "Once", "--max-tokens", 60, "--stop", "never there", "--stop", stop)
    assert (found["text"], found["finish"]) == (text[: text.index(stop)], "stop")
    assert len(found["tokens"]) < 60
    shown = hsattn("generate", "--model", tmp_path, "--prompt", "Once", "--max-tokens", 60, "--precision", "float32")
    assert shown.stdout == text + "\n"
    assert "60 written" in shown.stderr


def test_interrupt_ends_cleanly(tmp_path):
    make_folder(tmp_path, "llama")
    command = [
        program(),
        "generate",
        "--model",
        tmp_path,
        "--prompt",
        "Once",
        "--max-tokens",
        "10000000",
        "--threads",
        "1",
    ]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout.read(20)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert out.endswith(b"\n")
    assert b"ended by interrupted" in err


def test_perplexity_is_that_of_transformers(hsattn, tmp_path):
    model = make_folder(tmp_path, "qwen3")
    (tmp_path / "text.txt").write_text(random_text(2 * LENGTH + 1))
    options = ["--text", tmp_path / "text.txt", "--context", LENGTH, "--json", "--threads", 1, "--precision", "float32"]
    done = hsattn("eval", "--model", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    tokens = torch.tensor(bytes_as_tokens((tmp_path / "text.txt").read_text()))
    with torch.no_grad():
        logits = torch.stack([model(tokens[None, at : at + LENGTH]).logits[0] for at in (0, LENGTH)])
    right = tokens[1:].view(2, LENGTH)
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), right, reduction="none").double()
    torch.testing.assert_close(torch.tensor(found["losses"], dtype=torch.float64), losses.flatten(), atol=1e-3, rtol=0)
    assert found["perplexity"] == pytest.approx(losses.mean().exp().item(), rel=1e-4)
    assert found["perplexity_last_half"] == pytest.approx(losses[:, LENGTH // 2 :].mean().exp().item(), rel=1e-4)
    assert found["perplexity_per_byte"] == pytest.approx(found["perplexity"])  # a token is a byte here
    assert math.isfinite(found["tokens_per_s"])
    assert found["windows"] == 2
