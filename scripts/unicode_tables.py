"""Writes lm/tokenizer/unicode_tables.inc: what the `tokenizers` package knows about code points.

The tables are asked of the package itself, since texts must be cut as it cuts them: its Unicode is neither Python's nor
the newest. `--check` compares with the file instead of writing it; the version that it was made with is in the file.

Example:
    python scripts/unicode_tables.py --check
"""

import argparse
import sys
import unicodedata
from pathlib import Path

import tokenizers
from tokenizers import Regex
from tokenizers.normalizers import NFC, NFD
from tokenizers.pre_tokenizers import Digits, Split

TABLES = Path(__file__).resolve().parents[1] / "lm" / "tokenizer" / "unicode_tables.inc"
CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic
HANGUL_JAMO = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # what joins a syllable before it
LETTER, NUMBER, SPACE, DIGIT, NORMALIZED = 1, 2, 4, 8, 16


def members(pattern):
    """Code points that the expression matches."""
    split = Split(Regex(pattern), "removed")
    return {c for c in CODES if not split.pre_tokenize_str(chr(c))}


def digits():
    """What the pre-tokenizer Digits takes for one: not quite the numbers of regular expressions."""
    split = Digits(individual_digits=True)
    return {c for c in CODES if len(split.pre_tokenize_str("a" + chr(c))) == 2}


def combining_classes():
    """Classes of marks: Python's, where the package orders the mark as that class says."""
    nfd, classes = NFD(), {}
    for c in CODES:
        mark, combining = chr(c), unicodedata.combining(chr(c))
        if combining == 0 or len(nfd.normalize_str(mark)) > 1:
            continue
        moved = "\u0345" + mark if combining < 240 else mark + "\u0334"  # classes 240 and 1
        if nfd.normalize_str(moved) != moved:
            classes[c] = combining
    return classes


def decompositions():
    """Pairs that compose, {composed: (first, second)}, and what comes apart for good, {code: sequence}."""
    nfc, nfd, pairs, others = NFC(), NFD(), {}, {}
    for c in CODES:
        apart = nfd.normalize_str(chr(c))
        if apart == chr(c) or c in HANGUL:
            continue
        first = nfc.normalize_str(apart[:-1])
        if nfc.normalize_str(apart) == chr(c) and len(apart) > 1 and len(first) == 1:
            pairs[c] = (ord(first), ord(apart[-1]))
        else:
            others[c] = [ord(part) for part in apart]
    return pairs, others


def ranges(values):
    """[(first, last, value)] of a {code: value}."""
    out = []
    for c in sorted(values):
        if out and out[-1][1] == c - 1 and out[-1][2] == values[c]:
            out[-1][1] = c
        else:
            out.append([c, c, values[c]])
    return out


def rows(items):
    """Rows of numbers in braces, filled to the width of the page."""
    lines = [" "]
    for item in items:
        cell = " {" + ", ".join(f"{n:#x}" for n in item) + "},"
        if len(lines[-1]) + len(cell) > 118:
            lines.append(" ")
        lines[-1] += cell
    return "\n".join(lines)


def tables():
    letters, numbers, spaces, separate = members(r"\p{L}"), members(r"\p{N}"), members(r"\s"), digits()
    marks = combining_classes()
    pairs, others = decompositions()
    not_inert = {*marks, *others, *HANGUL_JAMO, *(second for _, second in pairs.values())}
    flags = {}
    named = ((LETTER, letters), (NUMBER, numbers), (SPACE, spaces), (DIGIT, separate), (NORMALIZED, not_inert))
    for flag, codes in named:
        for c in codes:
            flags[c] = flags.get(c, 0) | flag
    return f"""\
// Written by scripts/unicode_tables.py from tokenizers {tokenizers.__version__}; not to be edited.
// clang-format off

// first, last, flags: 1 letter, 2 number, 4 white space, 8 digit, 16 may change in NFC
constexpr CodeRange kClasses[] = {{
{rows(ranges(flags))}
}};

// first, last, canonical combining class
constexpr CodeRange kCombining[] = {{
{rows(ranges(marks))}
}};

// composed, first, second
constexpr CodePair kPairs[] = {{
{rows((c, *pairs[c]) for c in sorted(pairs))}
}};

// what never composes again, and what it comes apart into, filled up with 0
constexpr CodeSequence kDecomposed[] = {{
{rows((c, *others[c], *[0] * (3 - len(others[c]))) for c in sorted(others))}
}};
"""


def main():
    parser = argparse.ArgumentParser(description="Writes or checks the tables of lm/tokenizer.")
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    text = tables()
    if not parser.parse_args().check:
        TABLES.write_text(text)
    elif TABLES.read_text() != text:
        sys.exit(f"{TABLES.name} is not what tokenizers {tokenizers.__version__} says; run this script to write it")


if __name__ == "__main__":
    main()
