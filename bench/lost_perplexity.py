"""What options of hsattn cost a pretrained model in perplexity, against full attention on the same tokens.

    ./run model
    .venv/bin/python bench/lost_perplexity.py models/smollm2-135m-instruct novel.txt,code.txt --length 8192 \
        top_k=512 top_k=512,block=2,node=8,tail=0.5 budgets.json

Changes are in percent, over all positions and over the last half of a window, with standard errors over tokens: with
one window of a text they say how sure the change is there, not on other texts. Every position is approximated
(dense_until=0) unless a row says otherwise. A row that ends with .json is a file of `hsattn convert`.
"""

import argparse
import gzip
import json
import math
import time
from pathlib import Path

import torch
from option_times import options_of
from transformers import AutoModelForCausalLM, AutoTokenizer

import hsattn.hf


def losses(model, window):
    """Of each token of the window, in nats."""
    with torch.no_grad():
        hidden = model.model(window[None, :-1], use_cache=False).last_hidden_state[0]
        parts = zip(hidden.split(512), window[1:].split(512), strict=True)
        return torch.cat(
            [torch.nn.functional.cross_entropy(model.lm_head(h), t, reduction="none") for h, t in parts]
        ).double()


def change(difference):
    """Of perplexity, in percent, with its standard error."""
    error = difference.std().item() / math.sqrt(len(difference))
    return f"{100 * math.expm1(difference.mean().item()):+6.2f} +- {100 * error:.2f}"


def windows_of(tokenizer, path, length, count):
    """The windows of a text behind its first one, which has titles and prefaces."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode(errors="replace")
    ids = tokenizer(text[: 8 * length * (count + 1)], return_tensors="pt").input_ids[0]
    windows = [ids[i * length : (i + 1) * length + 1] for i in range(1, count + 1)]
    if len(windows[-1]) <= length:
        raise SystemExit(f"{path} is too short for {count} windows of {length} tokens behind the first one")
    return windows


def configuration_of(words):
    """What a row says, as hsattn.hf.configure() takes it."""
    options = json.loads(Path(words).read_text()) if words.endswith(".json") else options_of(words)
    options.pop("measured", None)
    return {"dense_until": 0} | options


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", help="files, separated by commas: UTF-8, or the same as .gz")
    parser.add_argument(
        "rows", nargs="+", help="options of hsattn.attention(): top_k=512,block=2,..., or a file of budgets"
    )
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=1, help="of each text")
    o = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(o.model)
    model = AutoModelForCausalLM.from_pretrained(o.model, dtype=torch.float32).eval()
    width = max(map(len, o.rows))
    for path in map(Path, o.texts.split(",")):
        windows = windows_of(tokenizer, path, o.length, o.windows)
        model.set_attn_implementation("sdpa")
        full = torch.stack([losses(model, window) for window in windows])
        print(f"{path.name}: {o.windows} windows of {o.length} tokens, perplexity {full.mean().exp():.3f}", flush=True)
        model.set_attn_implementation("hsattn")
        for words in o.rows:
            hsattn.hf.configure(model, **configuration_of(words))
            begin = time.perf_counter()
            lost = torch.stack([losses(model, window) for window in windows]) - full
            halves = change(lost.flatten()), change(lost[:, o.length // 2 :].flatten())
            print(f"{words:{width}}  {halves[0]}   {halves[1]}   {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
