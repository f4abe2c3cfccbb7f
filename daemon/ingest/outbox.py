"""Frames that the receiver has not acknowledged, in memory or in a folder. Knows no socket.

Every start of a program numbers its frames in an epoch of its own. What an earlier start left
keeps its epoch and is brought first. So a folder may be copied, or come back from a backup: what
is sent twice then is the same frame, and no two frames ever have one number.

Needs the standard library only, since camera programs import it.
"""

import bisect
import contextlib
import fcntl
import json
import logging
import os
import secrets
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from daemon.ingest.wire import MAX_EPOCH, NOTHING

logger = logging.getLogger(__name__)

_HEAD = struct.Struct(">4sIQ")  # magic, bytes of the header, bytes of the payload
_MAGIC = b"ZSF1"


@dataclass(frozen=True, slots=True)
class KeptFrame:
    """One frame as it goes over the wire."""

    seq: int
    header: bytes
    payload: bytes


class Outbox(Protocol):
    """Frames in the order of their numbers, from the oldest that is not acknowledged on.

    Attributes:
        epoch: Of all its frames.
        next_seq: Above every number used so far.
        acknowledged: Every number up to this one is the receiver's, or was given up; NOTHING if
            none is.
    """

    epoch: int
    next_seq: int
    acknowledged: int

    def add(self, frame: KeptFrame) -> None:
        """Keep a frame; raises OSError if it cannot be kept."""

    def next_after(self, seq: int) -> KeptFrame | None:
        """The first frame above `seq`."""

    def forget_through(self, seq: int) -> None:
        """The receiver has all numbers up to this one."""

    def __len__(self) -> int:
        """Frames that are not acknowledged."""


class MemoryOutbox:
    """Frames in memory: they outlive a receiver, not the program."""

    def __init__(self) -> None:
        self.epoch = secrets.randbelow(MAX_EPOCH + 1)
        self.next_seq = 0
        self.acknowledged = NOTHING
        self._frames: OrderedDict[int, KeptFrame] = OrderedDict()

    def add(self, frame: KeptFrame) -> None:
        """Keep a frame."""
        self._frames[frame.seq] = frame
        self.next_seq = frame.seq + 1

    def next_after(self, seq: int) -> KeptFrame | None:
        """The first frame above `seq`."""
        return next((frame for number, frame in self._frames.items() if number > seq), None)

    def forget_through(self, seq: int) -> None:
        """The receiver has all numbers up to this one."""
        self.acknowledged = max(self.acknowledged, seq)
        while self._frames and next(iter(self._frames)) <= seq:
            self._frames.popitem(last=False)

    def __len__(self) -> int:
        """Frames that are not acknowledged."""
        return len(self._frames)


class OutboxFolder:
    """A folder of one program's frames; no other uses it before `close`.

    Attributes:
        earlier: What earlier starts left, the oldest first.
        own: For the frames of this start.
    """

    def __init__(self, folder: Path, camera: str) -> None:
        """Take over what an earlier program left.

        Raises:
            OSError: The folder cannot be used.
            ValueError: Another program uses it, or it holds other files or another camera's frames.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder)
        try:
            found = _take_stock(folder)
            self.earlier = [DiskOutbox(folder, epoch, seqs) for epoch, seqs in found.items()]
            for outbox in self.earlier:
                _refuse_other_camera(folder, outbox, camera)
        except ValueError:
            self._lock.close()
            raise
        self.own = DiskOutbox(folder, secrets.randbelow(MAX_EPOCH + 1))

    def close(self) -> None:
        """Let another program use the folder."""
        self._lock.close()


class DiskOutbox:
    """One file a frame, synced before `add` returns: they outlive the program and a power cut.

    A file is named `EPOCH-SEQ.frame`. One that cannot be read any more is set aside as
    `.damaged`; the receiver counts its number as a gap.
    """

    def __init__(self, folder: Path, epoch: int, seqs: Sequence[int] = ()) -> None:
        """`seqs` are in the folder already, in order."""
        self.epoch = epoch
        self._folder = folder
        self._seqs = list(seqs)
        self.next_seq = self._seqs[-1] + 1 if self._seqs else 0
        # What is below the oldest file was acknowledged, or its file would be here.
        self.acknowledged = self._seqs[0] - 1 if self._seqs else NOTHING

    def add(self, frame: KeptFrame) -> None:
        """Keep a frame on disk.

        Raises:
            OSError: The disk is full or gone; the frame is not kept.
        """
        path = self._path(frame.seq)
        new = path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(_HEAD.pack(_MAGIC, len(frame.header), len(frame.payload)))
                file.write(frame.header)
                file.write(frame.payload)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise
        _sync_folder(self._folder)
        self._seqs.append(frame.seq)
        self.next_seq = frame.seq + 1

    def next_after(self, seq: int) -> KeptFrame | None:
        """The first readable frame above `seq`."""
        while (at := bisect.bisect_right(self._seqs, seq)) < len(self._seqs):
            frame = self._read(self._seqs[at])
            if frame is not None:
                return frame
            del self._seqs[at]
        return None

    def forget_through(self, seq: int) -> None:
        """The receiver has all numbers up to this one."""
        self.acknowledged = max(self.acknowledged, seq)
        self._drop_acknowledged()

    def __len__(self) -> int:
        """Frames that are not acknowledged."""
        return len(self._seqs)

    def _drop_acknowledged(self) -> None:
        count = bisect.bisect_right(self._seqs, self.acknowledged)
        for seq in self._seqs[:count]:
            self._path(seq).unlink(missing_ok=True)
        del self._seqs[:count]

    def _read(self, seq: int) -> KeptFrame | None:
        path = self._path(seq)
        try:
            data = path.read_bytes()
            magic, header_bytes, payload_bytes = _HEAD.unpack_from(data)
        except (OSError, struct.error) as error:
            self._set_aside(path, str(error))
            return None
        if magic != _MAGIC or len(data) != _HEAD.size + header_bytes + payload_bytes:
            self._set_aside(path, f"{len(data)} bytes do not fit its own description")
            return None
        payload_at = _HEAD.size + header_bytes
        return KeptFrame(seq, data[_HEAD.size : payload_at], data[payload_at:])

    def _set_aside(self, path: Path, trouble: str) -> None:
        logger.error("kept frame is damaged", extra={"path": str(path), "error": trouble})
        with contextlib.suppress(OSError):
            path.replace(path.with_suffix(".damaged"))

    def _path(self, seq: int) -> Path:
        return self._folder / f"{self.epoch}-{seq:013d}.frame"


def _locked(folder: Path) -> IO[str]:
    """An open lock file; the kernel frees it however the process ends."""
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ValueError(
            f"outbox {folder} is used by another program; give each camera its own"
        ) from error
    return lock


def _take_stock(folder: Path) -> dict[int, list[int]]:
    """Epoch -> its numbers in order, the oldest epoch first; what a kill left half is removed."""
    for unfinished in folder.glob("*.new"):
        unfinished.unlink()
    found: dict[int, list[int]] = {}
    for path in sorted(folder.glob("*.frame"), key=lambda path: path.stat().st_mtime_ns):
        epoch, seq = _name_to_id(path)
        found.setdefault(epoch, []).append(seq)
    return {epoch: sorted(seqs) for epoch, seqs in found.items()}


def _refuse_other_camera(folder: Path, outbox: Outbox, camera: str) -> None:
    """The frames would come in the name of a camera that did not take them."""
    frame = outbox.next_after(outbox.acknowledged)
    if frame is not None and (found := json.loads(frame.header)["camera"]) != camera:
        raise ValueError(
            f"outbox {folder} holds frames of camera {found!r}; was it copied? Give {camera!r} a "
            "folder of its own"
        )


def _name_to_id(path: Path) -> tuple[int, int]:
    epoch, _, seq = path.stem.partition("-")
    if not (epoch.isdecimal() and seq.isdecimal()):
        raise ValueError(f"{path} is not a file of an outbox; use a folder of its own")
    return int(epoch), int(seq)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
