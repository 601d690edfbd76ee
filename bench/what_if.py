"""What rules of selection that no kernel has would cost a pretrained model: its perplexity, with attention emulated.

Every position chooses for itself, as hsattn does: candidates are blocks by the softmax of their mean keys, summed over
the heads of a group; of the candidates' tokens, in units, the heaviest by their share of the softmax are kept, besides
first tokens and near window. A rule changes the size of a unit (hsattn keeps whole blocks, so 8) and may let what was
rejected stand for itself as a tail: the mean value of each rejected block with `tail` times its known mass. The first
row is hsattn with the same budgets: as far as unit=8 differs from it, the emulation is wrong.

    ./run model
    .venv/bin/python bench/what_if.py models/smollm2-135m-instruct data/held_out/*.txt.gz unit=8 unit=1 unit=1,tail=0.5

Changes of perplexity are in percent against full attention, over all positions and over the last half of a window, with
standard errors over tokens. Quadratic in the length: minutes for a window of 4096 tokens.
"""

import argparse
import gzip
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer

import hsattn.hf

BLOCK = 8  # tokens behind a mean key
SINKS = 8
ROWS = 128  # positions at a time


@dataclass(frozen=True)
class Rule:
    unit: int = BLOCK  # tokens that are kept or rejected together
    tail: float = 0.0  # share of a rejected block's mass with which its mean value is attended
    top_k: int = 256
    window: int = 64
    candidates: int = 4096


def chosen_blocks(rule, q, means, past):
    """[rows, blocks]: the candidates of each position, by the means' softmax over its past, summed over the heads."""
    scores = q @ means.T / math.sqrt(q.shape[-1])
    rank = torch.softmax(scores.masked_fill(~past, -torch.inf), -1).nan_to_num(0).sum(0)
    best = rank.topk(min(rule.candidates // BLOCK, rank.shape[-1]), -1).indices
    chosen = torch.zeros_like(past).scatter_(-1, best, True) & past
    chosen[:, : SINKS // BLOCK] = past[:, : SINKS // BLOCK]
    return chosen


def kept_tokens(rule, weights, candidates):
    """[rows, tokens]: of the candidates' tokens the heaviest units, and the first tokens."""
    units = (weights * candidates).unflatten(-1, (-1, rule.unit)).sum((0, -1))
    units[:, : SINKS // rule.unit] = torch.inf
    best = units.topk(min((rule.top_k + SINKS) // rule.unit, units.shape[-1]), -1).indices
    kept = torch.zeros_like(units, dtype=torch.bool).scatter_(-1, best, True)
    return kept.repeat_interleave(rule.unit, -1) & candidates


def attend_rows(rule, q, k, v, first):
    """q [heads of a group, rows, dim] of positions from `first` on, k and v [tokens up to the last of them, dim]."""
    tokens, whole = k.shape[0], k.shape[0] // BLOCK * BLOCK
    positions = torch.arange(first, tokens)[:, None]
    near_begin = (positions - rule.window).clamp(min=0) // BLOCK * BLOCK
    scores = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(torch.arange(tokens) > positions, -torch.inf)
    weights = torch.softmax(scores, -1)  # of full attention: what is attended is divided by its sum in the end
    past = torch.arange(whole // BLOCK) * BLOCK < near_begin
    means = k[:whole].unflatten(0, (-1, BLOCK)).mean(1)
    candidates = chosen_blocks(rule, q, means, past).repeat_interleave(BLOCK, -1)
    kept = kept_tokens(rule, weights[:, :, :whole], candidates)
    attended = torch.arange(tokens) >= near_begin
    attended[:, :whole] |= kept
    weights_attended = weights * attended
    o, mass = weights_attended @ v, weights_attended.sum(-1, keepdim=True)
    if rule.tail > 0:
        rejected = (weights[:, :, :whole] * (candidates & ~kept)).unflatten(-1, (-1, BLOCK)).sum(-1) * rule.tail
        o += rejected @ v[:whole].unflatten(0, (-1, BLOCK)).mean(1)
        mass += rejected.sum(-1, keepdim=True)
    return o / mass


def emulated(rule):
    """An attention function for transformers; one sequence, causal."""

    def forward(module, query, key, value, attention_mask, **_):
        group, out = query.shape[1] // key.shape[1], torch.empty_like(query)
        for head in range(key.shape[1]):
            own = slice(head * group, (head + 1) * group)
            for first in range(0, query.shape[2], ROWS):
                last = min(first + ROWS, query.shape[2])
                tensors = query[0, own, first:last], key[0, head, :last], value[0, head, :last]
                out[0, own, first:last] = attend_rows(rule, *tensors, first)
        return out.transpose(1, 2).contiguous(), None

    return forward


def losses(model, window, name):
    model.set_attn_implementation(name)
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


def rules_of(words, base):
    for word in words:
        pairs = (pair.split("=") for pair in word.split(",") if pair)
        yield word, replace(base, **{name: float(value) if name == "tail" else int(value) for name, value in pairs})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path, help="UTF-8 text, or the same as .gz")
    parser.add_argument("rules", nargs="+", help="unit=1,tail=0.5,top_k=192,... : changes of the options below")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=1, help="windows of the text, the first one left out")
    parser.add_argument("--top-k", type=int, default=Rule.top_k)
    parser.add_argument("--window", type=int, default=Rule.window)
    parser.add_argument("--candidates", type=int, default=Rule.candidates)
    o = parser.parse_args()

    content = o.text.read_bytes()
    text = (gzip.decompress(content) if o.text.suffix == ".gz" else content).decode()
    ids = AutoTokenizer.from_pretrained(o.model)(text[: 8 * o.length * (o.windows + 1)], return_tensors="pt").input_ids
    windows = [ids[0, i * o.length : (i + 1) * o.length + 1] for i in range(1, o.windows + 1)]
    if len(windows[-1]) <= o.length:
        parser.error(f"{o.text} is too short for {o.windows} windows of {o.length} tokens behind the first one")
    model = AutoModelForCausalLM.from_pretrained(o.model, dtype=torch.float32, attn_implementation="sdpa").eval()
    full = torch.stack([losses(model, window, "sdpa") for window in windows])
    print(f"{o.text.name}: {o.windows} windows of {o.length} tokens, perplexity {full.mean().exp():.3f}", flush=True)

    base = Rule(top_k=o.top_k, window=o.window, candidates=o.candidates)
    budgets = {"top_k": o.top_k, "window": o.window, "candidates": o.candidates, "dense_until": 0}
    hsattn.hf.configure(model, **budgets)
    names = [("hsattn", "hsattn")]
    for i, (word, rule) in enumerate(rules_of(o.rules, base)):
        AttentionInterface.register(f"what_if_{i}", emulated(rule))
        names.append((word, f"what_if_{i}"))
    width = max(len(word) for word, _ in names)
    for word, name in names:
        difference = torch.stack([losses(model, window, name) for window in windows]) - full
        print(f"{word:{width}}  {change(difference.flatten())}   {change(difference[:, o.length // 2 :].flatten())}")


if __name__ == "__main__":
    main()
