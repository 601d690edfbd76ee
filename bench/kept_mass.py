"""How much of the attention mass the chosen tokens hold, and what choosing by rounded scores costs.

For recorded or correlated random queries and keys it prints, for several budgets, the mass of full attention that a
position's plan holds, and beside it that of the ideal list: the same number of blocks, chosen by the true masses of
all blocks in float64. With as many candidates as tokens the two differ by the rounding of scores to bytes alone.
With --mass it prints how long the lists are and what they hold under mass budgets: of all positions, and of those whose
list is shorter than top_k, so that the estimated share alone decided.

    .venv/bin/python bench/kept_mass.py                       # random tensors, correlated as in real models
    .venv/bin/python bench/kept_mass.py NAME_q.npy [...]      # recorded: NAME_k.npy lies beside it; [heads, n, dim]
"""

import argparse
import math

import numpy as np
import torch

import hsattn


def random_tensors(n, seed):
    torch.manual_seed(seed)
    q, k = torch.randn(8, n, 64), torch.randn(4, n, 64)
    for i in range(1, n):
        q[:, i] = 0.99 * q[:, i - 1] + math.sqrt(1 - 0.99**2) * q[:, i]
    return 2 * q, k


def recorded_tensors(path):
    load = [torch.from_numpy(np.load(path[: -len("q.npy")] + name).astype(np.float32)) for name in ("q.npy", "k.npy")]
    return tuple(x.reshape(-1, *x.shape[-2:]) for x in load)


def block_masses(q, k, position, block):
    """Mass of each block for each head of a group at one position: [heads, blocks], rows sum to 1."""
    scores = q[:, position].double() @ k[: position + 1].double().T / math.sqrt(q.shape[-1])
    mass = torch.softmax(scores, -1)
    mass = torch.nn.functional.pad(mass, (0, -mass.shape[-1] % block))
    return mass.unflatten(-1, (-1, block)).sum(-1)


def held(q, k, kept, positions, options):
    """Mean mass held by the lists, by the ideal list, and by the near window and the sinks alone."""
    group, sums = q.shape[0] // k.shape[0], np.zeros(3)
    window, block = options["window"], options["block"]
    sinks = -(-options["sinks"] // block)
    for head in range(k.shape[0]):
        for position in positions:
            mass = block_masses(q[head * group : (head + 1) * group], k[head], position, block)
            near = max(0, position - window) // block
            always = mass[:, near:].sum(-1) + mass[:, : min(sinks, near)].sum(-1)
            listed = [b for b in kept[head, position].tolist() if b >= sinks]
            past = mass[:, sinks:near]
            weights = (past / (1 - mass[:, :sinks].sum(-1, keepdim=True))).sum(0)
            best = torch.topk(weights, min(len(listed), len(weights))).indices
            sums += [
                (always + mass[:, listed].sum(-1)).mean(),
                (always + past[:, best].sum(-1)).mean(),
                always.mean(),
            ]
    return sums / (k.shape[0] * len(positions))


def tensors_of(arguments):
    for path in arguments.queries or [None]:
        yield recorded_tensors(path) if path else random_tensors(arguments.length, arguments.seed)


def print_mass_budgets(arguments):
    print(f"{'candidates':>10} {'mass':>5} {'listed':>7} {'held':>7} {'shorter':>8} {'they hold':>10}")
    for candidates, mass in ((c, m) for c in (4096, 512) for m in (0.8, 0.9, 0.95, 0.99, 0)):
        listed, held = [], []
        for q, k in tensors_of(arguments):
            n = q.shape[1]
            positions = np.linspace(n // 2, n - 1, arguments.positions).astype(int).tolist()
            plan = hsattn.make_plan(q[None], k[None], candidates=candidates, mass=mass, dense_until=0)
            listed.append((plan.kept[0][:, positions] >= 0).sum(-1).flatten() * plan.block)
            masses = plan.mass(q[None], k[None])[0][:, positions]
            held.append(masses.unflatten(0, (k.shape[0], -1)).mean(1).flatten())  # the heads of a group share a list
        listed, held = torch.cat(listed).float(), torch.cat(held)
        shorter = listed < listed.max()
        they_hold = f"{held[shorter].mean():10.3f}" if shorter.any() else ""
        line = f"{candidates:10} {mass:5} {listed.mean():7.0f} {held.mean():7.3f} {shorter.float().mean():8.2f}"
        print(line, they_hold, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries", nargs="*", help="NAME_q.npy files; none: random tensors")
    parser.add_argument("--length", type=int, default=8192, help="of random tensors [8192]")
    parser.add_argument("--positions", type=int, default=64, help="positions of the last half that are looked at [64]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mass", action="store_true", help="mass budgets, averaged over the tensors")
    arguments = parser.parse_args()
    if arguments.mass:
        print_mass_budgets(arguments)
        return
    print(f"{'tensors':28} {'top_k':>5} {'candidates':>10} {'held':>8} {'ideal':>8} {'always':>8}")
    for path in arguments.queries or [None]:
        q, k = recorded_tensors(path) if path else random_tensors(arguments.length, arguments.seed)
        n = q.shape[1]
        positions = np.linspace(n // 2, n - 1, arguments.positions).astype(int).tolist()
        for top_k, candidates in ((512, n), (512, 4096), (512, 512), (256, n), (256, 2048), (256, 256)):
            options = {"window": 128, "block": 8, "sinks": 8, "top_k": top_k, "candidates": candidates}
            plan = hsattn.make_plan(q[None], k[None], dense_until=0, beam=max(n // 8, 1), **options)
            found, ideal, always = held(q, k, plan.kept[0], positions, options)
            name = path.split("/")[-1] if path else f"random, n = {n}"
            print(f"{name:28} {top_k:5} {candidates:10} {found:8.5f} {ideal:8.5f} {always:8.5f}", flush=True)


if __name__ == "__main__":
    main()
