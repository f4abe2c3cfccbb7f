"""Which model a line inspects with, which one waits beside it, and who changed that, and why.

Every function works in the caller's transaction, and each change is one: what is in force, its
`model_change` row and its entry in the diary are there together or not at all.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from daemon.core import Event, EventKind, Severity
from daemon.errors import StorageError
from daemon.storage import rows
from daemon.storage.night_tables import ActiveModelRow, CandidateModelRow, ModelChangeRow
from daemon.storage.tables import EventRow

MAX_REASON = 4000
_CHANGE = ("kind", "at_utc", "version", "previous", "author", "reason")


class ModelChangeKind(StrEnum):
    """What happened to a model. The word is stored; it never changes."""

    PROPOSED = "proposed"  # it scores live frames beside the active one
    PROMOTED = "promoted"  # it is the active one
    REJECTED = "rejected"  # a candidate that will not become active
    ROLLED_BACK = "rolled_back"  # it was active, and the one before it is again
    CONFIRMED = "confirmed"  # its verdicts stayed in their band for as long as they are watched
    FAILED = "failed"  # it was to be active and cannot run; what ran goes on
    IMPORTED = "imported"
    EXPORTED = "exported"
    REMOVED = "removed"  # its files, to make room


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """The model that a line is to inspect with; a running daemon follows within seconds.

    Attributes:
        previous: What a roll-back returns to; `version` itself where there is nothing.
    """

    version: str
    previous: str
    since_utc: datetime


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that scores live frames beside the active one.

    Attributes:
        wanted_frames: After so many it is decided whether it becomes active.
    """

    version: str
    since_utc: datetime
    wanted_frames: int


@dataclass(frozen=True, slots=True)
class ModelChange:
    """One entry of the audit trail.

    Attributes:
        previous: What a promoted model took the place of; after a roll-back or a failure, what is
            active again.
        author: A person, or the part of the program that decided.
    """

    kind: ModelChangeKind
    at_utc: datetime
    version: str
    previous: str | None
    author: str
    reason: str


def active(connection: Connection, line: str) -> ActiveModel | None:
    """The active model; None where the configured one never had a successor."""
    row = ActiveModelRow
    found = connection.execute(
        select(row.version, row.previous, row.since_utc).where(row.line == line)
    ).one_or_none()
    return None if found is None else ActiveModel(*found)


def candidate(connection: Connection, line: str) -> Candidate | None:
    """The model that waits for its decision; a line has one at most."""
    row = CandidateModelRow
    found = connection.execute(
        select(row.version, row.since_utc, row.wanted_frames).where(row.line == line)
    ).one_or_none()
    return None if found is None else Candidate(*found)


def propose(
    connection: Connection,
    line: str,
    version: str,
    wanted_frames: int,
    author: str,
    reason: str,
    now: datetime,
) -> None:
    """Let a model score live frames beside the active one; an earlier candidate gives way.

    Raises:
        StorageError: It was taken back or rejected before, or is active already.
    """
    in_force = active(connection, line)
    if in_force is not None and in_force.version == version:
        raise StorageError(f"model {version} is active on line {line!r} already")
    if (barred := _barred_by(connection, line, version)) is not None:
        raise StorageError(
            f"model {version} was {barred.kind.value} at {barred.at_utc:%Y-%m-%d %H:%M} UTC "
            f"({barred.reason}); it is not proposed again, only a person can promote it"
        )
    waiting = candidate(connection, line)
    if waiting is not None and waiting.version != version:
        reject(connection, line, waiting.version, author, f"{version} takes its place", now)
    _drop_candidate(connection, line)
    connection.execute(
        insert(CandidateModelRow).values(
            line=line, version=version, since_utc=now, wanted_frames=wanted_frames
        )
    )
    change = ModelChange(ModelChangeKind.PROPOSED, now, version, None, author, reason)
    _note(connection, line, change, EventKind.MODEL_PROPOSED, Severity.INFO)


def promote(
    connection: Connection,
    line: str,
    version: str,
    *,
    instead_of: str,
    author: str,
    reason: str,
    now: datetime,
) -> None:
    """Make a model the active one.

    Args:
        instead_of: The active one until now, as the caller knows it.

    Raises:
        StorageError: Another model became active meanwhile, or it is this one.
    """
    in_force = active(connection, line)
    if in_force is not None and in_force.version != instead_of:
        raise StorageError(
            f"model {in_force.version} became active on line {line!r} meanwhile, not {instead_of}; "
            "look again with `zsad model list`"
        )
    if version == instead_of:
        raise StorageError(f"model {version} is active on line {line!r} already")
    _set_active(connection, line, ActiveModel(version, instead_of, now))
    waiting = candidate(connection, line)
    if waiting is not None and waiting.version == version:
        _drop_candidate(connection, line)
    change = ModelChange(ModelChangeKind.PROMOTED, now, version, instead_of, author, reason)
    _note(connection, line, change, EventKind.MODEL_PROMOTED, Severity.INFO)


def reject(
    connection: Connection, line: str, version: str, author: str, reason: str, now: datetime
) -> None:
    """Take a candidate out of the running for good.

    Raises:
        StorageError: It is not the candidate.
    """
    waiting = candidate(connection, line)
    if waiting is None or waiting.version != version:
        found = "there is none" if waiting is None else f"it is {waiting.version}"
        raise StorageError(f"model {version} is not the candidate of line {line!r}: {found}")
    _drop_candidate(connection, line)
    change = ModelChange(ModelChangeKind.REJECTED, now, version, None, author, reason)
    _note(connection, line, change, EventKind.MODEL_REJECTED, Severity.WARNING)


def roll_back(
    connection: Connection, line: str, version: str, author: str, reason: str, now: datetime
) -> ActiveModel:
    """Return to the model before the active one, which is never proposed again.

    Args:
        version: The active one, as the caller knows it.

    Returns:
        What is active now.

    Raises:
        StorageError: There is no model before it, or another one became active meanwhile.
    """
    in_force = active(connection, line)
    if in_force is not None and in_force.version != version:
        raise StorageError(
            f"model {in_force.version} became active on line {line!r} meanwhile, not {version}; "
            "look again with `zsad model list`"
        )
    if in_force is None or in_force.previous == in_force.version:
        raise StorageError(
            f"line {line!r} has no earlier model to return to: "
            + ("the configured one" if in_force is None else in_force.version)
            + " has had no predecessor"
        )
    back = in_force.previous
    change = ModelChange(ModelChangeKind.ROLLED_BACK, now, in_force.version, back, author, reason)
    _note(connection, line, change, EventKind.MODEL_ROLLED_BACK, Severity.ALARM)
    now_active = ActiveModel(back, _before(connection, line, back), now)
    _set_active(connection, line, now_active)
    return now_active


def set_back(
    connection: Connection, line: str, failed: str, running: str, reason: str, now: datetime
) -> None:
    """Let the database say what really runs, where the model it named cannot.

    Changes nothing where another model became active meanwhile.
    """
    in_force = active(connection, line)
    if in_force is not None and in_force.version != failed:
        return
    previous = _before(connection, line, running)
    _set_active(connection, line, ActiveModel(running, previous, now))
    change = ModelChange(ModelChangeKind.FAILED, now, failed, running, "daemon", reason)
    _note(connection, line, change, EventKind.MODEL_BAD, Severity.ALARM)


def confirm(connection: Connection, line: str, version: str, reason: str, now: datetime) -> None:
    """Note that a new model's verdicts stayed in their band: it is no longer watched."""
    change = ModelChange(ModelChangeKind.CONFIRMED, now, version, None, "watch", reason)
    _note(connection, line, change, EventKind.MODEL_CONFIRMED, Severity.INFO)


def note_files(
    connection: Connection,
    line: str,
    kind: ModelChangeKind,
    version: str,
    author: str,
    reason: str,
    now: datetime,
) -> None:
    """Note that a model's files came, went or were copied; which model is active stays."""
    _insert_change(connection, line, ModelChange(kind, now, version, None, author, reason))


def changes(connection: Connection, line: str, since: datetime) -> list[ModelChange]:
    """The audit trail from an instant on, oldest first."""
    row = ModelChangeRow
    found = connection.execute(
        _select_changes(line).where(row.at_utc >= since).order_by(row.at_utc, row.id)
    )
    return [_to_change(change) for change in found]


def last_change(
    connection: Connection, line: str, version: str, *kinds: ModelChangeKind
) -> ModelChange | None:
    """The newest change of one model, of these kinds; None if there was none."""
    row = ModelChangeRow
    found = connection.execute(
        _select_changes(line)
        .where(row.version == version, row.kind.in_([kind.value for kind in kinds]))
        .order_by(row.at_utc.desc(), row.id.desc())
        .limit(1)
    ).one_or_none()
    return None if found is None else _to_change(found)


def _select_changes(line: str) -> Select[Any]:
    return select(*(ModelChangeRow.__table__.c[name] for name in _CHANGE)).where(
        ModelChangeRow.line == line
    )


def _to_change(found: Row[Any]) -> ModelChange:
    return ModelChange(
        kind=ModelChangeKind(found.kind),
        at_utc=found.at_utc,
        version=found.version,
        previous=found.previous,
        author=found.author,
        reason=found.reason,
    )


def _barred_by(connection: Connection, line: str, version: str) -> ModelChange | None:
    """Why a model may not be proposed; a promotion since then lifts that."""
    kinds = ModelChangeKind
    last = last_change(connection, line, version, kinds.REJECTED, kinds.ROLLED_BACK, kinds.PROMOTED)
    return None if last is None or last.kind is kinds.PROMOTED else last


def _before(connection: Connection, line: str, version: str) -> str:
    """What a model took the place of when it was promoted; itself where that was taken back."""
    last = last_change(connection, line, version, ModelChangeKind.PROMOTED)
    if last is None or last.previous is None:
        return version
    return version if _barred_by(connection, line, last.previous) else last.previous


def _set_active(connection: Connection, line: str, model: ActiveModel) -> None:
    values = {
        "version": model.version,
        "previous": model.previous,
        "since_utc": model.since_utc,
    }
    row = ActiveModelRow
    done = connection.execute(update(row).where(row.line == line).values(values))
    if done.rowcount == 0:
        connection.execute(insert(row).values(line=line, **values))


def _drop_candidate(connection: Connection, line: str) -> None:
    connection.execute(delete(CandidateModelRow).where(CandidateModelRow.line == line))


def _note(
    connection: Connection, line: str, change: ModelChange, kind: EventKind, severity: Severity
) -> None:
    """The audit trail, and the diary."""
    _insert_change(connection, line, change)
    detail = f"model {change.version} {change.kind.value} by {change.author}: {change.reason}"
    event = Event(kind, severity, change.at_utc, detail)
    connection.execute(insert(EventRow).values(rows.of_event(line, event)))


def _insert_change(connection: Connection, line: str, change: ModelChange) -> None:
    connection.execute(
        insert(ModelChangeRow).values(
            line=line,
            at_utc=change.at_utc,
            kind=change.kind.value,
            version=change.version,
            previous=change.previous,
            author=rows.storable(change.author, rows.MAX_NAME),
            reason=rows.storable(change.reason, MAX_REASON),
        )
    )
