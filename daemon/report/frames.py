"""Reads the inspection rows of a window once, as columns; a shift of a million rows is 50 MB.

One statement, so every figure of a report comes from the same snapshot of the rows, and one pass
over the time index. Repeating facts (camera, category, thresholds) become one small integer.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, ColumnElement, Connection, Select, select, type_coerce

from daemon.core import LossReason, Verdict
from daemon.errors import StorageError
from daemon.storage.tables import InspectionRow

MAX_FRAMES = 20_000_000
"""A bound on memory (about 1 GB); three shifts a day for a month at 7 frames/s."""

_CHUNK_ROWS = 20_000
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


@dataclass(frozen=True, slots=True)
class Frames:
    """N frames in order of receipt; keys[code[i]] is what frame i shares with others.

    Attributes:
        code: int32 [N].
        seq: int64 [N].
        received_us: int64 [N], microseconds since 1970 UTC.
        score: float64 [N], NaN for ERROR and without a detector.
        latency_ms: float64 [N].
    """

    keys: tuple[FrameKey, ...]
    code: NDArray[np.int32]
    seq: NDArray[np.int64]
    received_us: NDArray[np.int64]
    score: NDArray[np.float64]
    latency_ms: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.code)

    def where(self, wanted: list[bool]) -> NDArray[np.intp]:
        """Positions of the frames whose key is wanted; `wanted` has one entry a key."""
        if not any(wanted):
            return np.empty(0, dtype=np.intp)
        return np.flatnonzero(np.array(wanted, dtype=bool)[self.code])


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
    codes: dict[tuple[Any, ...], int] = {}
    chunks: list[tuple[NDArray[Any], ...]] = []
    total = 0
    query = _frames_query(line, start_utc, end_utc).execution_options(yield_per=_CHUNK_ROWS)
    result = connection.execute(query)
    for rows in result.partitions():
        total += len(rows)
        if total > max_frames:
            result.close()
            raise StorageError(
                f"more than {max_frames} frames between {start_utc.isoformat()} and "
                f"{end_utc.isoformat()}; choose a shorter time"
            )
        *shared, seq, received_us, score, latency_ms = zip(*rows, strict=True)
        code = [codes.setdefault(key, len(codes)) for key in zip(*shared, strict=True)]
        chunks.append(
            (
                np.array(code, dtype=np.int32),
                np.array(seq, dtype=np.int64),
                np.array(received_us, dtype=np.int64),
                np.array(score, dtype=np.float64),  # None becomes NaN
                np.array(latency_ms, dtype=np.float64),
            )
        )
    return _frames(codes, chunks)


def _frames_query(line: str, start_utc: datetime, end_utc: datetime) -> Select[*tuple[Any, ...]]:
    row = InspectionRow
    return (
        select(
            row.camera,
            row.epoch,
            row.category,
            row.verdict,
            row.error_reason,
            row.model_version_id,
            row.review_threshold,
            row.ng_threshold,
            row.seq,
            type_coerce(row.received_utc, BigInteger),  # no datetime object per row
            row.pred_score,
            row.frame_to_verdict_ms,
        )
        .where(in_window(line, start_utc, end_utc))
        .order_by(row.received_utc)
    )


def _frames(codes: dict[tuple[Any, ...], int], chunks: list[tuple[NDArray[Any], ...]]) -> Frames:
    keys = tuple(
        FrameKey(
            camera,
            epoch,
            category,
            Verdict(verdict),
            None if reason is None else LossReason(reason),
            *rest,
        )
        for camera, epoch, category, verdict, reason, *rest in codes
    )
    if not chunks:
        whole, real = np.empty(0, dtype=np.int64), np.empty(0)
        return Frames(keys, whole.astype(np.int32), whole, whole, real, real)
    return Frames(keys, *(np.concatenate(column) for column in zip(*chunks, strict=True)))
