"""The newest rows of a kind that match a few filters; for people and scripts."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select

from daemon.core import LossReason, Severity, Verdict
from daemon.storage.night_tables import JobRunRow, ModelChangeRow
from daemon.storage.tables import EventRow, FrameLossRow, InspectionRow, ModelVersionRow


@dataclass(frozen=True, slots=True)
class Filters:
    """What to look for; None does not restrict. Times are [from_utc, to_utc)."""

    line: str
    camera: str | None = None
    category: str | None = None
    from_utc: datetime | None = None
    to_utc: datetime | None = None


@dataclass(frozen=True, slots=True)
class InspectionFound:
    """One inspection; see `daemon.storage.tables.InspectionRow`."""

    inspection_id: int
    received_utc: datetime
    camera: str
    category: str
    verdict: str
    pred_score: float | None
    review_threshold: float | None
    ng_threshold: float | None
    error_reason: str | None
    error_detail: str | None
    model_version: str
    epoch: int
    seq: int
    part_id: str | None
    lot: str | None


@dataclass(frozen=True, slots=True)
class LossFound:
    """One loss record; see `daemon.core.FrameLoss`."""

    lost_utc: datetime
    reason: str
    frames: int
    camera: str | None
    category: str | None
    epoch: int | None
    first_seq: int | None
    last_seq: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class EventFound:
    """One entry of the diary; see `daemon.core.Event`."""

    at_utc: datetime
    severity: str
    kind: str
    camera: str | None
    category: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class ModelChangeFound:
    """One change of a line's models; see `daemon.storage.models.ModelChange`."""

    at_utc: datetime
    kind: str
    version: str
    previous: str | None
    author: str
    reason: str


@dataclass(frozen=True, slots=True)
class NightFound:
    """One run of the nightly job; see `daemon.storage.night_tables.JobRunRow`."""

    due_utc: datetime
    started_utc: datetime
    ended_utc: datetime | None
    state: str
    step: str
    done: int
    total: int
    attempts: int
    detail: str
    candidate: str | None
    latency_before_ms: float | None
    latency_during_ms: float | None
    report_json: str | None


def recent_inspections(
    connection: Connection,
    filters: Filters,
    *,
    verdict: Verdict | None = None,
    part_id: str | None = None,
    limit: int,
) -> list[InspectionFound]:
    """At most `limit`, newest first."""
    row = InspectionRow
    query = (
        select(
            row.id,
            row.received_utc,
            row.camera,
            row.category,
            row.verdict,
            row.pred_score,
            row.review_threshold,
            row.ng_threshold,
            row.error_reason,
            row.error_detail,
            ModelVersionRow.name,
            row.epoch,
            row.seq,
            row.part_id,
            row.lot,
        )
        .join(ModelVersionRow, ModelVersionRow.id == row.model_version_id)
        .where(row.line == filters.line)
        .order_by(row.received_utc.desc(), row.id.desc())
        .limit(limit)
    )
    for column, wanted in (
        (row.camera, filters.camera),
        (row.category, filters.category),
        (row.verdict, verdict),
        (row.part_id, part_id),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if filters.from_utc is not None:
        query = query.where(row.received_utc >= filters.from_utc)
    if filters.to_utc is not None:
        query = query.where(row.received_utc < filters.to_utc)
    return [InspectionFound(*tuple(found)) for found in connection.execute(query)]


def recent_losses(
    connection: Connection, filters: Filters, *, reason: LossReason | None = None, limit: int
) -> list[LossFound]:
    """At most `limit`, newest first."""
    row = FrameLossRow
    query = (
        select(
            row.lost_utc,
            row.reason,
            row.frames,
            row.camera,
            row.category,
            row.epoch,
            row.first_seq,
            row.last_seq,
            row.detail,
        )
        .where(row.line == filters.line)
        .order_by(row.lost_utc.desc(), row.id.desc())
        .limit(limit)
    )
    for column, wanted in (
        (row.camera, filters.camera),
        (row.category, filters.category),
        (row.reason, reason),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if filters.from_utc is not None:
        query = query.where(row.lost_utc >= filters.from_utc)
    if filters.to_utc is not None:
        query = query.where(row.lost_utc < filters.to_utc)
    return [LossFound(*found) for found in connection.execute(query)]


def recent_events(
    connection: Connection, filters: Filters, *, severity: Severity | None = None, limit: int
) -> list[EventFound]:
    """At most `limit`, newest first."""
    row = EventRow
    query = (
        select(row.at_utc, row.severity, row.kind, row.camera, row.category, row.detail)
        .where(row.line == filters.line)
        .order_by(row.at_utc.desc(), row.id.desc())
        .limit(limit)
    )
    for column, wanted in (
        (row.camera, filters.camera),
        (row.category, filters.category),
        (row.severity, severity),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if filters.from_utc is not None:
        query = query.where(row.at_utc >= filters.from_utc)
    if filters.to_utc is not None:
        query = query.where(row.at_utc < filters.to_utc)
    return [EventFound(*found) for found in connection.execute(query)]


def recent_model_changes(
    connection: Connection, filters: Filters, *, limit: int
) -> list[ModelChangeFound]:
    """At most `limit`, newest first; cameras and categories do not restrict."""
    table = ModelChangeRow.__table__
    query = select(*(table.c[field.name] for field in fields(ModelChangeFound)))
    ordered = query.order_by(table.c.at_utc.desc(), table.c.id.desc()).limit(limit)
    return [
        ModelChangeFound(**found._mapping)
        for found in connection.execute(_within(ordered, table.c.line, table.c.at_utc, filters))
    ]


def recent_nights(connection: Connection, filters: Filters, *, limit: int) -> list[NightFound]:
    """At most `limit`, newest first; cameras and categories do not restrict."""
    table = JobRunRow.__table__
    query = select(*(table.c[field.name] for field in fields(NightFound)))
    ordered = query.order_by(table.c.due_utc.desc(), table.c.id.desc()).limit(limit)
    return [
        NightFound(**found._mapping)
        for found in connection.execute(_within(ordered, table.c.line, table.c.due_utc, filters))
    ]


def _within(
    query: Select[Any], line: ColumnElement[str], at_utc: ColumnElement[datetime], filters: Filters
) -> Select[Any]:
    query = query.where(line == filters.line)
    if filters.from_utc is not None:
        query = query.where(at_utc >= filters.from_utc)
    if filters.to_utc is not None:
        query = query.where(at_utc < filters.to_utc)
    return query
