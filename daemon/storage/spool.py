"""Batches that wait on disk for the database, oldest first. Knows no database.

The folder holds segment files; a segment is a magic number and records, a record is length, CRC
and content. A batch counts as kept when `append` returns: its record is on the disk by fsync then,
and so is the name of its file. A crash in the middle of `append` leaves a torn record at the end
of a file, which `open` leaves out. Files are removed when all they hold is stored; after a crash
in between some batches are handed out again, and their numbers tell the database.
"""

import contextlib
import fcntl
import logging
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from daemon.errors import StorageError
from daemon.storage.batch import Batch
from daemon.storage.spool_record import decode, encode

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 16 << 20
SUFFIX = ".spool"
REJECTED = "rejected"

_MAGIC = b"ZSADSPOOL1\n"
_HEADER = struct.Struct(">II")


class SpoolFullError(Exception):
    """The record does not fit under `max_bytes`; nothing was written."""


@dataclass(slots=True)
class _Segment:
    """One file; `waiting` records of it are not stored yet."""

    path: Path
    size: int
    waiting: int = 0
    is_damaged: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    segment: _Segment
    offset: int
    length: int
    crc: int


class Spool:
    """Used under the lock of its owner.

    Attributes:
        damaged: Files with a record that does not match its CRC; kept under another name.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Nothing is touched before `open`."""
        self.folder = folder
        self.max_bytes = max_bytes
        self.damaged: list[Path] = []
        self._entries: deque[_Entry] = deque()
        self._segments: deque[_Segment] = deque()
        self._file: BinaryIO | None = None
        self._lock: BinaryIO | None = None
        self._next_number = 1

    def open(self) -> None:
        """Take possession of the folder and find what a former run left.

        Raises:
            StorageError: It cannot be created or read, or another daemon uses it.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(self.folder.parent)
            self._lock = (self.folder / "lock").open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in sorted(self.folder.glob(f"[0-9]*{SUFFIX}")):
                self._next_number = int(path.stem) + 1
                self._take_over(path)
        except BlockingIOError as error:
            self.close()
            raise StorageError(
                f"another daemon uses the spool {self.folder}; give this one its own storage.spool"
            ) from error
        except OSError as error:
            self.close()
            raise StorageError(f"spool {self.folder}: {error.strerror}") from error

    def close(self) -> None:
        """Give the folder free; what is in it stays."""
        for file in (self._file, self._lock):
            if file is not None:
                file.close()
        self._file = self._lock = None

    @property
    def batches(self) -> int:
        """How many wait."""
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """On disk, with records that are stored but whose file is still needed."""
        return sum(segment.size for segment in self._segments)

    def append(self, batch: Batch) -> None:
        """Keep a batch: it survives a crash from here on.

        Raises:
            SpoolFullError: `max_bytes` are reached.
            OSError: The disk is full or cannot be written. The batch is not in the spool.
        """
        content = encode(batch)
        crc = zlib.crc32(content)
        size = _HEADER.size + len(content)
        if self.size_bytes + size + len(_MAGIC) > self.max_bytes:
            raise SpoolFullError
        file = self._file
        if file is None or self._segments[-1].size >= SEGMENT_BYTES:
            file = self._begin_segment()
        segment = self._segments[-1]
        try:
            _write_all(file, _HEADER.pack(len(content), crc))
            _write_all(file, content)
            os.fsync(file.fileno())
        except OSError:
            self._undo(segment, file)
            raise
        offset = segment.size + _HEADER.size
        self._entries.append(_Entry(segment, offset, len(content), crc))
        segment.size += size
        segment.waiting += 1

    def oldest(self, results: int) -> tuple[Batch, ...]:
        """The batches that wait longest, of one run; each stays until `remove_first`.

        Args:
            results: No batch is added to those that hold so many together.

        Raises:
            StorageError: The first cannot be read; `reject_first` puts it aside.
        """
        batches: list[Batch] = []
        for entry in self._entries:
            try:
                batch = decode(self._content(entry))
            except StorageError:
                if batches:
                    break  # it is for the next call to say so
                raise
            if batches and batch.run != batches[0].run:
                break
            batches.append(batch)
            results -= len(batch.results)
            if results <= 0:
                break
        return tuple(batches)

    def remove_first(self) -> None:
        """It is stored. The file goes with its last record."""
        self._entries.popleft().segment.waiting -= 1
        if not self._entries:
            self._empty()
        while self._entries and self._segments[0].waiting == 0:
            self._remove(self._segments.popleft())

    def reject_first(self) -> Path:
        """Put aside what no database will take; returns the file that it is in."""
        entry = self._entries[0]
        path = self.folder / f"{REJECTED}-{entry.segment.path.stem}-{entry.offset}{SUFFIX}"
        with path.open("wb") as file:
            file.write(_MAGIC + _HEADER.pack(entry.length, entry.crc) + self._raw(entry))
            os.fsync(file.fileno())
        self.remove_first()
        return path

    def _take_over(self, path: Path) -> None:
        segment = _Segment(path, path.stat().st_size)
        with path.open("rb") as file:
            for entry in self._scan(segment, file):
                self._entries.append(entry)
                segment.waiting += 1
        if segment.waiting:
            self._segments.append(segment)
        else:
            self._remove(segment)

    def _scan(self, segment: _Segment, file: BinaryIO) -> Iterator[_Entry]:
        """Every whole record; stops at the first that is not."""
        if file.read(len(_MAGIC)) != _MAGIC:
            segment.is_damaged = segment.size > len(_MAGIC)
            return
        while header := file.read(_HEADER.size):
            offset = file.tell()
            if len(header) < _HEADER.size:
                break
            length, crc = _HEADER.unpack(header)
            if length == 0 or offset + length > segment.size:
                break  # torn: `append` never returned for it
            if zlib.crc32(file.read(length)) != crc:
                segment.is_damaged = True
                break
            yield _Entry(segment, offset, length, crc)
        else:
            return
        logger.warning(
            "spool ends in a broken record",
            extra={"file": str(segment.path), "bytes_left_out": segment.size - offset},
        )

    def _begin_segment(self) -> BinaryIO:
        if self._file is not None:
            self._file.close()
            self._file = None
        path = self.folder / f"{self._next_number:08}{SUFFIX}"
        file = path.open("xb", buffering=0)
        try:
            _write_all(file, _MAGIC)
            _sync_folder(self.folder)
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        self._next_number += 1
        self._file = file
        self._segments.append(_Segment(path, len(_MAGIC)))
        return file

    def _undo(self, segment: _Segment, file: BinaryIO) -> None:
        """Cut a half record off; where even that fails, go on in a new file."""
        try:
            file.truncate(segment.size)
            file.seek(segment.size)
        except OSError:
            file.close()
            self._file = None

    def _raw(self, entry: _Entry) -> bytes:
        with entry.segment.path.open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.length)

    def _content(self, entry: _Entry) -> bytes:
        content = self._raw(entry)
        if zlib.crc32(content) != entry.crc:
            raise StorageError(f"{entry.segment.path} was changed on disk at byte {entry.offset}")
        return content

    def _empty(self) -> None:
        """Nothing waits: leave no file behind."""
        if self._file is not None:
            self._file.close()
            self._file = None
        while self._segments:
            self._remove(self._segments.popleft())

    def _remove(self, segment: _Segment) -> None:
        with contextlib.suppress(OSError):  # a read-only disk: read again, and recognised, later
            if segment.is_damaged:
                kept = segment.path.with_suffix(".damaged")
                segment.path.rename(kept)
                self.damaged.append(kept)
            else:
                segment.path.unlink()


def _write_all(file: BinaryIO, content: bytes) -> None:
    """A nearly full disk takes a part, and refuses with the next call."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
