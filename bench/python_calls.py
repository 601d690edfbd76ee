"""What Python adds to a call: microseconds of hsattn.attention, of the same in C++, of torch's SDPA from Python.

.venv/bin/python bench/python_calls.py

One token, 4 heads of 64, one thread, the smallest of many turns; the answers are compared before. The package must be
installed, the program built.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

import torch
from torch.nn import functional

import hsattn

PROGRAM = Path(__file__).resolve().parents[1] / "build" / "full" / "cli" / "hsattn"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20, help="of 1000 calls each (default: %(default)s)")
    parser.add_argument("--program", type=Path, default=PROGRAM)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind, in_cpp in rows_in_cpp(options.program).items():
        tensors = [torch.randn(1, 4, 1, 64, requires_grad=kind != "forward") for _ in range(3)]
        ours, sdpa = smallest(options.turns, calls(tensors))
        print(f"{kind}: hsattn.attention {ours:.1f} us, of which Python {ours - in_cpp:.1f}; SDPA {sdpa:.1f}")


def rows_in_cpp(program):
    """Microseconds by kind of call."""
    command = [program, "bench", "--only", "short any_model 1 ", "--threads", "1", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {row["pass"]: 1e3 * row["ms"] for row in found["results"]}


def calls(tensors):
    """The call of ours and that of SDPA, their answers compared; with gradients if the tensors ask for them."""
    ways = [hsattn.attention, lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True)]
    torch.testing.assert_close(*(way(*tensors) for way in ways))
    if not tensors[0].requires_grad:
        return [lambda way=way: way(*tensors) for way in ways]
    dout = torch.randn(1, 4, 1, 64)
    return [lambda way=way: torch.autograd.grad(way(*tensors), tensors, dout) for way in ways]


def smallest(turns, ways):
    """Microseconds of each way, taken in turn."""
    times = [[] for _ in ways]
    for _ in range(turns):
        for way, taken in zip(ways, times, strict=True):
            taken.append(microseconds(way))
    return [min(taken) for taken in times]


def microseconds(way, count=1000):
    begin = time.perf_counter()
    for _ in range(count):
        way()
    return (time.perf_counter() - begin) / count * 1e6


if __name__ == "__main__":
    main()
