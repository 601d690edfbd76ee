"""The corpora in the forms in which they are distributed, made here in small of the shipped books: every form gives the
same bits."""

import gzip
import zipfile

import pytest
from corpora import FORMS, documents_of, plain_folder, prepare, write_parquet

FRACTION = 0.2


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
