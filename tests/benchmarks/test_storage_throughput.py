"""Inspections per second into the database, beside a floor: raw sqlite3 executemany.

    pytest -m benchmark -s tests/benchmarks/test_storage_throughput.py

Batches as full as the daemon's under load, each row with one region and 20 kB of pictures, one
synced transaction per batch.
"""

import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from daemon.core import FrameId, FrameInfo, Inspection, Region, Thumbnails, Verdict
from daemon.storage import repository
from daemon.storage.batch import BATCH_SIZE
from daemon.storage.database import write_transaction
from daemon.storage.tables import InspectionRow

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(300)]

BATCH = BATCH_SIZE
BATCHES = 40
PHOTO, OVERLAY, MAP = bytes(range(256)) * 40, bytes(range(256)) * 28, bytes(range(256)) * 12
NOW = datetime(2026, 1, 31, tzinfo=UTC)


def batch_of(number: int) -> list[Inspection]:
    return [
        Inspection(
            FrameInfo(FrameId("cam1", 1, seq), "fabric", NOW, NOW, 0.0, part_id=f"part{seq}"),
            Verdict.NG,
            "v1",
            NOW,
            0.04,
            width_px=640,
            height_px=480,
            pred_score=0.7,
            map_peak=0.9,
            regions=(Region(1, 2, 3, 4, 10, 0.9),),
            thumbnails=Thumbnails(PHOTO, OVERLAY, MAP),
        )
        for seq in range(number * BATCH, (number + 1) * BATCH)
    ]


def measure(name: str, write: Callable[[int], None]) -> float:
    """Rows per second; the first batches, which compile statements, are not counted."""
    for number in range(5):
        write(number)
    commit_ms = []
    begin_at = time.perf_counter()
    for number in range(5, 5 + BATCHES):
        started_at = time.perf_counter()
        write(number)
        commit_ms.append((time.perf_counter() - started_at) * 1000)
    rows_per_s = BATCHES * BATCH / (time.perf_counter() - begin_at)
    p99_ms = statistics.quantiles(commit_ms, n=100)[98]
    print(
        f"{name}: {rows_per_s:.0f} rows/s, "
        f"batch p50 {statistics.median(commit_ms):.1f} ms, p99 {p99_ms:.1f} ms"
    )
    return rows_per_s


def floor(path: Path) -> float:
    """The same columns and pictures by sqlite3 alone, WAL, synchronous=FULL."""
    columns = len(InspectionRow.__table__.columns) - 1
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        names = ", ".join(f"c{index}" for index in range(columns))
        connection.execute(f"CREATE TABLE row (id INTEGER PRIMARY KEY, {names})")
        connection.execute("CREATE TABLE picture (id INTEGER PRIMARY KEY, a, b, c)")

        def write(number: int) -> None:
            marks = ", ".join("?" * columns)
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                f"INSERT INTO row ({names}) VALUES ({marks})",
                [(number * BATCH + row, *[0.5] * (columns - 1)) for row in range(BATCH)],
            )
            connection.executemany(
                "INSERT INTO picture (a, b, c) VALUES (?, ?, ?)", [(PHOTO, OVERLAY, MAP)] * BATCH
            )
            connection.execute("COMMIT")

        return measure("floor, sqlite3 executemany", write)


def test_storing_keeps_up_with_the_detector(
    engine: Engine, postgres_server: str, tmp_path: Path
) -> None:
    with psycopg.connect(f"{postgres_server} dbname=postgres", autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET fsync = on")  # the test server is not durable otherwise
        admin.execute("SELECT pg_reload_conf()")
    with write_transaction(engine) as connection:
        repository.ensure_model_version(
            connection, name="v1", method="m", backbone="b", card_json="{}", now=NOW
        )

    def write(number: int) -> None:
        with write_transaction(engine) as connection:
            repository.add_results(connection, "line1", batch_of(number))

    floor_rows_per_s = floor(tmp_path / "floor.db")
    rows_per_s = measure(engine.dialect.name, write)

    print(f"{engine.dialect.name}: {rows_per_s / floor_rows_per_s:.2f} of the floor")
    assert rows_per_s > 300  # ten cameras at 20 frames/s leave a third free
