"""Runs of the nightly job: what each did, how far it is, and how it ended.

Every function works in the caller's transaction. The one who calls `begin` holds the job's lock, so
a row that is still `running` then belongs to a process that died.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select, update

from daemon.core import Event, EventKind, Severity
from daemon.storage import rows
from daemon.storage.night_tables import JobRunRow, SnapshotItemRow
from daemon.storage.tables import EventRow

NIGHT = "night"
"""The kind of the runs here."""
MAX_DETAIL = 4000


class JobState(StrEnum):
    """How a run is or ended. The word is stored; it never changes."""

    RUNNING = "running"
    NOTHING = "nothing"  # there was nothing to learn; `detail` says why
    REFUSED = "refused"  # a candidate was trained, and the gate kept it out
    PROPOSED = "proposed"  # a candidate passed the gate
    FAILED = "failed"  # something was wrong that another night alone will not mend
    KILLED = "killed"  # it died or its window ended; the next night goes on where it was
    MISSED = "missed"  # the daemon was not running, or was too late


_SEVERITY = {
    JobState.FAILED: Severity.WARNING,
    JobState.KILLED: Severity.WARNING,
    JobState.MISSED: Severity.WARNING,
}
LEARNT = (JobState.REFUSED, JobState.PROPOSED)
"""Ends after which the same labels need not be learnt again."""


@dataclass(frozen=True, slots=True)
class JobRun:
    """One run.

    Attributes:
        due_utc: Start of the window it belongs to, or when a person asked for it.
        step, done, total: How far it is; `total` 0 where a step cannot be counted.
        attempts: How often it was begun.
        detail: Why it ended so, for people.
        latency_before_ms, latency_during_ms: Frame to verdict, p99; None where too few frames came.
    """

    id: int
    due_utc: datetime
    started_utc: datetime
    ended_utc: datetime | None
    state: JobState
    step: str
    done: int
    total: int
    attempts: int
    detail: str
    snapshot_id: int | None
    candidate: str | None
    report_json: str | None
    latency_before_ms: float | None
    latency_during_ms: float | None


def begin(connection: Connection, line: str, due_utc: datetime, now: datetime) -> int:
    """Note that a run starts, or goes on if it was begun for the same window; its id."""
    row = JobRunRow
    connection.execute(
        update(row)
        .where(row.line == line, row.kind == NIGHT, row.state == JobState.RUNNING)
        .values(state=JobState.KILLED, ended_utc=now, detail="it died; found at the next start")
    )
    known = connection.scalar(_of_line(line, row.id).where(row.due_utc == due_utc))
    if known is not None:
        connection.execute(
            update(row)
            .where(row.id == known)
            .values(state=JobState.RUNNING, ended_utc=None, attempts=row.attempts + 1, detail="")
        )
        return int(known)
    return _insert(
        connection,
        line,
        due_utc,
        now,
        state=JobState.RUNNING,
        ended_utc=None,
        attempts=1,
        detail="",
    )


def note_end_of_window(
    connection: Connection,
    line: str,
    due_utc: datetime,
    state: JobState,
    detail: str,
    now: datetime,
) -> bool:
    """A row for a window in which no run ended by itself; False if one did.

    Args:
        state: MISSED, FAILED or KILLED.
    """
    row = JobRunRow
    known = connection.execute(
        _of_line(line, row.id, row.state).where(row.due_utc == due_utc)
    ).one_or_none()
    if known is None:
        run_id = _insert(
            connection,
            line,
            due_utc,
            now,
            state=JobState.RUNNING,
            ended_utc=None,
            attempts=0,
            detail="",
        )
    elif known.state == JobState.RUNNING:
        run_id = known.id
    else:
        return False
    end(connection, line, run_id, state, detail, now)
    return True


def progress(connection: Connection, run_id: int, step: str, done: int = 0, total: int = 0) -> None:
    """How far a run is."""
    row = JobRunRow
    connection.execute(
        update(row).where(row.id == run_id).values(step=step, done=done, total=total)
    )


def use_snapshot(connection: Connection, run_id: int, snapshot_id: int) -> None:
    """What a run learns from."""
    row = JobRunRow
    connection.execute(update(row).where(row.id == run_id).values(snapshot_id=snapshot_id))


def end(
    connection: Connection,
    line: str,
    run_id: int,
    state: JobState,
    detail: str,
    now: datetime,
    *,
    candidate: str | None = None,
    report_json: str | None = None,
) -> None:
    """How a run ended, and everything that decided it; the diary says so too."""
    connection.execute(
        update(JobRunRow)
        .where(JobRunRow.id == run_id)
        .values(
            state=state,
            detail=detail[:MAX_DETAIL],
            ended_utc=now,
            candidate=candidate,
            report_json=report_json,
        )
    )
    severity = _SEVERITY.get(state, Severity.INFO)
    event = Event(EventKind.NIGHT, severity, now, f"night: {state.value}: {detail[:MAX_DETAIL]}")
    connection.execute(insert(EventRow).values(rows.of_event(line, event)))


def note_latency(
    connection: Connection,
    line: str,
    due_utc: datetime,
    before_ms: float | None,
    during_ms: float | None,
) -> None:
    """Frame to verdict before and while a run trained."""
    row = JobRunRow
    connection.execute(
        update(row)
        .where(row.line == line, row.kind == NIGHT, row.due_utc == due_utc)
        .values(latency_before_ms=before_ms, latency_during_ms=during_ms)
    )


def latest(connection: Connection, line: str) -> JobRun | None:
    """The run that was begun last."""
    found = connection.execute(
        _all(line).order_by(JobRunRow.started_utc.desc(), JobRunRow.id.desc()).limit(1)
    ).one_or_none()
    return None if found is None else _run(found)


def of_window(connection: Connection, line: str, due_utc: datetime) -> JobRun | None:
    """The run of one window; None if there is none."""
    found = connection.execute(_all(line).where(JobRunRow.due_utc == due_utc)).one_or_none()
    return None if found is None else _run(found)


def new_labels(connection: Connection, line: str, snapshot_id: int) -> int:
    """How many labels of a snapshot no earlier run has learnt from or was measured with."""
    row, item = JobRunRow, SnapshotItemRow
    learnt = connection.scalar(
        _of_line(line, func.max(row.snapshot_id)).where(row.state.in_(LEARNT))
    )
    old = select(item.label_id).where(item.snapshot_id == learnt)
    found = connection.scalar(
        select(func.count())
        .select_from(item)
        .where(item.snapshot_id == snapshot_id, item.label_id.not_in(old))
    )
    return int(found or 0)


def _insert(
    connection: Connection, line: str, due_utc: datetime, now: datetime, **values: object
) -> int:
    statement = (
        insert(JobRunRow)
        .values(
            line=line,
            kind=NIGHT,
            due_utc=due_utc,
            started_utc=now,
            step="",
            done=0,
            total=0,
            **values,
        )
        .returning(JobRunRow.id)
    )
    return connection.execute(statement).scalar_one()


def _of_line(line: str, *columns: Any) -> Select[Any]:  # SQLAlchemy's own signature
    row = JobRunRow
    return select(*columns).where(row.line == line, row.kind == NIGHT)


def _all(line: str) -> Select[Any]:
    return _of_line(line, JobRunRow.__table__)


def _run(found: Any) -> JobRun:  # a row
    return JobRun(
        id=found.id,
        due_utc=found.due_utc,
        started_utc=found.started_utc,
        ended_utc=found.ended_utc,
        state=JobState(found.state),
        step=found.step,
        done=found.done,
        total=found.total,
        attempts=found.attempts,
        detail=found.detail,
        snapshot_id=found.snapshot_id,
        candidate=found.candidate,
        report_json=found.report_json,
        latency_before_ms=found.latency_before_ms,
        latency_during_ms=found.latency_during_ms,
    )
