"""The inspections of a window as columns; a shift of a million frames is 40 MB.

Repeating facts (camera, category, thresholds) are one small integer a frame.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection

from daemon.core import LossReason, Verdict
from daemon.errors import StorageError
from daemon.storage.frame_columns import joined, read_columns
from daemon.storage.tables import InspectionRow

MAX_FRAMES = 20_000_000
"""A bound on memory (about 1 GB); three shifts a day for a month at 7 frames/s."""

Name = TypeVar("Name", bound=Hashable)

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FrameKey(NamedTuple):
    """What many frames share. The strings are as stored."""

    camera: str
    epoch: int
    category: str
    verdict: Verdict
    error_reason: LossReason | None
    model_version_id: int
    review_threshold: float | None
    ng_threshold: float | None
    has_part_id: bool


@dataclass(frozen=True, slots=True)
class Frames:
    """N frames in order of receipt; keys[code[i]] is what frame i shares with others.

    Attributes:
        numbers: The lowest and the highest running number of each key's frames.
        code: int32 [N].
        inspection_id: int64 [N].
        received_us: int64 [N], microseconds since 1970 UTC.
        score: float64 [N], NaN for ERROR and without a detector.
        latency_ms: float64 [N].
        spot: uint8 [N], where the strongest region of an NG frame lies (`storage.spots`).
    """

    keys: tuple[FrameKey, ...]
    numbers: tuple[tuple[int, int], ...]
    code: NDArray[np.int32]
    inspection_id: NDArray[np.int64]
    received_us: NDArray[np.int64]
    score: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    spot: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.code)

    def where(self, wanted: Sequence[bool]) -> NDArray[np.intp]:
        """Positions of the frames whose key is wanted; `wanted` has one entry a key."""
        return self.grouped([is_wanted or None for is_wanted in wanted]).get(
            True, np.empty(0, dtype=np.intp)
        )

    def grouped(
        self, names: Sequence[Name | None], among: NDArray[np.bool_] | None = None
    ) -> dict[Name, NDArray[np.intp]]:
        """Positions of the frames of each name, in order of receipt; names as they first came up.

        Args:
            names: One entry a key; frames of None are left out.
            among: bool [N]; others are left out too.
        """
        found, number = self.numbered(names)
        return {
            name: np.flatnonzero(number == i if among is None else (number == i) & among)
            for i, name in enumerate(found)
            if name is not None
        }

    def numbered(
        self, names: Sequence[Name | None]
    ) -> tuple[list[Name | None], NDArray[np.unsignedinteger[Any]]]:
        """Different names as they first came up, and for each frame [N] which of them it has."""
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        table = np.array([numbers[name] for name in names], np.min_scalar_type(len(numbers)))
        return list(numbers), table[self.code]


def micros(instant: datetime) -> int:
    """Microseconds since 1970 UTC."""
    return (instant - _UNIX_EPOCH) // timedelta(microseconds=1)


def instant_of(micros_utc: int) -> datetime:
    """The inverse of `micros`."""
    return _UNIX_EPOCH + timedelta(microseconds=int(micros_utc))


def in_window(line: str, start_utc: datetime, end_utc: datetime) -> ColumnElement[bool]:
    """Condition on inspection rows: of this line, received in [start, end)."""
    return (
        (InspectionRow.line == line)
        & (InspectionRow.received_utc >= start_utc)
        & (InspectionRow.received_utc < end_utc)
    )


def read_frames(
    connection: Connection,
    line: str,
    start_utc: datetime,
    end_utc: datetime,
    *,
    max_frames: int = MAX_FRAMES,
) -> Frames:
    """All frames of the line received in [start, end).

    Raises:
        StorageError: more than max_frames rows.
    """
    pieces = []
    total = 0
    for piece in read_columns(connection, line, start_utc, end_utc):
        total += len(piece)
        if total > max_frames:
            raise StorageError(
                f"more than {max_frames} frames between {start_utc.isoformat()} and "
                f"{end_utc.isoformat()}; choose a shorter time"
            )
        pieces.append(piece)
    found = joined(pieces)
    return Frames(tuple(_key(*key) for key in found.keys), found.numbers, *found.columns)


def _key(*stored: Any) -> FrameKey:
    key = FrameKey(*stored)
    return key._replace(
        verdict=Verdict(key.verdict),
        error_reason=None if key.error_reason is None else LossReason(key.error_reason),
        has_part_id=bool(key.has_part_id),
    )
