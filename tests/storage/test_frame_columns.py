"""Hours kept as columns read like their rows, whatever came late or went early."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, func, select

from daemon.config.retention import RetentionConfig
from daemon.core import FrameId, FrameInfo, Inspection, LossReason, Region, Verdict
from daemon.storage import frame_columns, repository, retention
from daemon.storage.database import write_transaction
from daemon.storage.frame_columns import HOUR, FrameColumns, keep_hours
from daemon.storage.tables import FrameHourRow

BEGIN = datetime(2026, 1, 31, 5, tzinfo=UTC)
END = BEGIN + 4 * HOUR
REGIONS = (Region(0, 0, 9, 9, 50, 0.5), Region(60, 30, 9, 9, 80, 0.9))
VERDICTS = (Verdict.OK, Verdict.NG, Verdict.REVIEW, Verdict.ERROR, Verdict.LEARNING)


def frame(seq: int, minute: float, line_camera: str = "cam1") -> Inspection:
    received_utc = BEGIN + timedelta(minutes=minute)
    verdict = VERDICTS[seq % len(VERDICTS)]
    is_error = verdict is Verdict.ERROR
    return Inspection(
        FrameInfo(
            FrameId(line_camera, 7, seq),
            "fabric",
            received_utc,
            received_utc,
            0.0,
            part_id="p" if seq % 3 else None,
        ),
        verdict,
        "aa-clip-1",
        received_utc,
        0.01 * seq,
        width_px=90,
        height_px=90,
        pred_score=None if is_error else (seq % 7) / 7,
        regions=REGIONS[: seq % 3] if verdict is Verdict.NG else (),
        error_reason=LossReason.TOO_DARK if is_error else None,
    )


def store(engine: Engine, *inspections: Inspection, line: str = "line1") -> None:
    with write_transaction(engine) as connection:
        repository.add_results(connection, line, inspections)


def keep(engine: Engine, before: datetime = END) -> int:
    """How many hours are kept afterwards."""
    for _ in keep_hours(engine, "line1", before):
        pass
    return kept(engine)


def kept(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(FrameHourRow)) or 0


def read(engine: Engine, start: datetime = BEGIN, end: datetime = END) -> list[tuple[Any, ...]]:
    """Frames as tuples; NaN as None, so that they compare."""
    with engine.connect() as connection:
        found = frame_columns.joined(frame_columns.read_columns(connection, "line1", start, end))
    return list(as_tuples(found))


def as_tuples(found: FrameColumns) -> Iterator[tuple[Any, ...]]:
    for code, *own in zip(*found.columns, strict=True):
        key = found.keys[code] + found.numbers[code]
        yield (*key, *(None if np.isnan(value) else value.item() for value in own))


@pytest.fixture
def filled(line_engine: Engine) -> Engine:
    """37 frames in three of the four hours, some at the same microsecond, some on the hour."""
    minutes = [5.0 * (seq // 2) + (120 if seq > 25 else 0) for seq in range(37)]
    store(line_engine, *(frame(seq, minute) for seq, minute in enumerate(minutes)))
    return line_engine


@pytest.mark.parametrize(
    ("start_min", "end_min"), [(0, 240), (0, 60), (30, 200), (59.9, 60.1), (60, 61), (100, 110)]
)
def test_kept_hours_read_like_their_rows(
    filled: Engine, monkeypatch: pytest.MonkeyPatch, start_min: float, end_min: float
) -> None:
    monkeypatch.setattr(frame_columns, "STEP_ROWS", 3)
    window = BEGIN + timedelta(minutes=start_min), BEGIN + timedelta(minutes=end_min)
    of_rows = read(filled, *window)

    assert keep(filled) == 3

    assert read(filled, *window) == of_rows
    spots = {row[-1] for row in of_rows}
    assert len(of_rows) < 20 or spots == {0, 1 + 1, 1 + 4 * (3 * 1 + 2) + 1}


def test_an_hour_that_has_not_ended_is_not_kept(filled: Engine) -> None:
    assert keep(filled, BEGIN + HOUR - timedelta(microseconds=1)) == 0
    assert keep(filled, BEGIN + HOUR) == 1


def test_a_late_frame_is_read_and_kept_with_its_hour_the_next_time(filled: Engine) -> None:
    keep(filled)
    late = frame(900, 12.0)

    store(filled, late)

    assert kept(filled) == 2
    assert sum(9000.0 in row for row in read(filled)) == 1
    assert keep(filled) == 3
    assert sum(9000.0 in row for row in read(filled)) == 1


def test_what_retention_removes_is_not_read_any_more(filled: Engine) -> None:
    keep(filled)
    rules = retention.rules_of(
        RetentionConfig(rows_days={"OK": 7}), BEGIN + timedelta(days=7, minutes=30)
    )
    before = read(filled)

    removed = sum(chunk.count for chunk in retention.prune(filled, rules))

    assert removed > 0
    assert len(read(filled)) == len(before) - removed
    assert kept(filled) == 2


def test_an_hour_that_changes_while_it_is_read_is_not_kept(
    filled: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_columns, "STEP_ROWS", 3)
    steps = keep_hours(filled, "line1", BEGIN + HOUR)
    next(steps)

    store(filled, frame(900, 0.0))
    for _ in steps:
        pass

    assert kept(filled) == 0
    assert keep(filled, BEGIN + HOUR) == 1
    assert sum(9000.0 in row for row in read(filled)) == 1


def test_lines_in_one_database_do_not_mix(filled: Engine) -> None:
    store(filled, frame(0, 1.0, "cam9"), line="line2")

    keep(filled)

    assert not any("cam9" in row for row in read(filled))
