import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select, text

from daemon.core import Event, EventKind, FrameLoss, Inspection, Severity
from daemon.errors import DatabaseAwayError
from daemon.storage.batch import Batch, Run, commit_batches
from daemon.storage.database import write_transaction
from daemon.storage.replay import Replayed, replay
from daemon.storage.repository import adopt_run, crashed_run
from daemon.storage.spool import Spool
from daemon.storage.tables import FrameLossRow, InspectionRow

RUN = Run("line1", datetime(2026, 1, 31, 5, tzinfo=UTC))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", 1 << 30)
    spool.open()
    yield spool
    spool.close()


def counts(engine: Engine) -> tuple[int, ...]:
    with engine.connect() as connection:
        return tuple(
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (InspectionRow, FrameLossRow)
        )


def run_replay(engine: Engine, spool: Spool, patience_s: float = 60.0) -> Replayed:
    return replay(engine, spool, patience_s=patience_s, stop=threading.Event())


def test_what_was_committed_before_the_crash_is_not_stored_again(
    line_engine: Engine,
    spool: Spool,
    make_inspection: Callable[..., Inspection],
    make_loss: Callable[..., FrameLoss],
) -> None:
    batches = [Batch(RUN, n, (make_inspection(n), make_loss(first=n))) for n in (1, 2, 3)]
    with write_transaction(line_engine) as connection:
        run_id = adopt_run(connection, RUN.line, RUN.started_utc)
    commit_batches(line_engine, run_id, batches[:1])
    for batch in batches:
        spool.append(batch)

    replayed = run_replay(line_engine, spool)

    assert counts(line_engine) == (3, 3)
    assert replayed == Replayed(batches=3, rejected=[])
    assert spool.oldest(1) == ()


def test_a_run_that_stopped_while_the_database_was_away_is_no_crash(
    line_engine: Engine, spool: Spool, make_inspection: Callable[..., Inspection]
) -> None:
    stopped = Event(EventKind.STOPPED, Severity.INFO, RUN.started_utc, "orderly")
    spool.append(Batch(RUN, 1, (make_inspection(1), stopped)))
    with write_transaction(line_engine) as connection:
        adopt_run(connection, RUN.line, RUN.started_utc)
        assert crashed_run(connection, RUN.line) == RUN.started_utc

    run_replay(line_engine, spool)

    with line_engine.connect() as connection:
        assert crashed_run(connection, RUN.line) is None


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None
)
@given(groups=st.lists(st.integers(1, 4), min_size=1, max_size=5), keep=st.integers(0, 20))
def test_however_batches_were_grouped_before_the_crash_each_is_stored_once(
    line_engine: Engine,
    tmp_path_factory: pytest.TempPathFactory,
    make_loss: Callable[..., FrameLoss],
    groups: list[int],
    keep: int,
) -> None:
    """`keep` batches have left the spool; the groups are committed, one batch more is not."""
    run = Run("line1", datetime.now(UTC))
    batches = [Batch(run, n, (make_loss(first=n),)) for n in range(1, sum(groups) + 2)]
    with write_transaction(line_engine) as connection:
        run_id = adopt_run(connection, run.line, run.started_utc)
    _, before = counts(line_engine)
    begin = 0
    for size in groups:
        commit_batches(line_engine, run_id, batches[begin : begin + size])
        begin += size
    with closing(Spool(tmp_path_factory.mktemp("spool"), 1 << 30)) as spool:
        spool.open()
        for batch in batches[min(keep, begin) :]:
            spool.append(batch)

        run_replay(line_engine, spool)

    assert counts(line_engine) == (0, before + len(batches))


def test_a_database_that_never_saw_the_run_takes_its_batches(
    line_engine: Engine, spool: Spool, make_loss: Callable[..., FrameLoss]
) -> None:
    spool.append(Batch(RUN, 17, (make_loss(first=1),)))
    spool.append(Batch(RUN, 18, (make_loss(first=2),)))

    run_replay(line_engine, spool)

    assert counts(line_engine) == (0, 2)


def test_a_batch_that_is_refused_for_good_is_put_aside_and_the_next_is_stored(
    line_engine: Engine,
    spool: Spool,
    make_inspection: Callable[..., Inspection],
    make_loss: Callable[..., FrameLoss],
) -> None:
    spool.append(Batch(RUN, 1, (make_inspection(1, model_version="unregistered"),)))
    spool.append(Batch(RUN, 2, (make_loss(first=2),)))

    replayed = run_replay(line_engine, spool)

    assert counts(line_engine) == (0, 1)
    assert [path.exists() for path in replayed.rejected] == [True]


def test_of_many_batches_only_the_refused_one_is_put_aside(
    line_engine: Engine,
    spool: Spool,
    make_inspection: Callable[..., Inspection],
    make_loss: Callable[..., FrameLoss],
) -> None:
    for number in range(1, 8):
        bad = make_inspection(number, model_version="unregistered")
        spool.append(Batch(RUN, number, (bad if number == 4 else make_loss(first=number),)))

    replayed = run_replay(line_engine, spool)

    assert counts(line_engine) == (0, 6)
    assert (replayed.batches, len(replayed.rejected)) == (6, 1)


def test_a_start_without_the_database_keeps_the_spool(
    line_engine: Engine, spool: Spool, make_loss: Callable[..., FrameLoss]
) -> None:
    spool.append(Batch(RUN, 1, (make_loss(first=1),)))
    with write_transaction(line_engine) as connection:
        if line_engine.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE daemon_run IN ACCESS EXCLUSIVE MODE"))

        with pytest.raises(DatabaseAwayError, match="1 batches wait"):
            run_replay(line_engine, spool, patience_s=0)

    run_replay(line_engine, spool)
    assert counts(line_engine) == (0, 1)
