"""Files inside files: what something is follows from its first bytes, never from its name.

A position says where a file lies, a number for each archive around it and one for itself, so that reading can go on
from there: what lies before is passed over without being decompressed where the archive allows it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO

from hsattn.prepare.frames import BAD, CHUNK, DATA, END, PROGRESS, FrameWriter

# What a damaged archive makes the readers below raise.
DAMAGE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
DEEPEST = 8  # archives in archives
BEHIND_ALL = 1 << 62  # position of the report that an archive is damaged, behind all that came out of it

Position = tuple[int, ...]


class MissingPackageError(Exception):
    """A package that the input needs is not installed."""


class _Counting(io.RawIOBase):
    """A file that tells how far it was read."""

    def __init__(self, path: str, frames: FrameWriter):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by close)
        self._frames, self._told = frames, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer) -> int:
        count = self._file.readinto(buffer)
        at = self._file.tell()
        if at >= self._told + CHUNK:
            self._told = at
            self._frames.put(PROGRESS, struct.pack("<Q", at))
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already."""

    def __init__(self, start: bytes, rest: BinaryIO):
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._start[: len(buffer)] or self._rest.read(len(buffer))
        self._start = self._start[len(data) :]
        buffer[: len(data)] = data
        return len(data)


class _Zstd(io.RawIOBase):
    """Frames of zstandard one after another; unlike the package's own reader it notices when the last one is cut."""

    def __init__(self, stream: BinaryIO, zstandard):
        self._stream, self._package = stream, zstandard
        self._frame, self._out = None, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._out:
            data = self._stream.read(1 << 16)
            if not data:
                if self._frame is not None:
                    raise EOFError("the zstandard stream ends before its last frame does")
                return 0
            self._out = self._decompress(data)
        count = min(len(buffer), len(self._out))
        buffer[:count] = self._out[:count]
        self._out = self._out[count:]
        return count

    def _decompress(self, data: bytes) -> bytes:
        pieces = []
        while data:
            if self._frame is None:
                self._frame = self._package.ZstdDecompressor(max_window_size=1 << 29).decompressobj()
            try:
                pieces.append(self._frame.decompress(data))
            except self._package.ZstdError as error:
                raise OSError(str(error)) from error
            data = b""
            if self._frame.eof:
                data, self._frame = self._frame.unused_data, None
        return b"".join(pieces)


def _zstd(stream: BinaryIO) -> BinaryIO:
    try:
        import zstandard
    except ImportError as error:
        raise MissingPackageError("zstandard") from error

    return io.BufferedReader(_Zstd(stream, zstandard), CHUNK)


_COMPRESSED: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x28\xb5\x2f\xfd": _zstd,
}


class Walker:
    """Sends every file in a path to the program, from a position on."""

    def __init__(self, frames: FrameWriter, rows: str, field: str, after: Position = ()):
        self._frames, self._rows, self._field = frames, rows, field
        self._after = after

    def walk(self, path: str) -> None:
        with _Counting(path, self._frames) as raw:
            self._open(io.BufferedReader(raw, CHUNK), path, (), seekable=True)

    def _passed(self, position: Position) -> bool:
        """True for what lies before the position to go on from, and not around it."""
        return position < self._after[: len(position)]

    def _open(self, stream: BinaryIO, name: str, position: Position, seekable: bool = False) -> None:
        try:
            self._dispatch(stream, name, position, seekable)
        except DAMAGE as error:
            self._frames.begin((*position, BEHIND_ALL), name)
            self._frames.put_text(BAD, f"{error}" or type(error).__name__)

    def _dispatch(self, stream: BinaryIO, name: str, position: Position, seekable: bool) -> None:
        if len(position) > DEEPEST:
            raise ValueError(f"more than {DEEPEST} archives in one another")
        start = stream.read(512)
        if seekable:
            stream.seek(0)
        else:
            stream = io.BufferedReader(_Rejoined(start, stream), CHUNK)
        for magic, decompress in _COMPRESSED.items():
            if start.startswith(magic):
                self._open(decompress(stream), name, (*position, 0))
                return
        if start[257:262] == b"ustar":
            self._tar(stream, name, position)
        elif start.startswith(b"PK\x03\x04"):
            self._zip(stream, name, position, seekable)
        elif start.startswith(b"PAR1"):
            self._parquet(stream, name, position, seekable)
        else:
            self._file(stream, name, (*position, 0))

    def _file(self, stream: BinaryIO, name: str, position: Position) -> None:
        if self._passed(position):
            return
        self._frames.begin(position, name)
        try:
            while data := stream.read(CHUNK):
                self._frames.put(DATA, data)
        except DAMAGE as error:
            self._frames.put_text(BAD, f"{error}" or type(error).__name__)
        else:
            self._frames.put(END)

    def _tar(self, stream: BinaryIO, name: str, position: Position) -> None:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for index, member in enumerate(archive):
                inside = (*position, index)
                if member.isfile() and not self._passed(inside):
                    self._open(archive.extractfile(member), f"{name}/{member.name}", inside)

    def _zip(self, stream: BinaryIO, name: str, position: Position, seekable: bool) -> None:
        if not seekable:
            raise ValueError("a zip inside another archive; unpack the outer one first")
        with zipfile.ZipFile(stream) as archive:
            for index, member in enumerate(archive.infolist()):
                inside = (*position, index)
                if not member.is_dir() and not self._passed(inside):
                    self._zip_member(archive, member, f"{name}/{member.filename}", inside)

    def _zip_member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, position: Position) -> None:
        try:
            stream = archive.open(member)
        except (*DAMAGE, RuntimeError, NotImplementedError) as error:  # also: encrypted, unknown compression
            self._frames.begin((*position, 0), name)
            self._frames.put_text(BAD, f"{error}")
            return
        with stream:
            self._open(stream, name, position)

    def _parquet(self, stream: BinaryIO, name: str, position: Position, seekable: bool) -> None:
        if not seekable:
            raise ValueError("Parquet inside an archive; unpack it first")
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise MissingPackageError("pyarrow") from error
        try:
            file = pyarrow.parquet.ParquetFile(stream)
            if self._field not in file.schema_arrow.names:
                raise ValueError(f"no column {self._field!r}; it has {', '.join(file.schema_arrow.names)}")
            if self._rows == "lines":
                self._lines(file, name, (*position, 0))
            else:
                self._documents(file, name, position)
        except pyarrow.ArrowException as error:
            raise ValueError(str(error)) from error

    def _groups(self, file, first: int = 0):
        """(number of the row group, its texts), a part of a group at a time."""
        for group in range(first, file.num_row_groups):
            for batch in file.iter_batches(batch_size=1024, row_groups=[group], columns=[self._field]):
                yield group, batch.column(0)

    def _documents(self, file, name: str, position: Position) -> None:
        first = 0
        if self._after[: len(position)] == position and len(self._after) > len(position):
            first = self._after[len(position)]
        row, last = 0, None
        for group, texts in self._groups(file, first):
            row = row if group == last else 0
            last = group
            for text in texts:
                place = (*position, group, row)
                row += 1
                if self._passed(place):
                    continue
                self._frames.begin(place, f"{name}#{group}.{row}")
                self._frames.put(DATA, (text.as_py() or "").encode())
                self._frames.put(END)

    def _lines(self, file, name: str, position: Position) -> None:
        if self._passed(position):
            return
        self._frames.begin(position, name)
        try:
            for _, texts in self._groups(file):
                lines = (text.as_py() or "" for text in texts)
                joined = "".join(line if line.endswith("\n") else line + "\n" for line in lines)
                self._frames.put(DATA, joined.encode())
        except Exception as error:  # pyarrow's own and those of its text
            self._frames.put_text(BAD, f"{error}")
        else:
            self._frames.put(END)
