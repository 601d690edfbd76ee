"""Reads what `hsattn` leaves: run folders (lm/README.md says what is in them) and the output of `hsattn bench --json`.

Files that are missing or cut short (an interrupted run) are read as far as they go; a missing number is None and shows
as a dash. Only a folder without metrics is an error, named with its path.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path


class ReportError(Exception):
    """A result file is missing or is not what it should be; the message names it."""


@dataclass
class Run:
    """One training run. `steps` and `evals` are the lines of metrics.jsonl, in order of steps.

    `evaluation` is the output of `hsattn eval --json`, which the demo puts into the folder as eval.json.
    """

    name: str
    folder: Path
    config: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    steps: list[dict] = field(default_factory=list)
    evals: list[dict] = field(default_factory=list)
    result: dict = field(default_factory=dict)
    evaluation: dict = field(default_factory=dict)

    @property
    def tokenizer(self):
        """Fingerprint of the tokenizer; empty if tokens are bytes."""
        return str(self.config.get("tokenizer", ""))

    def trained(self, name):
        """A number of the training: from result.json, else the last step's; None if neither holds it."""
        return _first(name, self.result, self.steps[-1])

    def evaluated(self, name):
        """A number of the evaluation: from eval.json, else the one at the end of the training, else None."""
        return _first(name, self.evaluation, self.result, self.evals[-1] if self.evals else {})

    def curve(self, x, y):
        """Points (x, y) of the training lines that hold both."""
        return [(line[x], line[y]) for line in self.steps if _both(line, x, y)]

    def eval_curve(self, y):
        """Points (tokens trained, y) of the evaluations."""
        tokens = {line["step"]: line["tokens"] for line in self.steps if _both(line, "step", "tokens")}
        return [(tokens[e["step"]], e[y]) for e in self.evals if e.get("step") in tokens and _number(e.get(y))]


@dataclass
class Times:
    """Milliseconds of one pass."""

    hsa: float | None = None
    sdpa: float | None = None


@dataclass
class BenchRow:
    """Attention alone at one length: forward, and forward + backward."""

    length: int
    forward: Times = field(default_factory=Times)
    both: Times = field(default_factory=Times)


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _first(name, *sources):
    return next((source[name] for source in sources if _number(source.get(name))), None)


def _both(line, x, y):
    return _number(line.get(x)) and _number(line.get(y))


def read_json(path, *, required=False):
    """The object in a JSON file; {} if there is no such file and it is not required."""
    path = Path(path)
    if not path.exists() and not required:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ReportError(f"{path}: holds a {type(value).__name__}, not a JSON object")
    return value


def read_lines(path):
    """The objects of a .jsonl file. A last line that was cut short is left out; a bad line before it is an error."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from error
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            objects.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise ReportError(f"{path}, line {number}: {error}") from error
    return objects


def read_run(name, folder):
    """The run in `folder`. Throws ReportError if it has no metrics."""
    folder = Path(folder)
    lines = read_lines(folder / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    if not steps:
        raise ReportError(f"{folder / 'metrics.jsonl'}: no training step is recorded")
    return Run(
        name=name,
        folder=folder,
        config=read_json(folder / "config.json"),
        environment=read_json(folder / "environment.json"),
        steps=_latest(steps),
        evals=_latest([line for line in lines if "eval_loss" in line]),
        result=read_json(folder / "result.json"),
        evaluation=read_json(folder / "eval.json"),
    )


def unit_of(runs):
    """What one token of these runs is, in words that follow "per"."""
    tokenizers = {run.tokenizer for run in runs}
    if tokenizers == {""}:
        return "byte"
    return "token" if len(tokenizers) == 1 else "token of its own tokenizer"


def read_bench(path):
    """The rows of `hsattn bench --json`, one per length, in order of length."""
    rows = {}
    for line in read_json(path, required=True).get("results", []):
        row = rows.setdefault(line["length"], BenchRow(line["length"]))
        which = "forward" if line["pass"] == "forward" else "both"
        if getattr(row, which).hsa is not None:
            raise ReportError(f"{path}: two rows of {line['length']} tokens, {line['pass']}; `--lengths` makes one")
        setattr(row, which, Times(line.get("ms"), line.get("sdpa_ms")))
    if not rows:
        raise ReportError(f"{path}: holds no results")
    return [rows[length] for length in sorted(rows)]


def _latest(lines):
    """One line per step, the last written: a run that was resumed repeats steps."""
    return [line for _, line in sorted({line.get("step", 0): line for line in lines}.items())]
