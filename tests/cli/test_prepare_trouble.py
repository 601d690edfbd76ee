"""Preparing corpora where something is wrong: damage is named and passed over, a run that is killed goes on, what is
missing is named."""

import gzip
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from built_program import ROOT, program
from corpora import FORMS, documents_of, json_lines, nested_tar, pages, plain_folder, prepare, tar_of, zipped


def damage(path, documents):
    """One of each kind of damage; returns what must be said of it."""
    zstandard = pytest.importorskip("zstandard")
    page = pages(documents)[:5]
    good = tar_of(page, "w:xz")
    members = [("a_data.xz", good), ("cut_data.xz", good[:-40]), ("c_data.xz", good)]
    (path / "1.tar").write_bytes(tar_of(members))
    (path / "2.jsonl").write_bytes(json_lines(documents[5:7]) + b'{"tex": 1}\n{\n' + json_lines(documents[7:8]))
    (path / "3.txt").write_bytes(b"caf\xe9 in Latin-1")
    (path / "4.txt").write_bytes(b"zero\0byte")
    (path / "5.txt.gz").write_bytes(gzip.compress(documents[8].encode())[:-9])
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("x.txt", documents[9])
        archive.writestr("y.txt", documents[10])
    (path / "6.zip").write_bytes(whole.getvalue().replace(documents[9].encode()[:20], b"*" * 20, 1))
    (path / "7.tar").write_bytes(tar_of(page)[:2500])
    (path / "8.parquet").write_bytes(b"PAR1 and nothing more")
    compressed = zstandard.ZstdCompressor(write_checksum=True).compress(json_lines(documents[11:12]) * 2000)
    (path / "9.jsonl.zst").write_bytes(compressed[:-5])
    (path / "10.jsonl.zst").write_bytes(compressed[:100] + b"*" * 50 + compressed[150:])
    return {
        "1.tar/cut_data.xz": "end-of-stream",
        "2.jsonl#3": "not a JSON object",
        "2.jsonl#4": "not a JSON object",
        "3.txt": "byte 3 is not UTF-8",
        "4.txt": "is zero",
        "5.txt.gz": "unexpected end of file",
        "6.zip/x.txt": "CRC",
        "7.tar": "unexpected end of data",
        "8.parquet": "",
        "9.jsonl.zst": "ends before its last frame",
        "10.jsonl.zst": "ecompress",
    }


def test_bad_documents_are_named_and_the_rest_goes_on(hsattn, documents, tmp_path):
    pytest.importorskip("pyarrow")
    source = tmp_path / "in"
    source.mkdir()
    said = damage(source, documents)
    done, result = prepare(hsattn, "openwebtext", source, tmp_path / "out", "--fraction", 0)
    bad = json.loads((tmp_path / "out" / "data.json").read_text())["bad"]
    for name, reason in said.items():
        assert any(f"{source / name}" in line and reason in line for line in bad), (name, bad)
        assert f"{source / name}" in done.stderr
    assert result["bad_documents"] == len(bad) >= len(said)
    texts = set(documents_of(tmp_path / "out" / "train.tokens"))
    assert set(documents[:8]) | {documents[10]} <= texts
    assert documents[8] not in texts
    assert documents[9] not in texts


@pytest.fixture(scope="module")
def large(documents, tmp_path_factory):
    """About 24 MB in the two ways of reading: here, and through Python."""
    folder = tmp_path_factory.mktemp("large")
    rng = random.Random(1)
    many = [f"{i}\n" + "".join(rng.choices(documents, k=6)) for i in range(4000)]
    half = len(many) // 2
    for i, cut in enumerate((many[:half], many[half:])):
        (folder / f"{i}_data.tar.gz").write_bytes(tar_of(pages(cut), "w:gz"))
    with gzip.open(folder / "z.jsonl.gz", "wb", 1) as lines:
        lines.write(json_lines(many[::2]))
    return folder


def start(source, out, **options):
    command = [program(), "prepare", "openwebtext", "--from", source, "--out", out, "--save-every", 1]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def results_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def without_place(results, out):
    return {name: content.replace(str(out).encode(), b"") for name, content in results.items()}


def documents_saved(out):
    state = out / "prepare.state.json"
    return json.loads(state.read_text())["documents"] if state.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(large, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    process = start(large, out)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return without_place(results_of(out), out)


def test_a_killed_run_goes_on_with_the_same_bits(large, undisturbed, tmp_path):
    rng, kills, resumed, saved = random.Random(2), 0, 0, 0
    while True:
        process = start(large, tmp_path)
        wanted = saved + rng.randrange(1, 900)  # several points from which to go on lie between
        while process.poll() is None and documents_saved(tmp_path) < wanted:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGINT if kills % 3 == 0 else signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
        resumed += b"going on behind" in errors
        if process.returncode == 0:
            break
        assert process.returncode in (-signal.SIGKILL, 130), errors
        kills += 1
        assert documents_saved(tmp_path) >= wanted
        saved = documents_saved(tmp_path)
    assert kills >= 5
    assert resumed >= 5
    assert without_place(results_of(tmp_path), tmp_path) == undisturbed


def test_a_full_disk_is_named_and_nothing_is_lost(large, undisturbed, tmp_path):
    limit = 6 << 20
    process = start(large, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, errors = process.communicate(timeout=300)
    lines = errors.decode().splitlines()
    assert process.returncode == 1
    assert len(lines) == 1
    assert "train.tokens.part: File too large" in lines[0]
    process = start(large, tmp_path)
    _, errors = process.communicate(timeout=300)
    assert b"going on behind" in errors
    assert without_place(results_of(tmp_path), tmp_path) == undisturbed


def test_another_preparation_does_not_go_on_from_this_one(large, hsattn, documents, tmp_path):
    process = start(
        large, tmp_path / "out", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22,) * 2)
    )
    process.communicate(timeout=300)
    assert (tmp_path / "out" / "prepare.state.json").exists()
    (tmp_path / "in").mkdir()
    plain_folder(tmp_path / "in", documents)
    done, result = prepare(hsattn, "openwebtext", tmp_path / "in", tmp_path / "out")
    assert "something else is overwritten" in done.stderr
    assert result["train"]["documents"] + result["heldout"]["documents"] == len(documents)


def test_memory_does_not_grow_with_the_corpus(documents, tmp_path):
    source = tmp_path / "large.jsonl.gz"
    with gzip.open(source, "wb", 1) as lines:
        block = json_lines(documents)
        for _ in range((150 << 20) // len(block)):
            lines.write(block)
    command = [program(), "prepare", "openwebtext", "--from", source, "--out", tmp_path / "out"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    base = 64 << 10  # KiB; what the program and the libraries that it loads take anyway is below
    empty = subprocess.Popen([str(program()), "--help"], stdout=subprocess.DEVNULL)
    _, _, nothing = os.wait4(empty.pid, 0)
    assert usage.ru_maxrss - nothing.ru_maxrss < base


@pytest.mark.parametrize(("package", "form"), [("pyarrow", "parquet"), ("zstandard", "jsonl.zst")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(hsattn, documents, tmp_path, package, form):
    source = tmp_path / "in"
    source.mkdir()
    FORMS[form](source, documents)
    shadow = tmp_path / "shadow" / package
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise ModuleNotFoundError")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "shadow")}
    done = hsattn("prepare", "openwebtext", "--from", source, "--out", tmp_path / "out", env=environment)
    assert done.returncode == 1
    assert f"needs the Python package {package}; install it with: " in done.stderr
    assert f"-m pip install {package}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_archives_are_read_without_torch(documents, tmp_path):
    """Neither torch nor the ops are imported: a Python without them serves."""
    nested_tar(tmp_path, documents)
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch is imported')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT / 'python'}"}
    command = [sys.executable, "-m", "hsattn.prepare", "read", str(tmp_path / "openwebtext.tar.xz")]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"Z" + bytes(8))


def test_what_cannot_be_prepared_is_named(hsattn, documents, tmp_path):
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(256)) * 20)
    archive = tmp_path / "pages.zip"
    zipped(tmp_path, documents)
    no_python = os.environ | {"HSATTN_PYTHON": str(tmp_path / "no-python")}
    out = ("--out", tmp_path / "out")
    for arguments, code, message in (
        (["prepare", "wikitext103"], 2, "no --from"),
        (["prepare", "nocorpus", "--from", picture, *out], 2, "one of wikitext103"),
        (["prepare", "openwebtext", "--from", tmp_path / "absent", *out], 1, "absent: No such file"),
        (["prepare", "openwebtext", "--from", picture, *out], 1, "no text of openwebtext in"),
        (["prepare", "wikitext103", "--from", archive, *out], 1, "files with train, valid or test"),
        (["prepare", "openwebtext", "--from", archive, *out], 1, "HSATTN_PYTHON names another one"),
        (["prepare", "openwebtext", "--from", archive, "--out", "/dev/null/x"], 1, "/dev/null/x"),
    ):
        environment = no_python if "HSATTN_PYTHON" in message else os.environ
        done = hsattn(*arguments, env=environment)
        assert done.returncode == code, done.stderr
        assert message in done.stderr.splitlines()[-1]
        assert done.stdout == ""
        assert not (tmp_path / "out" / "train.tokens").exists()
