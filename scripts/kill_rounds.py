"""Kills trainings with SIGKILL at random moments and resumes them until they end: the weights must be those of a
training that nobody disturbed, bit by bit.

usage: python scripts/kill_rounds.py [--program build/full/cli/hsattn] [--rounds 20] [--seed 1]
Exit code 0 if every round ended with the same bits.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 30
OPTIONS = """
--layers 2 --width 32 --heads 2 --context 256 --batch 2 --learning-rate 3e-3 --warmup 5 --threads 1
--window 16 --top-k 32 --top-nodes 8 --dense-until 0 --eval-windows 4 --save-every 4
"""


def command(program, data, run):
    return [str(program), "train", "--data", str(data), "--run", str(run), "--steps", str(STEPS), *OPTIONS.split()]


def finished(run):
    """What a run ended with: its weights, its moments, and each step's loss."""
    checkpoint = run / "checkpoints" / f"step-{STEPS:08d}"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    return (checkpoint / "model.safetensors").read_bytes(), losses


def kill_at(words, delay):
    """Runs a command for `delay` seconds at most; True if it had to be killed."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(timeout=delay)
            return False
        except subprocess.TimeoutExpired:
            process.kill()
            return True


def disturbed(program, data, run, dice, longest, kills=3):
    """A training that is killed up to `kills` times and goes on each time; returns how often it was killed."""
    words, killed = command(program, data, run), 0
    for _ in range(kills):
        if not kill_at(words, dice.uniform(0, longest)):
            return killed
        killed += 1
        if (run / "config.json").exists():  # else it had not begun
            words = [str(program), "train", "--run", str(run), "--resume"]
    subprocess.run(words, check=True, capture_output=True)
    return killed


def rounds(program, data, folder, count, seed):
    """Yields (round, kills, whether it ended with the bits of the undisturbed run)."""
    began = time.monotonic()
    subprocess.run(command(program, data, folder / "whole"), check=True, capture_output=True)
    longest = time.monotonic() - began
    expected, dice = finished(folder / "whole"), random.Random(seed)
    for number in range(count):
        run = folder / f"round-{number}"
        killed = disturbed(program, data, run, dice, longest)
        yield number, killed, finished(run) == expected


def prepare(program, folder):
    text = folder / "text.txt"
    dice = random.Random(5)
    known = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
    text.write_text(" ".join(dice.choice(known) for _ in range(5000)))
    words = [str(program), "prepare", str(text), "--out", str(folder / "data"), "--fraction", "0.2"]
    subprocess.run(words, check=True, capture_output=True)
    return folder / "data"


def main(arguments):
    parser = argparse.ArgumentParser(description="Kill trainings at random moments; they must end with the same bits.")
    parser.add_argument("--program", default="build/full/cli/hsattn", type=Path)
    parser.add_argument("--rounds", default=20, type=int)
    parser.add_argument("--seed", default=1, type=int)
    options = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, killed, same in rounds(
            options.program, prepare(options.program, folder), folder, options.rounds, options.seed
        ):
            print(f"round {number + 1}: killed {killed} times, {'the same bits' if same else 'OTHER BITS'}", flush=True)
            failed += not same
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
