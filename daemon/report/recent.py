"""The newest inspections, losses and events that match a few filters; for people and scripts."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from daemon.core import LossReason, Severity, Verdict
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
