"""What changed of a window's models, and what the nights in it did."""

from dataclasses import fields
from datetime import datetime

from sqlalchemy import Connection, and_, or_, select

from daemon.report.contents import ModelChanged, Night
from daemon.storage.models import ModelChangeKind
from daemon.storage.night_tables import JobRunRow, ModelChangeRow

_SHOWN = tuple(
    kind.value
    for kind in ModelChangeKind
    if kind not in (ModelChangeKind.EXPORTED, ModelChangeKind.REMOVED)
)


def read_model_changes(
    connection: Connection, line: str, start_utc: datetime, end_utc: datetime
) -> tuple[ModelChanged, ...]:
    """Who or what changed the models in [start, end), oldest first."""
    row = ModelChangeRow
    query = (
        select(row.at_utc, row.kind, row.version, row.previous, row.author, row.reason)
        .where(
            row.line == line,
            row.at_utc >= start_utc,
            row.at_utc < end_utc,
            row.kind.in_(_SHOWN),
        )
        .order_by(row.at_utc, row.id)
    )
    return tuple(ModelChanged(*found) for found in connection.execute(query))


def read_nights(
    connection: Connection, line: str, start_utc: datetime, end_utc: datetime
) -> tuple[Night, ...]:
    """Runs of the nightly job that ended, or were due, in [start, end); oldest first."""
    row = JobRunRow
    query = (
        select(*(row.__table__.c[field.name] for field in fields(Night)))
        .where(
            row.line == line,
            or_(
                and_(row.due_utc >= start_utc, row.due_utc < end_utc),
                and_(row.ended_utc >= start_utc, row.ended_utc < end_utc),
            ),
        )
        .order_by(row.due_utc, row.id)
    )
    return tuple(Night(**found._mapping) for found in connection.execute(query))
