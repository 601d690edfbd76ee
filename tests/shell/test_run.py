"""./run explains itself, refuses what it does not know, and a failing step names its log."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return subprocess.run([str(ROOT / "run"), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_alone_it_lists_the_verbs():
    done = run()
    assert done.returncode == 0
    verbs = "demo test setup build bench bench-step model doctor format lint sanitize fuzz test-aarch64 clean"
    for verb in verbs.split():
        assert f"\n  {verb}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fly",), "there is no verb 'fly'"),
        (("test", "rust"), "'rust' is not one of cpp, python"),
        (("sanitize", "soap"), "'soap' is not one of address, thread"),
        (("fuzz", "jpeg"), "'jpeg' is not one of safetensors tokenizer config chat_template"),
        (("fuzz", "config", "soon"), "'soon' is no number of seconds"),
        (("format", "--chekc"), "'--chekc' is not --check"),
    ],
)
def test_what_it_does_not_know_is_refused_by_name(arguments, message):
    done = run(*arguments)
    assert done.returncode == 1
    assert message in done.stderr


def common(script, folder):
    """Runs bash `script` after sourcing scripts/common.sh, in `folder`, as ./run does."""
    command = f"set -euo pipefail; source '{ROOT}/scripts/common.sh'; {script}"
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)


def test_a_failing_step_shows_the_end_of_its_log_and_names_it(tmp_path):
    done = common("step brew 'Brew tea' sh -c 'echo no water; exit 3'; echo not reached", tmp_path)
    assert done.returncode == 1
    assert "no water" in done.stderr
    assert "failed (exit code 3): Brew tea; whole log: logs/brew.log" in done.stderr
    assert "not reached" not in done.stdout
    assert "no water" in (tmp_path / "logs" / "brew.log").read_text()


def test_a_stamp_is_fresh_until_the_file_changes(tmp_path):
    (tmp_path / "a").write_text("1")
    script = 'stamp_of a >s; fresh s "$(stamp_of a)"; echo 2 >a; ! fresh s "$(stamp_of a)"'
    assert common(script, tmp_path).returncode == 0


def summary(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "test_summary.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_summary_adds_up_and_fails_with_any_failure(tmp_path):
    good, bad = tmp_path / "good.xml", tmp_path / "bad.xml"
    good.write_text("<testsuite><testcase/><testcase><skipped/></testcase></testsuite>")
    bad.write_text("<testsuites><testsuite><testcase><failure/></testcase><testcase/></testsuite></testsuites>")
    done = summary(0, good)
    assert (done.returncode, done.stdout) == (0, "1 passed, 0 failed, 1 skipped\n")
    done = summary(1, good, bad)
    assert (done.returncode, done.stdout) == (1, "2 passed, 1 failed, 1 skipped\n")


def test_a_runner_that_died_or_ran_nothing_fails_the_summary(tmp_path):
    good, empty = tmp_path / "good.xml", tmp_path / "empty.xml"
    good.write_text("<testsuite><testcase/></testsuite>")
    empty.write_text("<testsuite/>")
    for status, files in ((0, [good, tmp_path / "missing.xml"]), (0, [good, empty]), (1, [good])):
        done = summary(status, *files)
        assert done.returncode == 1
        assert done.stdout == "1 passed, 1 failed\n"
