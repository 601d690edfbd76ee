"""A pretrained model on a long text of yours: what hsattn costs in perplexity, and how the model goes on with the text.

./run model
.venv/bin/python examples/pretrained.py models/smollm2-135m-instruct data/held_out/*.txt.gz --length 4096
"""

import argparse
import gzip
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

import hsattn.hf


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a causal language model, as transformers saves it")
    parser.add_argument("text", type=Path, help="UTF-8 text, or the same as .gz")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a window (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=2, help="windows that are measured (default: %(default)s)")
    parser.add_argument(
        "--top-k", type=int, default=512, help="selected tokens that are attended (default: %(default)s)"
    )
    parser.add_argument("--preset", default="any_model", help="or pretrained, for quality (default: %(default)s)")
    parser.add_argument("--new", type=int, default=60, help="tokens to generate (default: %(default)s)")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, attn_implementation="hsattn").eval()
    hsattn.hf.configure(model, **{**hsattn.preset(options.preset), "top_k": options.top_k})
    windows = cut(tokenizer, options.text, options.length, options.windows)

    found = losses(model, windows)
    model.set_attn_implementation("sdpa")
    full = losses(model, windows)
    print(
        f"{len(windows)} windows of {options.length} tokens, perplexity with full attention {math.exp(full.mean()):.2f}"
    )
    for name, part in (("all positions", slice(None)), ("last half", slice(options.length // 2, None))):
        change = math.expm1((found[:, part] - full[:, part]).mean())
        print(f"hsattn, {options.preset}, top_k {options.top_k}, {name}: {100 * change:+.2f} %")

    model.set_attn_implementation("hsattn")
    print("\nThe first window goes on:")
    streamer = TextStreamer(tokenizer, skip_prompt=True)
    model.generate(windows[:1], max_new_tokens=options.new, do_sample=False, streamer=streamer)


def cut(tokenizer, file, length, count):
    """The first `count` windows of the text: [count, length]."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as opened:
        tokens = tokenizer(opened.read(), return_tensors="pt", add_special_tokens=False)["input_ids"][0]
    count = min(count, len(tokens) // length)
    if count == 0:
        raise SystemExit(f"{file} has {len(tokens)} tokens; --length {length} needs as many")
    return tokens[: count * length].view(count, length)


@torch.no_grad()
def losses(model, windows):
    """Loss of each predicted token: [windows, length - 1]."""
    rows = []
    for window in windows:
        hidden = model.base_model(window[None], use_cache=False).last_hidden_state[0]
        parts = zip(hidden[:-1].split(256), window[1:].split(256), strict=True)  # all logits at once would be large
        rows.append(torch.cat([loss(model.lm_head(states), right) for states, right in parts]))
    return torch.stack(rows)


def loss(logits, right):
    return torch.nn.functional.cross_entropy(logits.float(), right, reduction="none")


if __name__ == "__main__":
    main()
