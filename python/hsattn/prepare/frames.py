"""Frames to the program: one byte that says what it is, the length in 8 little-endian bytes, the content."""

from __future__ import annotations

import struct
import sys
from typing import BinaryIO

FILE = b"F"  # a file begins: its position, an end of line, its name
DATA = b"D"  # some of its bytes
END = b"E"  # it ends
BAD = b"X"  # the rest of it cannot be read: why
PROGRESS = b"P"  # bytes of the input read so far, 8 bytes
FAILED = b"M"  # nothing can be done: why
DONE = b"Z"  # nothing is left to read

CHUNK = 1 << 20


class FrameWriter:
    def __init__(self, out: BinaryIO | None = None):
        self._out = out or sys.stdout.buffer

    def put(self, kind: bytes, content: bytes = b"") -> None:
        self._out.write(kind + struct.pack("<Q", len(content)))
        self._out.write(content)

    def put_text(self, kind: bytes, text: str) -> None:
        self.put(kind, text.replace("\n", " ").encode(errors="replace"))

    def begin(self, position: tuple[int, ...], name: str) -> None:
        place = "/".join(map(str, position))
        self.put(FILE, f"{place}\n".encode() + name.replace("\n", " ").encode(errors="replace"))

    def finish(self, kind: bytes, text: str = "") -> None:
        self.put_text(kind, text)
        self._out.flush()


def read_texts(source: BinaryIO):
    """Texts from the program: each with its length in 8 bytes before it, until the end of the stream."""
    while header := source.read(8):
        (length,) = struct.unpack("<Q", header)
        text = source.read(length)
        if len(text) < length:
            raise EOFError("the stream of texts ends early")
        yield text.decode()
