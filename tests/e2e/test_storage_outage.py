"""The database stops, gets read-only or full while results come in at a steady rate."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from daemon_process import wait_until
from own_disk import mounted
from sqlalchemy import Engine, func, select, text

from daemon.config.storage import StorageConfig
from daemon.core import (
    EventKind,
    FrameId,
    FrameInfo,
    FrameLoss,
    Inspection,
    LossReason,
    Thumbnails,
    Verdict,
)
from daemon.storage import repository, revision
from daemon.storage.database import open_database, write_transaction
from daemon.storage.spool import Spool
from daemon.storage.tables import EventRow, FrameLossRow, InspectionRow, ThumbnailRow
from daemon.storage.watch import StorageState
from daemon.storage.writer import Writer

EVERY_S = 0.005
LOSS_EVERY = 50
MIB = 1 << 20
PICTURES = Thumbnails(os.urandom(6_000), os.urandom(3_000), os.urandom(1_000))


def inspection(seq: int, verdict: Verdict = Verdict.NG) -> Inspection:
    now = datetime.now(UTC)
    info = FrameInfo(FrameId("cam1", 1, seq), "fabric", now, now, 0.0)
    return Inspection(info, verdict, "v1", now, 0.04, pred_score=0.5, thumbnails=PICTURES)


@contextmanager
def writing(engine: Engine, folder: Path, reserve_bytes: int = 0) -> Iterator[Writer]:
    with write_transaction(engine) as connection:
        repository.ensure_model_version(
            connection,
            name="v1",
            method="m",
            backbone="b",
            card_json="{}",
            now=datetime.now(UTC),
        )
    spool = Spool(folder, 1 << 30)
    spool.open()
    writer = Writer(
        engine,
        line="line1",
        spool=spool,
        reserve_bytes=reserve_bytes,
        max_results=256,
        on_failure=lambda: None,
    )
    try:
        writer.start()
        yield writer
        writer.stop(60)
    finally:
        spool.close()


class Load:
    """Puts a result every EVERY_S until it is told to end; knows how long each `put` took."""

    def __init__(self, writer: Writer) -> None:
        self.took_s: list[float] = []
        self._writer = writer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> int:
        self._stop.set()
        self._thread.join()
        return len(self.took_s)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            seq = len(self.took_s)
            is_loss = seq % LOSS_EVERY == 0
            begin = time.perf_counter()
            self._writer.put(lost(seq) if is_loss else inspection(seq))
            self.took_s.append(time.perf_counter() - begin)


def lost(seq: int) -> FrameLoss:
    return FrameLoss(
        LossReason.QUEUE_FULL, datetime.now(UTC), "full", "cam1", "fabric", 1, seq, seq
    )


def assert_each_is_stored_once_and_in_order(engine: Engine, results: int) -> None:
    with engine.connect() as connection:
        seqs = list(connection.scalars(select(InspectionRow.seq).order_by(InspectionRow.id)))
        losses = list(connection.scalars(select(FrameLossRow.first_seq).order_by(FrameLossRow.id)))
        kinds = Counter(connection.scalars(select(EventRow.kind)))
    assert seqs == [seq for seq in range(results) if seq % LOSS_EVERY]
    assert losses == list(range(0, results, LOSS_EVERY))
    assert kinds[EventKind.SPOOLING] == kinds[EventKind.SPOOL_EMPTY] == 1


@pytest.mark.parametrize(
    "outage_s", [3, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(300)])]
)
def test_a_database_that_stops_and_comes_back_loses_and_doubles_nothing(
    postgres_engine: Engine,
    postgres_outage: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
    outage_s: float,
) -> None:
    pause = threading.Event()
    with writing(postgres_engine, tmp_path / "spool") as writer:
        load = Load(writer)
        pause.wait(1)
        before = len(load.took_s)
        with postgres_outage():
            pause.wait(outage_s)
            during = len(load.took_s)
            assert writer.state.is_spooling
        back_at = time.perf_counter()
        wait_until(lambda: writer.state == StorageState(), "the spool to be empty")
        drained_s = time.perf_counter() - back_at
        caught_up = len(load.took_s)
        results = load.end()

    assert_each_is_stored_once_and_in_order(postgres_engine, results)
    assert writer.counters.duplicates == 0
    usual, away, after = (
        np.percentile(load.took_s[begin:end], 99) * 1000
        for begin, end in ((0, before), (before, during), (during, caught_up))
    )
    print(
        f"{results} results, {writer.spool_counters.results} through the spool, which was empty "
        f"{drained_s:.1f} s after the database was back; put p99 {usual:.2f} ms before, "
        f"{away:.2f} ms during the outage, {after:.2f} ms while catching up"
    )


def test_a_database_that_is_read_only_for_a_while_loses_and_doubles_nothing(
    postgres_engine: Engine, tmp_path: Path
) -> None:
    pause = threading.Event()
    with writing(postgres_engine, tmp_path / "spool") as writer:
        load = Load(writer)
        set_read_only(postgres_engine, True)
        wait_until(lambda: writer.state.is_spooling, "the spool to be used")
        pause.wait(0.5)
        set_read_only(postgres_engine, False)
        wait_until(lambda: writer.state == StorageState(), "the spool to be empty")
        results = load.end()

    assert_each_is_stored_once_and_in_order(postgres_engine, results)


def set_read_only(engine: Engine, on: bool) -> None:
    """As a server does that became a standby: for all sessions, which begin anew."""
    name = engine.url.database
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET default_transaction_read_only = off"))
        setting = "on" if on else "off"
        connection.execute(
            text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {setting}')
        )
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
        connection.invalidate()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 48 MiB; needs the right to mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    with mounted(folder, "-t", "tmpfs", "-o", "size=48m", "tmpfs"):
        yield folder


def leave_free(folder: Path, free_bytes: int) -> None:
    """Another program takes the rest of the disk."""
    found = os.statvfs(folder)
    with (folder / "filler").open("ab") as filler:
        filler.write(bytes(found.f_bavail * found.f_frsize - free_bytes))


class _FullError(Exception):
    """The writer's queue is full."""


def refuse_to_wait() -> None:
    raise _FullError


def test_a_full_disk_leaves_out_ok_pictures_then_all_and_no_row(small_disk: Path) -> None:
    engine = open_database(StorageConfig(url="sqlite:///zsad.db"), small_disk, {})
    revision.upgrade(engine)

    def store(first: int, verdict: Verdict) -> None:
        for seq in range(first, first + 20):
            writer.put(inspection(seq, verdict))
        wait_until(lambda: writer.counters.inspections >= first + 20, "20 frames to be stored")

    with writing(engine, small_disk / "spool", reserve_bytes=8 * MIB) as writer:
        store(0, Verdict.OK)
        leave_free(small_disk, 7 * MIB)
        store(20, Verdict.OK)
        store(40, Verdict.NG)
        leave_free(small_disk, 3 * MIB)
        store(60, Verdict.NG)
        leave_free(small_disk, 0)
        for seq in range(80, 1000):
            if writer.state.is_blocked:
                break
            try:
                writer.put(inspection(seq, Verdict.NG), on_wait=refuse_to_wait)
            except _FullError:  # the queue filled before the state said so
                break
        wait_until(lambda: writer.state.is_blocked, "the alarm")
        stored_while_full = writer.counters.inspections
        (small_disk / "filler").unlink()
        wait_until(lambda: writer.state == StorageState(), "normal storing")

    with engine.connect() as connection:
        rows = connection.scalar(select(func.count()).select_from(InspectionRow))
        pictures = set(
            connection.scalars(
                select(InspectionRow.seq).join(
                    ThumbnailRow, ThumbnailRow.inspection_id == InspectionRow.id
                )
            )
        )
        kinds = set(connection.scalars(select(EventRow.kind)))
        assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
    engine.dispose()
    assert stored_while_full < rows == seq
    assert pictures & set(range(80)) == {*range(20), *range(40, 60)}
    assert {EventKind.DISK_LOW, EventKind.DISK_RECOVERED, EventKind.STORAGE_BLOCKED} <= kinds
