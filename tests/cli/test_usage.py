"""Help, usage errors, exit codes: one clear line each, results on stdout, the rest on stderr."""

import json
import re
import subprocess

import pytest
from built_program import program

COMMANDS = ("prepare", "tokenizer", "train", "eval", "bench", "bench-step", "inspect", "doctor")


def test_help_lists_the_commands(hsattn):
    done = hsattn("--help")
    assert done.returncode == 0
    assert all(f"\n  {command} " in done.stdout for command in COMMANDS)
    alone = hsattn()
    assert alone.returncode == 2
    assert alone.stderr == done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_its_options_and_gives_examples(hsattn, command):
    done = hsattn(command, "--help")
    assert done.returncode == 0
    assert f"\n  hsattn {command}" in done.stdout or f" hsattn {command}" in done.stdout
    for example in re.findall(r"^  hsattn \S+ (.*)$", done.stdout, re.MULTILINE):
        for option in re.findall(r"--(?:no-)?([a-z-]+)", example):
            assert f"\n  --{option} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fly",), "unknown command fly"),
        (("train", "--learning-rat", "1"), "did you mean --learning-rate?"),
        (("train", "word"), "unexpected word word"),
        (("train", "--learning-rate", "inf"), "--learning-rate is inf; a number is right"),
        (("train", "--learning-rate", "nan"), "--learning-rate is nan; a number is right"),
        (("train",), "no --run"),
        (("train", "--run", "x"), "no --data"),
        (("train", "--run", "x", "--data", "y", "--steps", "many"), "--steps is many; a whole number is right"),
        (("train", "--run", "x", "--data", "y", "--steps", "10x"), "--steps is 10x"),
        (("train", "--run", "x", "--data", "y", "--steps"), "--steps needs a value"),
        (("train", "--run", "x", "--data", "y", "--heads", "7"), "heads is 7"),
        (("train", "--run", "x", "--data", "y", "--attention", "magic"), "attention is magic"),
        (("train", "--run", "x", "--data", "y", "--block", "7"), "block"),
        (("train", "--run", "x", "--data", "y", "--checkpointing=maybe"), "maybe was given"),
        (("prepare", "--out", "x"), "no input"),
        (("eval", "--data", "x"), "no --model"),
        (("eval", "--model", "m", "--data", "x", "--top-k", "8"), "name it too"),
        (("bench", "--lengths", "10,x"), "lengths is 10,x"),
        (("bench", "--lengths", "8", "--pattern", "sdpa"), "pattern is sdpa"),
        (("bench", "--lengths", "8", "--dtype", "half"), "dtype is half"),
        (("bench", "--lengths", "8", "--quick"), "only and quick choose rows of the table"),
        (("bench", "--dim", "128"), "dim is 128, but the rows of the table have their own"),
        (("bench", "--only", "magic"), "only is magic"),
        (("bench", "--quick", "--only", "growth"), "only is growth"),
        (("bench", "--repeats", "0"), "repeats is 0"),
        (("bench", "--fail-below", "0.9"), "fail_below needs a baseline"),
        (("bench", "--lengths", "8", "--tail", "0.5"), "tail is 0.5, which is not in the lists"),
        (("bench-step", "--tail", "0.5"), "tail is 0.5, which has no gradient"),
        (("bench-step", "--attention", "hsa,magic"), "attention is magic"),
        (("bench-step", "--attention", "hsa,sdpa,hsa"), "names hsa twice"),
        (("bench-step", "--attention", ""), "attention is ;"),
        (("bench-step", "--heads", "7"), "heads is 7"),
        (("bench-step", "--lengths", "0"), "lengths is 0"),
        (("bench-step", "--repeats", "0"), "repeats is 0"),
        (("bench-step", "--checkpoint"), "unknown option --checkpoint"),
        (("inspect", "--model", "m"), "no --text"),
        (("prepare", "/", "--out", "x", "--fraction", "2"), "hsattn prepare: fraction is 2; 0 to 0.5 is right"),
        (("prepare", "/", "--out", "x", "--split", "thirds"), "hsattn prepare: split is thirds"),
        (("prepare", "/", "--out", "x", "--save-every", "-1"), "save_every is -1"),
        (("prepare", "/", "--out", "x", "--repeat-passages", "-1"), "hsattn prepare: repeat_passages is -1"),
        (("prepare", "bookcorpus", "--from", "x", "--fraction", "2"), "hsattn prepare: fraction is 2"),
        (("generate", "--model", "m", "--prompt", "x", "--attention", "linear"), "attention is linear with pooling"),
        (("generate", "--model", "m", "--prompt", "x", "--pooling", "attention"), "and pooling mean or max"),
        (("convert", "--model", "m", "--text", "x", "--attention", "hsa"), "unknown option --attention"),
        (("compare", "--model", "m", "--text", "x", "--attention", "hsa"), "unknown option --attention"),
    ],
)
def test_wrong_usage_is_named_in_one_line(hsattn, arguments, message):
    done = hsattn(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "/no/such/file", "--out", "{tmp}/d"), "/no/such/file"),
        (("train", "--data", "{tmp}", "--run", "{tmp}/r"), "train.tokens"),
        (("train", "--run", "{tmp}", "--resume"), "config.json"),
        (("eval", "--model", "{tmp}", "--data", "{tmp}"), "no model there"),
        (("bench", "--queries", "{tmp}/x_q.npy", "--lengths", "8"), "x_q.npy"),
        (("bench-step", "--text", "{tmp}/no.txt", "--lengths", "8"), "no.txt"),
    ],
)
def test_bad_files_are_named_in_one_line(hsattn, tmp_path, arguments, message):
    done = hsattn(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert done.stdout == ""


def test_doctor_finds_this_machine_well(hsattn):
    done = hsattn("doctor", "--json")
    findings = json.loads(done.stdout)
    assert findings["good"], findings
    assert done.returncode == 0
    assert {"answers, full", "answers, local", "answers, hsa"} <= {f["name"] for f in findings["findings"]}


def test_doctor_reports_an_instruction_set_that_is_not_there(hsattn):
    done = hsattn("doctor", env={"HSATTN_ISA": "abacus"})
    assert done.returncode == 1
    assert "abacus" in done.stdout
    assert "FAIL" in done.stdout


def test_a_result_that_cannot_be_written_is_an_error(hsattn):
    with open("/dev/full", "w") as full:
        done = subprocess.run([hsattn_path(), "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "stdout" in done.stderr


def hsattn_path():
    return str(program())
