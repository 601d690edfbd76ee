"""What the examples and the README show runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tiny_folder import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]


def run_python(arguments, folder):
    """Runs Python in `folder`, where no folder of the repository can stand in for the installed package."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_runs(tmp_path):
    printed = run_python([ROOT / "examples" / "attention.py"], tmp_path)
    assert "output (1, 4, 4096, 64)" in printed


def test_the_pretrained_example_says_what_hsattn_costs(tmp_path):
    write_tiny_model(tmp_path / "model", layers=2)
    (tmp_path / "long.txt").write_text("The quick brown fox jumps over the lazy dog. " * 20)
    arguments = ["model", "long.txt", "--length=300", "--new=5"]
    printed = run_python([ROOT / "examples" / "pretrained.py", *arguments], tmp_path)
    assert re.search(r"2 windows of 300 tokens, perplexity with full attention \d+\.\d\d\n", printed)
    last_half = "hsattn, any_model, top_k 512, last half: "
    assert last_half + "+0.00 %" in printed or last_half + "-0.00 %" in printed
    assert "goes on:\n" in printed


def blocks_of_readme(language):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_python_of_the_readme_runs(tmp_path):
    write_tiny_model(tmp_path / "models" / "smollm2-135m-instruct", layers=8)  # in the place of the real one
    (tmp_path / "long.txt").write_text("The quick brown fox jumps over the lazy dog. " * 20)
    run_python(["-c", "".join(blocks_of_readme("python"))], tmp_path)
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")


def test_the_cpp_of_the_readme_compiles(tmp_path):
    (code,) = blocks_of_readme("cpp")
    head, _, body = code.partition("\n\n")
    source = tmp_path / "readme.cc"
    source.write_text(
        f"{head}\nvoid use(hsattn::Index batch, hsattn::Index heads, hsattn::Index tokens, hsattn::Index dim,\n"
        f"         const float* q, const float* k, const float* v, float* o) {{\n{body}}}\n"
    )
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{ROOT}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
