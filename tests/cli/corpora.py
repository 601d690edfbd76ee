"""The corpora in the forms in which they are distributed, made in small; and what `hsattn prepare` makes of them."""

import gzip
import io
import itertools
import json
import lzma
import struct
import tarfile
import zipfile

import pytest


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
