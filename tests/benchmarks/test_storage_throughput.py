"""Inspections per second into the database, beside a floor: the driver alone with bare tables.

    pytest -m benchmark -s tests/benchmarks/test_storage_throughput.py

Batches as full as the daemon's under load, each row with one region and 20 kB of pictures, one
synced transaction per batch. The floor writes the same columns and pictures into two tables
without keys and indexes: executemany on SQLite, COPY on PostgreSQL. The two take turns, because
other programs may use the machine.

Then the daemon's writer with its default queue and spool, while results come at a steady rate. What
the database does not take in time goes through the spool, which costs more: its share says whether
the writer keeps up.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import numpy as np
import psycopg
import pytest
from sqlalchemy import Engine

from daemon.config.storage import StorageConfig
from daemon.core import FrameId, FrameInfo, Inspection, Region, Thumbnails, Verdict
from daemon.storage import repository
from daemon.storage.batch import BATCH_SIZE
from daemon.storage.database import PAGE_BYTES, write_transaction
from daemon.storage.spool import Spool
from daemon.storage.tables import InspectionRow
from daemon.storage.writer import Writer

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(300)]

BATCH = BATCH_SIZE
WARM_UP, ROUNDS, TURN = 5, 4, 10
PHOTO, OVERLAY, MAP = os.urandom(10_240), os.urandom(7_168), os.urandom(3_072)
"""Random, as JPEG and PNG are to a compressor."""
COLUMNS = len(InspectionRow.__table__.columns) - 1
NOW = datetime(2026, 1, 31, tzinfo=UTC)
RATES = (500, 1_500, 2_500, 3_500, 4_500, 5_000)
SECONDS = 4.0


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


class Clock:
    """Times batches of one way to write, in turns with another."""

    def __init__(self, name: str, write: Callable[[Sequence[Inspection]], None]) -> None:
        self._name = name
        self._write = write
        self._batch_s: list[float] = []
        self._cpu_s = 0.0

    def write(self, batches: Sequence[Sequence[Inspection]], *, is_counted: bool = True) -> None:
        for batch in batches:
            cpu_s, began_at = time.process_time(), time.perf_counter()
            self._write(batch)
            if is_counted:
                self._batch_s.append(time.perf_counter() - began_at)
                self._cpu_s += time.process_time() - cpu_s

    def report(self) -> float:
        """Rows per second."""
        rows = BATCH * len(self._batch_s)
        rows_per_s = rows / sum(self._batch_s)
        p50, p99 = np.percentile(self._batch_s, (50, 99))
        print(
            f"{self._name}: {rows_per_s:.0f} rows/s, in the median batch {BATCH / p50:.0f}, in the "
            f"best {BATCH / min(self._batch_s):.0f}; batch p99 {p99 * 1000:.0f} ms; "
            f"{self._cpu_s / rows * 1e6:.0f} us of this process a row"
        )
        return rows_per_s


@contextmanager
def sqlite_floor(path: Path) -> Iterator[Callable[[Sequence[Inspection]], None]]:
    names = ", ".join(f"c{index}" for index in range(COLUMNS))
    marks = ", ".join("?" * COLUMNS)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"CREATE TABLE row (id INTEGER PRIMARY KEY, {names})")
        connection.execute("CREATE TABLE picture (id INTEGER PRIMARY KEY, a, b, c)")

        def write(batch: Sequence[Inspection]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                f"INSERT INTO row ({names}) VALUES ({marks})", [(0.5,) * COLUMNS] * len(batch)
            )
            connection.executemany(
                "INSERT INTO picture (a, b, c) VALUES (?, ?, ?)",
                [(PHOTO, OVERLAY, MAP)] * len(batch),
            )
            connection.execute("COMMIT")

        yield write


@contextmanager
def postgresql_floor(engine: Engine) -> Iterator[Callable[[Sequence[Inspection]], None]]:
    columns = ", ".join(f"c{index} float8" for index in range(COLUMNS))
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        connection.execute(f"CREATE TABLE floor_row ({columns})")
        connection.execute("CREATE TABLE floor_picture (a bytea, b bytea, c bytea)")
        for name in "abc":
            connection.execute(
                f"ALTER TABLE floor_picture ALTER COLUMN {name} SET STORAGE EXTERNAL"
            )
        connection.commit()

        def write(batch: Sequence[Inspection]) -> None:
            with connection.cursor() as cursor:
                for table, row in (
                    ("floor_row", (0.5,) * COLUMNS),
                    ("floor_picture", (PHOTO, OVERLAY, MAP)),
                ):
                    with cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy:
                        for _ in batch:
                            copy.write_row(row)
            connection.commit()

        yield write


def make_durable(engine: Engine, postgres_server: str) -> None:
    """The test server is not otherwise; and the model that all rows name."""
    with psycopg.connect(f"{postgres_server} dbname=postgres", autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET fsync = on")
        admin.execute("SELECT pg_reload_conf()")
    with write_transaction(engine) as connection:
        repository.ensure_model_version(
            connection, name="v1", method="m", backbone="b", card_json="{}", now=NOW
        )


def test_storing_keeps_up_with_the_detector(
    engine: Engine, postgres_server: str, tmp_path: Path
) -> None:
    make_durable(engine, postgres_server)

    def write(batch: Sequence[Inspection]) -> None:
        with write_transaction(engine) as connection:
            repository.add_results(connection, "line1", batch)

    is_sqlite = engine.dialect.name == "sqlite"
    with sqlite_floor(tmp_path / "floor.db") if is_sqlite else postgresql_floor(engine) as bare:
        clocks = Clock("floor", bare), Clock(engine.dialect.name, write)
        batches = [batch_of(number) for number in range(WARM_UP)]
        for clock in clocks:
            clock.write(batches, is_counted=False)  # statements are compiled
        for turn in range(ROUNDS):
            first = WARM_UP + turn * TURN
            batches = [batch_of(number) for number in range(first, first + TURN)]
            for clock in clocks:
                clock.write(batches)

    floor_rows_per_s, rows_per_s = (clock.report() for clock in clocks)
    print(f"{engine.dialect.name}: {rows_per_s / floor_rows_per_s:.2f} of the floor")
    assert rows_per_s > 300  # ten cameras at 20 frames/s leave a third free


def test_the_writer_keeps_up(engine: Engine, postgres_server: str, tmp_path: Path) -> None:
    make_durable(engine, postgres_server)
    batches = map(batch_of, count())
    offer(engine, tmp_path / "warm", [*next(batches)], 1000)
    for rate in RATES:
        wanted = int(rate * SECONDS)
        inspections: list[Inspection] = []
        while len(inspections) < wanted:
            inspections += next(batches)
        offer(engine, tmp_path / str(rate), inspections[:wanted], rate)


def offer(engine: Engine, folder: Path, inspections: list[Inspection], rate: int) -> None:
    """Put them at a steady rate, wait until all are stored, and print what came of it."""
    config = StorageConfig(url="sqlite://")
    spool = Spool(folder, config.spool.max_bytes)
    spool.open()
    failed: list[int] = []
    writer = Writer(
        engine,
        line="line1",
        spool=spool,
        reserve_bytes=0,
        max_results=config.max_results,
        on_failure=lambda: failed.append(1),
    )
    writer.start()
    began_at, cpu_s = time.monotonic(), time.process_time()
    waited_s = 0.0
    for number, inspection in enumerate(inspections):
        if number % 50 == 0:  # a camera's burst
            time.sleep(max(0.0, began_at + number / rate - time.monotonic()))
        before = time.monotonic()
        writer.put(inspection)
        waited_s = max(waited_s, time.monotonic() - before)
    offered_s = time.monotonic() - began_at
    writer.stop()
    stored_s = time.monotonic() - began_at
    spool.close()
    assert not failed
    assert writer.counters.inspections == len(inspections)
    print(
        f"{engine.dialect.name}: {rate} offered, {len(inspections) / offered_s:.0f} taken, "
        f"{len(inspections) / stored_s:.0f} stored rows/s, "
        f"{writer.spool_counters.results / len(inspections):.0%} through the spool, longest put "
        f"{1e3 * waited_s:.0f} ms, "
        f"{1e6 * (time.process_time() - cpu_s) / len(inspections):.0f} us of this process a row"
    )
