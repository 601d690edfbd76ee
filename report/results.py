"""Reads what `hsattn reproduce` leaves: a folder of JSON files, one for each finished run."""

import json
from dataclasses import dataclass
from pathlib import Path

from report.runs import ReportError

NEEDED = ("name", "experiment", "command", "numbers", "environment")


@dataclass
class Result:
    """One result file. `labels` are its fields besides `numbers`: experiment, part, system, seed, length ..."""

    name: str
    labels: dict
    numbers: dict
    environment: dict
    command: str
    curve: list

    def number(self, name):
        """A number, or None: not there, or not a number (a loss that was not finite is null)."""
        value = self.numbers.get(name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


class Results:
    """All results of a folder, in order of their names."""

    def __init__(self, results):
        self.all = results

    def of(self, experiment, **labels):
        """The results of an experiment whose labels have these values."""
        wanted = {"experiment": experiment, **labels}
        return [r for r in self.all if all(r.labels.get(name) == value for name, value in wanted.items())]

    def one(self, experiment, **labels):
        found = self.of(experiment, **labels)
        return found[0] if found else None

    def values(self, experiment, label):
        """The values of a label, each once, in order of appearance."""
        return list(dict.fromkeys(r.labels[label] for r in self.of(experiment) if label in r.labels))


def read_result(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: {error}") from error
    if not isinstance(content, dict) or any(name not in content for name in NEEDED):
        raise ReportError(f"{path}: not a result of `hsattn reproduce`")
    return Result(
        name=content["name"],
        labels={name: value for name, value in content.items() if name not in ("numbers", "environment", "curve")},
        numbers=content["numbers"],
        environment=content["environment"],
        command=content["command"],
        curve=text_curve(content),
    )


def text_curve(content):
    """The loss curve [[tokens, loss], ...] without the steps on random tokens, whose loss says nothing about text."""
    words = content.get("words", [])

    def option(name, default):
        return int(words[words.index(name) + 1]) if name in words else default

    step = option("--context", 0) * option("--batch", 1) * option("--accumulate", 1)
    before = option("--copy-steps", 0) * step
    return [point for point in content.get("curve", []) if point[0] > before]


def read_results(folder):
    """Throws ReportError: no such folder, no results, a file that is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ReportError(f"{folder}: no such folder")
    work = folder / "work"
    paths = sorted(p for p in folder.rglob("*.json") if work not in p.parents)
    if not paths:
        raise ReportError(f"{folder}: holds no results; `hsattn reproduce` writes them")
    return Results(sorted((read_result(path) for path in paths), key=lambda r: natural(r.name)))


def natural(name):
    """Sorts levels-2 before levels-10."""
    parts, digits = [], ""
    for letter in name + "\0":
        if letter.isdigit():
            digits += letter
            continue
        if digits:
            parts.append((1, int(digits), ""))
            digits = ""
        parts.append((0, 0, letter))
    return parts
