"""A pretrained model with hsattn, in C++ and in transformers, beside transformers with sdpa: the same model, prompt and
threads; tokens compared before times.

./run model && ./run build
.venv/bin/python bench/pretrained_speed.py models/smollm2-135m-instruct data/held_out/*.txt.gz --context 8192

Greedy tokens are compared in float32 with --attention full; then each kind of attention and precision is timed,
`hsattn generate` as a process of its own, in turns with transformers, of whose own attention the better one of float32
and bf16 counts.
"""

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

import hsattn.hf

PROGRAM = Path(__file__).resolve().parents[1] / "build" / "full" / "cli" / "hsattn"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path, help="UTF-8 text, or the same as .gz")
    parser.add_argument("--context", type=int, default=8192, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--new", type=int, default=32, help="tokens to generate (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="any_model", help="of hsattn's options (default: %(default)s)")
    parser.add_argument("--program", type=Path, default=PROGRAM)
    parser.add_argument("options", nargs="*", help="behind --: options of hsattn generate, such as --top-k 768")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        compare(options, write_text(options.text, Path(scratch) / "text.txt"))


def write_text(source, path):
    with gzip.open(source, "rb") if source.suffix == ".gz" else source.open("rb") as opened:
        path.write_bytes(opened.read())
    return path


def compare(options, text):
    tokens = AutoTokenizer.from_pretrained(options.model)(text.read_text(), return_tensors="pt")["input_ids"]
    tokens = tokens[:, : options.context]
    models = {name: load(options.model, name) for name in ("float32", "bfloat16")}
    short = tokens[:, :512]
    right = transformers_run(models["float32"], short, 16)["tokens"]
    found = ours(options, text, "full", "float32", context=short.shape[1], new=16)["tokens"]
    if found != right:
        sys.exit(f"the tokens differ, nothing is timed: {found} instead of {right}")
    rows = {}
    for _ in range(options.rounds):
        for name, model in models.items():
            for attention in ("sdpa", "hsattn"):
                model.set_attn_implementation(attention)
                hsattn.hf.configure(model, **hsattn.preset(options.preset))
                add(rows, f"transformers {attention} {name}", transformers_run(model, tokens, options.new))
            model.set_attn_implementation("sdpa")
        for precision in ("float32", "bf16"):
            for attention in ("full", "hsa"):
                run = ours(options, text, attention, precision, context=options.context, new=options.new)
                add(rows, f"hsattn {attention} {precision}", run)
    show(rows, tokens.shape[1])


def load(folder, dtype):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()


@torch.inference_mode()
def transformers_run(model, tokens, new):
    """Greedy, with transformers' own cache or, for hsattn, its; without generate(), whose overhead would count."""
    cache = (
        hsattn.hf.Cache(model) if model.config._attn_implementation == "hsattn" else DynamicCache(config=model.config)
    )
    start = time.perf_counter()
    out = model(tokens, cache=cache, use_cache=True, logits_to_keep=1)
    found = [out.logits[0, -1].argmax()]
    first = time.perf_counter() - start
    for _ in range(new - 1):
        out = model(found[-1].view(1, 1), cache=cache, use_cache=True)
        found.append(out.logits[0, -1].argmax())
    seconds = time.perf_counter() - start
    return {
        "tokens": [int(token) for token in found],
        "first_token_s": first,
        "tokens_per_s": (new - 1) / (seconds - first),
    }


def ours(options, text, attention, precision, context, new):
    command = [options.program, "generate", "--model", options.model, "--text", text, "--context", context]
    command += ["--max-tokens", new, "--ignore-end", "--threads", options.threads, "--json", "--temperature", 0]
    command += ["--attention", attention, "--precision", precision, "--preset", options.preset]
    command += options.options
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def add(rows, name, run):
    rows.setdefault(name, []).append((run["first_token_s"], run["tokens_per_s"]))


def show(rows, context):
    medians = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in rows.items()}
    theirs = [values for name, values in medians.items() if name.startswith("transformers sdpa")]
    prefill, speed = min(values[0] for values in theirs), max(values[1] for values in theirs)
    print(f"{'':30} {context} tokens read     times   tokens/s behind   times")
    for name, (first, per_s) in medians.items():
        print(f"{name:30} {first:13.2f} s  {prefill / first:10.2f}  {per_s:16.1f}  {per_s / speed:6.2f}")


if __name__ == "__main__":
    main()
