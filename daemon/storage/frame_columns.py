"""Inspections as columns, which reports count: from rows, or from hours that were kept as columns.

Reading a row costs Python microseconds, and a report may span millions. So finished hours are kept
a second time, in `frame_hour`, as one array for each column. Rows stay the truth: whoever adds or
removes one of a kept hour forgets the hour in the same transaction (`forget`), and it is read
from its rows until `keep_hours` has been there again. Both ways of reading give the same columns.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Select,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    type_coerce,
)

from daemon.storage.database import driver_cursor, write_transaction
from daemon.storage.spots import spot_of_row
from daemon.storage.tables import EPOCH, FrameHourRow, InspectionRow

HOUR = timedelta(hours=1)
_US = timedelta(microseconds=1)
CHUNK_ROWS = 20_000
STEP_ROWS = 2_000
"""What `keep_hours` reads while results wait: some 10 ms."""

_FORGET = delete(FrameHourRow).where(FrameHourRow.begin_utc.in_(bindparam("hours", expanding=True)))
_ROW = InspectionRow
_SHARED = (
    _ROW.camera,
    _ROW.epoch,
    _ROW.category,
    _ROW.verdict,
    _ROW.error_reason,
    _ROW.model_version_id,
    _ROW.review_threshold,
    _ROW.ng_threshold,
    _ROW.part_id.is_not(None),
)
_OWN = (
    _ROW.seq,
    _ROW.id,
    type_coerce(_ROW.received_utc, BigInteger),  # no datetime object per row
    _ROW.pred_score,
    _ROW.frame_to_verdict_ms,
    spot_of_row(),
)
_TYPES: tuple[type[np.generic], ...] = (
    *(np.int32, np.int64, np.int64),
    *(np.float64, np.float64, np.uint8),
)


@dataclass(frozen=True, slots=True)
class FrameColumns:
    """N frames in order of receipt; keys[code[i]] is what frame i shares with others.

    Attributes:
        keys: Camera, epoch, category, verdict, error reason, model version id, review and NG
            threshold, whether it names a part.
        numbers: The lowest and the highest running number of each key's frames.
        code: int32 [N].
        inspection_id: int64 [N].
        received_us: int64 [N], microseconds since 1970 UTC.
        score: float64 [N], NaN for ERROR and without a detector.
        latency_ms: float64 [N].
        spot: uint8 [N], as in `spots.py`.
    """

    keys: tuple[tuple[Any, ...], ...]
    numbers: tuple[tuple[int, int], ...]
    code: NDArray[np.int32]
    inspection_id: NDArray[np.int64]
    received_us: NDArray[np.int64]
    score: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    spot: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.code)

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """In the order of `_TYPES`."""
        return (
            *(self.code, self.inspection_id, self.received_us),
            *(self.score, self.latency_ms, self.spot),
        )


def read_columns(
    connection: Connection, line: str, start_utc: datetime, end_utc: datetime
) -> Iterator[FrameColumns]:
    """All frames of the line received in [start, end), piece by piece in order of receipt."""
    at = start_utc
    for begin_utc, keys_json, content in _kept_hours(connection, line, start_utc, end_utc):
        if at < begin_utc:
            yield from _read_rows(connection, line, at, begin_utc)
        yield _unpacked(keys_json, content)
        at = begin_utc + HOUR
    if at < end_utc:
        yield from _read_rows(connection, line, at, end_utc)


def joined(pieces: Iterable[FrameColumns]) -> FrameColumns:
    """One after the other; what they share gets common codes."""
    codes: dict[tuple[Any, ...], int] = {}
    numbers: dict[tuple[Any, ...], tuple[int, int]] = {}
    columns: list[tuple[NDArray[Any], ...]] = [tuple(np.empty(0, dtype) for dtype in _TYPES)]
    for piece in pieces:
        for key, (lowest, highest) in zip(piece.keys, piece.numbers, strict=True):
            low, high = numbers.get(key, (lowest, highest))
            numbers[key] = min(low, lowest), max(high, highest)
        code_of = [codes.setdefault(key, len(codes)) for key in piece.keys]
        code = np.array(code_of, np.int32)[piece.code] if code_of else piece.code
        columns.append((code, *piece.columns[1:]))
    found = map(np.concatenate, zip(*columns, strict=True))
    return FrameColumns(tuple(codes), tuple(numbers.values()), *found)


def forget(connection: Connection, received_utc: Iterable[datetime]) -> None:
    """Rows received at these times were added or removed: their hours count as rows again."""
    hours = sorted({hour_of(instant) for instant in received_utc})
    connection.execute(_FORGET, {"hours": hours})


def hour_of(instant: datetime) -> datetime:
    """The begin of its UTC hour."""
    return instant - (instant - EPOCH) % HOUR


def keep_hours(engine: Engine, line: str, before: datetime) -> Iterator[None]:
    """Keep the columns of hours that ended before an instant, oldest first, in short steps.

    For the thread that adds the line's rows. An hour that changes meanwhile is left for next time.
    """
    with engine.connect() as connection:
        kept = set(
            connection.scalars(select(FrameHourRow.begin_utc).where(FrameHourRow.line == line))
        )
    hour = EPOCH
    while True:
        while hour in kept:
            hour += HOUR
        with engine.connect() as connection:
            found = connection.scalar(_frames_from(line, hour))
            last_id = connection.scalar(select(func.coalesce(func.max(_ROW.id), 0))) or 0
        if found is None or (hour := hour_of(found)) + HOUR > before:
            return
        if hour not in kept:
            pieces = []
            for piece in _read_in_steps(engine, line, hour):
                pieces.append(piece)
                yield
            with write_transaction(engine) as connection:
                _keep(connection, line, hour, joined(pieces), last_id)
            yield
            hour += HOUR


def _keep(
    connection: Connection, line: str, hour: datetime, frames: FrameColumns, last_id: int
) -> None:
    """Unless rows of the hour came or went since inspection `last_id` was the newest."""
    if connection.dialect.name == "postgresql":
        # a `forget` of another process waits for this, or this for it
        connection.execute(text("LOCK TABLE frame_hour IN EXCLUSIVE MODE"))
    in_hour = _in_window(line, hour, hour + HOUR)
    count = connection.scalar(select(func.count()).select_from(_ROW).where(*in_hour))
    newer = connection.scalar(select(_ROW.id).where(_ROW.id > last_id, *in_hour).limit(1))
    if newer is None and count == len(frames):
        content = b"".join(column.tobytes() for column in frames.columns)
        keys = list(zip(frames.keys, frames.numbers, strict=True))
        row = {"line": line, "begin_utc": hour, "keys_json": json.dumps(keys)}
        connection.execute(insert(FrameHourRow).values(**row, content=content))


def _kept_hours(
    connection: Connection, line: str, start_utc: datetime, end_utc: datetime
) -> Iterator[tuple[datetime, str, bytes]]:
    """Kept hours within [start, end), in order."""
    row = FrameHourRow
    if connection.dialect.name != "postgresql":
        within = row.begin_utc >= start_utc, row.begin_utc <= end_utc - HOUR
        query = select(row.begin_utc, row.keys_json, row.content).where(row.line == line, *within)
        for hour in connection.execute(query.order_by(row.begin_utc)):
            yield hour.begin_utc, hour.keys_json, hour.content
        return
    statement = (
        "SELECT begin_utc, keys_json, content FROM frame_hour WHERE line = %s "
        "AND begin_utc BETWEEN %s AND %s ORDER BY begin_utc"
    )
    bounds = [(instant - EPOCH) // _US for instant in (start_utc, end_utc - HOUR)]
    with driver_cursor(connection, binary=True) as cursor:  # as text, bytes take four times as long
        for begin_us, keys_json, content in cursor.execute(statement, (line, *bounds)):
            yield EPOCH + begin_us * _US, keys_json, content


def _unpacked(keys_json: str, content: bytes) -> FrameColumns:
    sizes = [np.dtype(dtype).itemsize for dtype in _TYPES]
    n = len(content) // sum(sizes)
    columns: list[NDArray[Any]] = []
    offset = 0
    for dtype, size in zip(_TYPES, sizes, strict=True):
        columns.append(np.frombuffer(content, dtype, n, offset))
        offset += n * size
    keys, numbers = zip(*json.loads(keys_json), strict=True)
    return FrameColumns(tuple(map(tuple, keys)), tuple(map(tuple, numbers)), *columns)


def _read_rows(
    connection: Connection, line: str, start_utc: datetime, end_utc: datetime
) -> Iterator[FrameColumns]:
    query = select(*_SHARED, *_OWN).where(*_in_window(line, start_utc, end_utc))
    query = query.order_by(_ROW.received_utc, _ROW.id)
    result = connection.execute(query.execution_options(yield_per=CHUNK_ROWS))
    try:
        for rows in result.partitions():
            yield _of_rows(rows)
    finally:
        result.close()


def _read_in_steps(engine: Engine, line: str, hour: datetime) -> Iterator[FrameColumns]:
    """As `_read_rows`, each piece in a short transaction of its own."""
    at, last_id = hour, 0
    while True:
        is_next = (_ROW.received_utc > at) | (_ROW.id > last_id)
        query = (
            select(*_SHARED, *_OWN)
            .where(*_in_window(line, at, hour + HOUR), is_next)
            .order_by(_ROW.received_utc, _ROW.id)
            .limit(STEP_ROWS)
        )
        with engine.connect() as connection:
            rows = connection.execute(query).all()
        if not rows:
            return
        piece = _of_rows(rows)
        at = EPOCH + timedelta(microseconds=int(piece.received_us[-1]))
        last_id = int(piece.inspection_id[-1])
        yield piece


def _of_rows(rows: Sequence[Sequence[Any]]) -> FrameColumns:
    columns = list(zip(*rows, strict=True))
    shared, seq, own = columns[: len(_SHARED)], columns[len(_SHARED)], columns[len(_SHARED) + 1 :]
    codes: dict[tuple[Any, ...], int] = {}
    code = np.array(
        [codes.setdefault(key, len(codes)) for key in zip(*shared, strict=True)], np.int32
    )
    lowest = np.full(len(codes), np.iinfo(np.int64).max)
    highest = np.full(len(codes), np.iinfo(np.int64).min)
    np.minimum.at(lowest, code, seq)
    np.maximum.at(highest, code, seq)
    return FrameColumns(
        tuple(codes),
        tuple(zip(lowest.tolist(), highest.tolist(), strict=True)),
        code,
        *(np.array(values, dtype) for values, dtype in zip(own, _TYPES[1:], strict=True)),
    )  # of a score, None becomes NaN


def _frames_from(line: str, since: datetime) -> Select[datetime]:
    """When the next frame was received."""
    return (
        select(_ROW.received_utc)
        .where(_ROW.line == line, _ROW.received_utc >= since)
        .order_by(_ROW.received_utc)
        .limit(1)
    )


def _in_window(
    line: str, start_utc: datetime, end_utc: datetime
) -> tuple[ColumnElement[bool], ...]:
    return _ROW.line == line, _ROW.received_utc >= start_utc, _ROW.received_utc < end_utc
