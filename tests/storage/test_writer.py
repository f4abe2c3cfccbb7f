import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, func, select, text
from sqlalchemy.exc import OperationalError

from daemon.core import Calibration, EventKind, FrameLoss, Inspection, LossReason
from daemon.errors import StorageError
from daemon.storage import repository
from daemon.storage.batch import BATCH_SIZE, Result
from daemon.storage.database import write_transaction
from daemon.storage.replay import replay
from daemon.storage.spool import Spool
from daemon.storage.tables import DaemonRunRow, EventRow, FrameLossRow, InspectionRow, ThumbnailRow
from daemon.storage.watch import StorageState
from daemon.storage.writer import Writer

MakeInspection = Callable[..., Inspection]
MakeLoss = Callable[..., FrameLoss]


class Line:
    """A writer, and what it reported."""

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        max_results: int = 256,
        spool_bytes: int = 1 << 30,
        reserve_bytes: int = 0,
    ) -> None:
        self.batches: list[Sequence[Result]] = []
        self.spooled: list[Result] = []
        self.failed = threading.Event()
        self.spool = Spool(folder / "spool", spool_bytes)
        self.spool.open()
        self.writer = Writer(
            engine,
            line="line1",
            spool=self.spool,
            reserve_bytes=reserve_bytes,
            max_results=max_results,
            on_failure=self.failed.set,
            on_commit=self.batches.append,
            on_spooled=self.spooled.extend,
        )
        self.writer.start()

    def stop(self, timeout_s: float = 20.0) -> None:
        try:
            self.writer.stop(timeout_s)
        finally:
            self.spool.close()


@contextmanager
def locked(engine: Engine) -> Iterator[None]:
    """Another program holds the lock that the writer needs."""
    with write_transaction(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE daemon_run IN ACCESS EXCLUSIVE MODE"))
        yield


def wait_until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    tick, give_up_at = threading.Event(), time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up_at
        tick.wait(0.005)


def stored(engine: Engine, table: type[InspectionRow | FrameLossRow]) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def kinds(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(select(EventRow.kind)))


def test_stop_stores_everything_that_was_put(
    tmp_path: Path,
    line_engine: Engine,
    make_inspection: MakeInspection,
    make_loss: MakeLoss,
    calibration: Calibration,
) -> None:
    line = Line(line_engine, tmp_path)

    line.writer.put(calibration)
    for seq in range(150):
        line.writer.put(make_inspection(seq) if seq % 2 else make_loss(first=seq))
    line.stop()

    assert (stored(line_engine, InspectionRow), stored(line_engine, FrameLossRow)) == (75, 75)
    counters = line.writer.counters
    assert (counters.inspections, counters.losses, counters.calibrations) == (75, 75, 1)
    assert sum(map(len, line.batches)) == 151
    with line_engine.connect() as connection:
        assert repository.current_calibrations(connection, "aa-clip-1") == [calibration]
        run = connection.execute(select(DaemonRunRow)).one()
    assert run.stopped_utc - run.started_utc < timedelta(minutes=1)
    assert run.last_batch == counters.batches == len(line.batches)


def test_a_backlog_leaves_in_full_batches(
    tmp_path: Path, line_engine: Engine, make_inspection: MakeInspection
) -> None:
    line = Line(line_engine, tmp_path, max_results=8 * BATCH_SIZE)
    with locked(line_engine):
        for seq in range(1 + 2 * BATCH_SIZE):
            line.writer.put(make_inspection(seq))
        wait_until(lambda: line.writer.counters.retries > 0)

    line.stop()

    sizes = [len(batch) for batch in line.batches]
    assert max(sizes) == BATCH_SIZE
    stored = [item for batch in line.batches for item in batch if isinstance(item, Inspection)]
    assert len(stored) == 1 + 2 * BATCH_SIZE  # beside them an event, if they went to the spool
    assert len(sizes) <= 4


def test_a_locked_database_postpones_and_loses_nothing(
    tmp_path: Path, line_engine: Engine, make_inspection: MakeInspection
) -> None:
    line = Line(line_engine, tmp_path)
    with locked(line_engine):
        line.writer.put(make_inspection(0))
        wait_until(lambda: line.writer.counters.retries > 0)
        assert line.writer.counters.inspections == 0

    line.stop()

    assert stored(line_engine, InspectionRow) == 1
    assert line.writer.error is None


def test_a_full_spool_blocks_until_the_database_is_back(
    line_engine: Engine, tmp_path: Path, make_inspection: MakeInspection
) -> None:
    line = Line(line_engine, tmp_path, max_results=2, spool_bytes=100)
    blocked = threading.Event()

    def put_all() -> None:
        for seq in range(BATCH_SIZE + 10):
            line.writer.put(make_inspection(seq), on_wait=blocked.set)

    producer = threading.Thread(target=put_all)
    with locked(line_engine):
        producer.start()
        assert blocked.wait(20)
        wait_until(lambda: line.writer.state.is_blocked)
    producer.join(20)
    line.stop()

    assert stored(line_engine, InspectionRow) == BATCH_SIZE + 10
    assert line.spooled == []
    assert EventKind.STORAGE_BLOCKED in kinds(line_engine)


def test_put_does_not_wait_while_the_spool_has_room(
    line_engine: Engine, tmp_path: Path, make_inspection: MakeInspection, make_loss: MakeLoss
) -> None:
    line = Line(line_engine, tmp_path, max_results=64)
    with locked(line_engine):
        for seq in range(1000):
            line.writer.put(make_inspection(seq) if seq % 10 else make_loss(first=seq))
        wait_until(lambda: len(line.spooled) >= 1000)
    wait_until(lambda: line.writer.state == StorageState())

    line.stop()

    assert (stored(line_engine, InspectionRow), stored(line_engine, FrameLossRow)) == (900, 100)
    assert line.writer.counters.duplicates == 0
    with line_engine.connect() as connection:
        seqs = connection.scalars(select(InspectionRow.seq).order_by(InspectionRow.id)).all()
        pictures = connection.scalar(select(func.count()).select_from(ThumbnailRow))
    assert seqs == sorted(seqs)
    assert pictures == 900
    assert {EventKind.SPOOLING, EventKind.SPOOL_EMPTY} <= kinds(line_engine)
    assert list((tmp_path / "spool").glob("*.spool")) == []


def test_what_the_database_did_not_take_is_stored_at_the_next_start(
    line_engine: Engine,
    tmp_path: Path,
    make_inspection: MakeInspection,
    make_loss: MakeLoss,
    calibration: Calibration,
) -> None:
    line = Line(line_engine, tmp_path)
    with locked(line_engine):
        for result in (make_inspection(0), make_loss(first=1), calibration):
            line.writer.put(result)
        line.stop(timeout_s=0.1)

    for _ in range(2):
        spool = Spool(tmp_path / "spool", 1 << 30)
        spool.open()
        replay(line_engine, spool, stop=threading.Event())
        spool.close()

    assert (stored(line_engine, InspectionRow), stored(line_engine, FrameLossRow)) == (1, 1)
    with line_engine.connect() as connection:
        assert repository.current_calibrations(connection, "aa-clip-1") == [calibration]


def test_a_blocked_put_is_released_with_an_error_when_the_writer_dies(
    tmp_path: Path, line_engine: Engine, make_inspection: MakeInspection
) -> None:
    line = Line(line_engine, tmp_path, max_results=1)
    raised: list[StorageError] = []

    def put_until_refused() -> None:
        try:
            while True:
                line.writer.put(make_inspection(0, model_version="unregistered"))
        except StorageError as error:
            raised.append(error)

    producer = threading.Thread(target=put_until_refused)
    producer.start()
    producer.join(20)

    assert line.failed.wait(20)
    assert "unregistered" in str(raised[0])
    with pytest.raises(StorageError, match="not everything was stored"):
        line.stop()


def test_nothing_is_taken_after_stop(
    tmp_path: Path, sqlite_engine: Engine, make_inspection: MakeInspection
) -> None:
    line = Line(sqlite_engine, tmp_path)
    line.stop()

    with pytest.raises(StorageError, match="stopped"):
        line.writer.put(make_inspection(0))


def test_stop_says_so_when_not_even_the_spool_takes_what_waits(
    line_engine: Engine, tmp_path: Path, make_inspection: MakeInspection
) -> None:
    line = Line(line_engine, tmp_path, spool_bytes=100)

    with locked(line_engine):
        line.writer.put(make_inspection(0))
        with pytest.raises(StorageError, match="given up at stop"):
            line.stop(timeout_s=0.1)


def test_a_repeated_frame_is_counted_as_duplicate(
    tmp_path: Path, line_engine: Engine, make_inspection: MakeInspection
) -> None:
    line = Line(line_engine, tmp_path)

    for seq in (1, 2, 1):
        line.writer.put(make_inspection(seq))
    line.stop()

    assert (line.writer.counters.inspections, line.writer.counters.duplicates) == (2, 1)


def test_a_commit_whose_answer_is_lost_is_not_stored_twice(
    tmp_path: Path, line_engine: Engine, make_inspection: MakeInspection, make_loss: MakeLoss
) -> None:
    line = Line(line_engine, tmp_path)
    lost_answers = 0

    @event.listens_for(line_engine, "commit")
    def commit_but_report_failure(connection: Connection) -> None:
        nonlocal lost_answers
        if lost_answers == 0:
            lost_answers += 1
            connection.connection.dbapi_connection.commit()
            raise OperationalError(
                "COMMIT", None, Exception("connection lost"), connection_invalidated=True
            )

    line.writer.put(make_inspection(0))
    line.writer.put(make_loss(LossReason.GAP, 1, 5))
    line.stop()

    assert line.writer.counters.retries == 1
    assert (stored(line_engine, InspectionRow), stored(line_engine, FrameLossRow)) == (1, 1)
    assert sum(map(len, line.batches)) == 2


def test_killed_server_connections_lose_and_double_nothing(
    tmp_path: Path,
    postgres_engine: Engine,
    register: Callable[[Engine], None],
    make_inspection: MakeInspection,
    make_loss: MakeLoss,
) -> None:
    register(postgres_engine)
    line = Line(postgres_engine, tmp_path)

    for seq in range(1200):
        line.writer.put(make_inspection(seq) if seq % 2 else make_loss(first=seq))
        if seq % 200 == 199:
            with postgres_engine.connect() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
    line.stop()

    assert (stored(postgres_engine, InspectionRow), stored(postgres_engine, FrameLossRow)) == (
        600,
        600,
    )
    assert line.writer.counters.duplicates == 0
