"""The corpora in the forms in which they are distributed, made here in small of the shipped books: every form gives the
same bits; damage is named and passed over; a run that is killed goes on."""

import gzip
import io
import itertools
import json
import lzma
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest
from built_program import ROOT, program

FRACTION = 0.2


@pytest.fixture(scope="module")
def documents():
    """Paragraphs of a book, as web pages would come."""
    book = gzip.decompress(next((ROOT / "data" / "train").glob("*.gz")).read_bytes()).decode()
    paragraphs = [p for p in book.split("\n\n") if p.strip()]
    return ["\n\n".join(paragraphs[i : i + 3]) + "\n" for i in range(0, 300, 3)]


def tar_of(members, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def pages(documents):
    return [(f"{i:07d}-page.txt", text.encode()) for i, text in enumerate(documents)]


def json_lines(documents):
    return "".join(json.dumps({"text": text, "url": "x"}) + "\n" for text in documents).encode()


def write_parquet(path, texts, rows=40):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=rows)


def nested_tar(path, documents):
    """As openwebtext.tar.xz: a tar of xz archives, each a tar of pages."""
    cuts = [pages(documents)[:40], pages(documents)[40:70], pages(documents)[70:]]
    members = [(f"openwebtext/urlsf_subset00-{i}_data.xz", tar_of(cut, "w:xz")) for i, cut in enumerate(cuts)]
    (path / "openwebtext.tar.xz").write_bytes(tar_of(members, "w:xz"))


def folder_of_subsets(path, documents):
    for i, cut in enumerate((pages(documents)[:50], pages(documents)[50:])):
        (path / f"urlsf_subset00-{i}_data.xz").write_bytes(tar_of(cut, "w:xz"))


def plain_folder(path, documents):
    for name, content in pages(documents):
        (path / name).write_bytes(content)


def zipped(path, documents):
    with zipfile.ZipFile(path / "pages.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in pages(documents):
            archive.writestr("pages/" + name, content)


def zstandard_lines(path, documents):
    zstandard = pytest.importorskip("zstandard")
    cut = json_lines(documents[:30]), json_lines(documents[30:])
    for i, lines in enumerate(cut):  # the second one in two frames
        half = len(lines) // 2 * i
        content = zstandard.compress(lines[:half]) + zstandard.compress(lines[half:])
        (path / f"{i}.jsonl.zst").write_bytes(content)


def parquet_folder(path, documents):
    write_parquet(path / "train-00000-of-00002.parquet", documents[:60])
    write_parquet(path / "train-00001-of-00002.parquet", documents[60:])


FORMS = {
    "nested tar": nested_tar,
    "folder of subsets": folder_of_subsets,
    "plain folder": plain_folder,
    "zip": zipped,
    "tar.gz": lambda path, documents: (path / "all.tgz").write_bytes(tar_of(pages(documents), "w:gz")),
    "tar.bz2": lambda path, documents: (path / "all.tar.bz2").write_bytes(tar_of(pages(documents), "w:bz2")),
    "jsonl": lambda path, documents: (path / "all.jsonl").write_bytes(json_lines(documents)),
    "jsonl.gz": lambda path, documents: (path / "all.jsonl.gz").write_bytes(gzip.compress(json_lines(documents))),
    "jsonl.xz": lambda path, documents: (path / "all.jsonl.xz").write_bytes(lzma.compress(json_lines(documents))),
    "jsonl.zst": zstandard_lines,
    "parquet": parquet_folder,
}


def tokens_and_starts(path):
    data = path.read_bytes()
    magic, version, width, tokens, count = struct.unpack_from("<8sIIQQ", data)
    assert (magic, version) == (b"HSATTOK1", 2)
    starts = struct.unpack(f"<{count + 1}Q", data[-8 * (count + 1) :])
    return data[64 : 64 + width * tokens], starts


def documents_of(path):
    tokens, starts = tokens_and_starts(path)
    return [tokens[a : b - 1].decode() for a, b in itertools.pairwise(starts)]


def prepare(hsattn, corpus, source, out, *options):
    done = hsattn("prepare", corpus, "--from", source, "--out", out, "--json", *options)
    assert done.returncode == 0, done.stderr
    return done, json.loads(done.stdout)


@pytest.fixture(scope="module")
def expected(hsattn, documents, tmp_path_factory):
    """What the plain form gives, once looked at; every other form must give the same bits."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "in").mkdir()
    plain_folder(folder / "in", documents)
    _, result = prepare(hsattn, "openwebtext", folder / "in", folder / "out", "--fraction", FRACTION)
    train, held_out = (documents_of(folder / "out" / f"{part}.tokens") for part in ("train", "heldout"))
    assert sorted(train + held_out) == sorted(documents)
    assert [text for text in documents if text in set(train)] == train  # in order
    assert 5 <= len(held_out) <= 40
    assert result["heldout"]["documents"] == len(held_out)
    return {part: (folder / "out" / f"{part}.tokens").read_bytes() for part in ("train", "heldout")}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_web_pages_gives_the_same_bits(hsattn, documents, expected, tmp_path, form):
    source = tmp_path / "in"
    source.mkdir()
    FORMS[form](source, documents)
    done, result = prepare(hsattn, "openwebtext", source, tmp_path / "out", "--fraction", FRACTION)
    for part, content in expected.items():
        assert (tmp_path / "out" / f"{part}.tokens").read_bytes() == content
    assert result["bad_documents"] == 0
    assert done.stderr == ""
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"train.tokens", "heldout.tokens", "data.json"}


ARTICLES = [
    " \n = Robert = \n \n He was an actor . He had 1 @,@ 000 roles . \n \n = = Career = = \n \n In 2000 = 2000 . \n",
    " \n",
    " = Second title = with = signs = \n \n The unknown <unk> word . \n = no heading , a line above = \n",
    " \n = Third = \n \n Ends here . \n",
]


def wikitext_parts():
    """{part: text} of three articles; only ` = Title = ` between blank lines begins one."""
    train = "".join(ARTICLES)
    return {"train": train, "valid": ARTICLES[0], "test": ARTICLES[3] + ARTICLES[1] + ARTICLES[2]}


def wikitext_folder(path, ending):
    for part, text in wikitext_parts().items():
        (path / f"wiki.{part}.{ending}").write_text(text)
    (path / "README.txt").write_text("not a part")


def wikitext_zip(path):
    with zipfile.ZipFile(path / "wikitext-103-v1.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("wikitext-103/", "")
        for part, text in wikitext_parts().items():
            archive.writestr(f"wikitext-103/wiki.{part}.tokens", text)


@pytest.mark.parametrize("form", ["tokens", "raw", "zip", "parquet"])
def test_wikitext_is_cut_into_articles_and_keeps_its_split(hsattn, tmp_path, form):
    source = tmp_path / "in"
    source.mkdir()
    if form == "zip":
        wikitext_zip(source)
    elif form == "parquet":  # rows are lines; a blank one is empty
        for part, text in wikitext_parts().items():
            lines = ["" if line == " \n" else line for line in text.splitlines(keepends=True)]
            name = "validation" if part == "valid" else part
            write_parquet(source / f"{name}-00000-of-00001.parquet", lines, rows=3)
    else:
        wikitext_folder(source, form)
    _, result = prepare(hsattn, "wikitext103", source, tmp_path / "out")
    for part, name in (("train", "train"), ("valid", "heldout"), ("test", "test")):
        texts = documents_of(tmp_path / "out" / f"{name}.tokens")
        right = wikitext_parts()[part]
        right = (
            right.replace("\n \n", "\n\n").replace("\n \n", "\n\n").removeprefix(" ") if form == "parquet" else right
        )
        if form != "parquet":
            assert "".join(texts) == right
        assert [line.split() for line in "".join(texts).splitlines()] == [line.split() for line in right.splitlines()]
    assert (result["train"]["documents"], result["heldout"]["documents"], result["test"]["documents"]) == (3, 1, 2)
    assert result["split"] == "own"


def test_books_come_as_files_and_as_sentences(hsattn, documents, tmp_path):
    sentences = [line for text in documents for line in text.splitlines() if line.strip()]
    one = tmp_path / "books_large_p1.txt"
    one.write_text("".join(line + "\n" for line in sentences))
    prepare(hsattn, "bookcorpus", one, tmp_path / "text", "--fraction", 0)
    write_parquet(tmp_path / "train-00000-of-00001.parquet", sentences, rows=1000)
    prepare(hsattn, "bookcorpus", tmp_path / "train-00000-of-00001.parquet", tmp_path / "rows", "--fraction", 0)
    text, rows = (documents_of(tmp_path / folder / "train.tokens") for folder in ("text", "rows"))
    assert text == rows == [one.read_text()]


def test_a_long_text_is_cut_at_ends_of_lines(hsattn, tmp_path):
    lines = [f"line {i} of a long text without any structure\n" for i in range(250_000)]
    source = tmp_path / "long.txt.gz"
    source.write_bytes(gzip.compress("".join(lines).encode(), 1))
    _, result = prepare(hsattn, "bookcorpus", source, tmp_path / "out", "--fraction", 0)
    pieces = documents_of(tmp_path / "out" / "train.tokens")
    assert "".join(pieces) == "".join(lines)
    assert result["train"]["documents"] == 3
    assert all(piece.endswith("\n") and len(piece) <= 4 << 20 for piece in pieces)


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
