"""How long attention takes with options of hsattn, beside torch's SDPA, and how far its output is from SDPA's.

    .venv/bin/python bench/option_times.py top_k=512 top_k=512,block=2,node=8,tail=0.5 --length 8192
    .venv/bin/python bench/option_times.py top_k=512 --queries NAME_q.npy   # recorded; keys, values: NAME_k.npy, ..._v

Without recorded ones: 9 query and 3 key/value heads of 64, neighbouring queries that resemble each other. Forward
passes, taken in turn, the best of --repeats; no past is dense (dense_until=0) unless a row says so. The error is the
distance of outputs from SDPA's as a share of their length.
"""

import argparse
import time

import torch

import hsattn


def options_of(words):
    """{"top_k": 512, "tail": 0.5} of "top_k=512,tail=0.5"."""
    pairs = (pair.split("=") for pair in words.split(","))
    return {name: float(value) if "." in value else int(value) for name, value in pairs}


def recorded(path):
    """[1, heads, tokens, dim] each of NAME_q.npy, NAME_k.npy and NAME_v.npy."""
    import numpy as np

    names = (path.removesuffix("_q.npy") + f"_{name}.npy" for name in "qkv")
    return [torch.from_numpy(np.load(name)).float()[None] for name in names]


def correlated(length):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, heads, length, 64, generator=generator) for heads in (9, 3, 3))
    for t in range(1, length):
        q[:, :, t] = 0.9 * q[:, :, t - 1] + 0.19**0.5 * q[:, :, t]
    return q, k, v


def seconds(call):
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", help="options of hsattn.attention(): top_k=512,block=2,...")
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--queries", help="NAME_q.npy, [heads, tokens, dim]; NAME_k.npy and NAME_v.npy beside it")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    tensors = recorded(o.queries) if o.queries else correlated(o.length)
    q, k, v = (x.to(getattr(torch, o.dtype)) for x in tensors)
    calls = {"sdpa": lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)}
    for words in o.rows:
        options = {"dense_until": 0} | options_of(words)
        calls[words] = lambda options=options: hsattn.attention(q, k, v, **options)
    best, outputs = dict.fromkeys(calls, float("inf")), {}
    with torch.no_grad():
        for _ in range(o.repeats):
            for name, call in calls.items():
                spent, outputs[name] = seconds(call)
                best[name] = min(best[name], spent)
    heads, tokens, dim = q.shape[1:]
    kind = f"{dim}, {tokens} tokens, {o.dtype}, {o.threads} threads"
    print(f"{heads} query and {k.shape[1]} key/value heads of {kind}")
    width, right = max(map(len, calls)), outputs["sdpa"].float()
    for name, spent in best.items():
        error = ((outputs[name].float() - right).norm() / right.norm()).item()
        print(f"{name:{width}}  {1000 * spent:8.1f} ms   {best['sdpa'] / spent:5.2f} times as fast   error {error:.4f}")


if __name__ == "__main__":
    main()
