from collections.abc import Callable
from datetime import datetime, timedelta

from night_frames import BOTH, LINE, NOW, inspection
from sqlalchemy import Engine, select

from daemon.storage import job_runs
from daemon.storage.database import write_transaction
from daemon.storage.job_runs import JobRun, JobState
from daemon.storage.tables import EventRow
from daemon.training.snapshot import take_snapshot

DUE = NOW - timedelta(hours=1)


def run_of(engine: Engine, due: datetime = DUE) -> JobRun | None:
    with engine.connect() as connection:
        return job_runs.of_window(connection, LINE, due)


def begin(engine: Engine, due: datetime = DUE) -> int:
    with write_transaction(engine) as connection:
        return job_runs.begin(connection, LINE, due, NOW)


def end(engine: Engine, run_id: int, state: JobState) -> None:
    with write_transaction(engine) as connection:
        job_runs.end(connection, LINE, run_id, state, "because", NOW)


@BOTH
def test_a_run_that_died_is_closed_by_the_next_one(line_engine: Engine) -> None:
    begin(line_engine)

    begin(line_engine, NOW)

    died, alive = run_of(line_engine), run_of(line_engine, NOW)
    assert died is not None
    assert alive is not None
    assert (died.state, died.ended_utc) == (JobState.KILLED, NOW)
    assert (alive.state, alive.ended_utc) == (JobState.RUNNING, None)


def test_the_same_window_goes_on_in_its_own_row(line_engine: Engine) -> None:
    first = begin(line_engine)

    second = begin(line_engine)

    found = run_of(line_engine)
    assert found is not None
    assert (first, found.attempts, found.state) == (second, 2, JobState.RUNNING)


def test_an_end_is_told_in_the_diary(line_engine: Engine) -> None:
    end(line_engine, begin(line_engine), JobState.REFUSED)

    with line_engine.connect() as connection:
        (event,) = connection.execute(select(EventRow.kind, EventRow.detail))
    assert tuple(event) == ("night", "night: refused: because")


def test_what_a_run_said_itself_is_not_overwritten(line_engine: Engine) -> None:
    end(line_engine, begin(line_engine), JobState.PROPOSED)

    with write_transaction(line_engine) as connection:
        noted = job_runs.note_end_of_window(
            connection, LINE, DUE, JobState.FAILED, "it ended with code 1", NOW
        )

    found = run_of(line_engine)
    assert not noted
    assert found is not None
    assert found.state == JobState.PROPOSED


def test_a_window_without_a_run_gets_a_row_that_says_why(line_engine: Engine) -> None:
    with write_transaction(line_engine) as connection:
        job_runs.note_end_of_window(connection, LINE, DUE, JobState.MISSED, "too late", NOW)

    found = run_of(line_engine)
    assert found is not None
    assert (found.state, found.attempts, found.detail) == (JobState.MISSED, 0, "too late")


@BOTH
def test_labels_are_new_until_a_run_has_learnt_from_them(
    line_engine: Engine,
    store: Callable[..., None],
    say: Callable[..., None],
    frames_dir: object,
) -> None:
    store(*(inspection(seq) for seq in (1, 2, 3)))
    say(1, "OK")
    say(2, "NG")
    first = take_snapshot(line_engine, LINE, NOW, frames_dir)

    def new(snapshot_id: int) -> int:
        with line_engine.connect() as connection:
            return job_runs.new_labels(connection, LINE, snapshot_id)

    assert new(first.id) == 2
    learn = begin(line_engine)
    with write_transaction(line_engine) as connection:
        job_runs.use_snapshot(connection, learn, first.id)
    end(line_engine, learn, JobState.FAILED)
    assert new(first.id) == 2  # it learnt nothing
    end(line_engine, learn, JobState.REFUSED)
    assert new(first.id) == 0
    say(3, "OK")
    say(1, "NG")  # a correction
    assert new(take_snapshot(line_engine, LINE, NOW, frames_dir).id) == 2
