"""The program under test and a small data folder, shared by all tests."""

import gzip
import subprocess

import pytest
from built_program import ROOT, program

WORDS = "the quick brown fox jumps over the lazy dog while seven wizards box a jolly old queen"


@pytest.fixture(scope="session")
def hsattn():
    """Runs the program with one thread, so that a busy machine does not stall it; returns what it did."""
    if not program().exists():
        pytest.fail(f"{program()} is not built; ./run build makes it")

    def run(*arguments, **options):
        options = {"timeout": 300, "text": True, "stdin": subprocess.DEVNULL} | options
        command = [str(program()), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, **options)

    return run


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A text of about 20 kB that is not quite regular."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    state, words, known = 1, [], WORDS.split()
    for _ in range(4000):
        state = (state * 1103515245 + 12345) % 2**31
        words.append(known[state >> 16 & 15])
    path.write_text(" ".join(words) + "\n")
    return path


@pytest.fixture(scope="session")
def data(hsattn, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    done = hsattn("prepare", text, "--out", folder, "--fraction", "0.2")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def small(data):
    """Arguments that train a tiny model with tight budgets, in seconds."""
    model = "--layers 2 --width 32 --heads 2 --context 256 --batch 2 --learning-rate 3e-3 --warmup 5 --threads 1"
    budgets = "--window 16 --top-k 32 --top-nodes 8 --dense-until 0 --eval-windows 4 --log-every 1"
    return ["train", "--data", data, *model.split(), *budgets.split()]


@pytest.fixture(scope="session")
def documents():
    """Paragraphs of a book, as web pages would come."""
    book = gzip.decompress(next((ROOT / "data" / "train").glob("*.gz")).read_bytes()).decode()
    paragraphs = [p for p in book.split("\n\n") if p.strip()]
    return ["\n\n".join(paragraphs[i : i + 3]) + "\n" for i in range(0, 300, 3)]
