"""Removes what is older than configured, in chunks; protects what somebody has labelled.

Each chunk is one short transaction, so that results are stored in between. Knows no schedule.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Engine, Select, delete, func, select
from sqlalchemy.orm import InstrumentedAttribute

from daemon.config.retention import RetentionConfig
from daemon.storage import frame_columns, partitions
from daemon.storage.database import write_transaction
from daemon.storage.tables import InspectionRow, LabelRow, RegionRow, ThumbnailRow

CHUNK_ROWS = 200
BUDGET_ORDER = ("OK", "LEARNING", "REVIEW")


@dataclass(frozen=True, slots=True)
class Rule:
    """What may go.

    Attributes:
        before: By the daemon's time of receipt.
        keep_one_of: Of the pictures one in so many stays.
    """

    what: Literal["pictures", "rows"]
    verdict: str
    before: datetime
    keep_one_of: int | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """What one chunk removed, or a dry run would remove.

    Attributes:
        picture_bytes: Of the pictures; rows are small against them.
    """

    what: Literal["pictures", "rows"]
    verdict: str
    count: int
    picture_bytes: int


def rules_of(config: RetentionConfig, now: datetime) -> list[Rule]:
    """The configured ages as instants: rows first, for their pictures go with them."""
    rules = [
        Rule("rows", verdict, now - timedelta(days=days))
        for verdict, days in config.rows_days.items()
    ]
    rules += [
        Rule("pictures", verdict, now - timedelta(days=days))
        for verdict, days in config.pictures_days.items()
    ]
    if (sample := config.sample_ok) is not None:
        before = now - timedelta(days=sample.after_days)
        rules.append(Rule("pictures", "OK", before, sample.keep_one_of))
    return rules


def is_protected(inspection_id: InstrumentedAttribute[int]) -> ColumnElement[bool]:
    """Whether nothing may remove an inspection or its pictures: somebody has labelled it."""
    return inspection_id.in_(select(LabelRow.inspection_id))


def preview(connection: Connection, rules: list[Rule]) -> list[Removed]:
    """What `prune` would remove; one that two rules name is counted under both."""
    found = []
    for rule in rules:
        due = _due(rule).subquery()
        count, size = connection.execute(
            select(func.count(), func.coalesce(func.sum(_picture_bytes()), 0)).select_from(
                due.outerjoin(ThumbnailRow, ThumbnailRow.inspection_id == due.c.id)
            )
        ).one()
        found.append(Removed(rule.what, rule.verdict, count, int(size)))
    return found


def prune(engine: Engine, rules: list[Rule]) -> Iterator[Removed]:
    """Remove chunk by chunk; go on with the iterator whenever there is time."""
    if engine.dialect.name == "postgresql":
        yield from _drop_days(engine, rules)
    for rule in rules:
        yield from _remove_due(engine, rule)


def shrink(engine: Engine, excess_bytes: int, now: datetime) -> Iterator[Removed]:
    """Remove the oldest pictures until `excess_bytes` are gone, or no more may go."""
    for verdict in BUDGET_ORDER:
        if excess_bytes <= 0:
            return
        for removed in _remove_due(engine, Rule("pictures", verdict, now)):
            yield removed
            excess_bytes -= removed.picture_bytes
            if excess_bytes <= 0:
                return


def _due(rule: Rule, begin: datetime | None = None) -> Select[Any]:
    """Ids and times of what a rule names, oldest first."""
    if rule.what == "rows":
        row: Any = InspectionRow
        number = InspectionRow.id
    else:
        row = ThumbnailRow
        number = ThumbnailRow.inspection_id
    query = (
        select(number.label("id"), row.received_utc)
        .where(row.verdict == rule.verdict, row.received_utc < rule.before)
        .where(~is_protected(number))
        .order_by(row.received_utc)
    )
    if begin is not None:
        query = query.where(row.received_utc >= begin)
    if rule.keep_one_of is not None:
        query = query.where(number % rule.keep_one_of != 0)
    return query


def _remove_due(engine: Engine, rule: Rule) -> Iterator[Removed]:
    begin = None
    while True:
        with write_transaction(engine) as connection:
            found = connection.execute(_due(rule, begin).limit(CHUNK_ROWS)).all()
            if not found:
                return
            begin = found[-1].received_utc  # what stays before it is not looked at again
            removed = _remove(connection, rule, [row.id for row in found])
            if rule.what == "rows":
                frame_columns.forget(connection, {row.received_utc for row in found})
        yield removed


def _remove(connection: Connection, rule: Rule, ids: list[int]) -> Removed:
    pictures = ThumbnailRow.inspection_id.in_(ids), ThumbnailRow.verdict == rule.verdict
    size = connection.scalar(select(func.coalesce(func.sum(_picture_bytes()), 0)).where(*pictures))
    connection.execute(delete(ThumbnailRow).where(*pictures))
    if rule.what == "rows":
        connection.execute(delete(RegionRow).where(RegionRow.inspection_id.in_(ids)))
        connection.execute(delete(InspectionRow).where(InspectionRow.id.in_(ids)))
    return Removed(rule.what, rule.verdict, len(ids), int(size or 0))


def _drop_days(engine: Engine, rules: list[Rule]) -> Iterator[Removed]:
    """Whole days, where neither OK nor LEARNING pictures of the day are to be kept."""
    ages = {
        rule.verdict: rule.before
        for rule in rules
        if rule.what == "pictures" and rule.keep_one_of is None
    }
    if not {"OK", "LEARNING"} <= ages.keys():
        return
    with engine.connect() as connection:
        days = partitions.expired(partitions.days(connection), min(ages["OK"], ages["LEARNING"]))
    for day in days:
        row = ThumbnailRow
        of_day = (
            row.verdict.in_(("OK", "LEARNING")),
            row.received_utc >= partitions.begin_of(day),
            row.received_utc < partitions.end_of(day),
        )
        with write_transaction(engine) as connection:
            protected = select(row.inspection_id).where(*of_day, is_protected(row.inspection_id))
            if connection.execute(protected.limit(1)).first() is not None:
                continue  # the others of the day go one by one
            found = connection.execute(
                select(row.verdict, func.count(), func.sum(_picture_bytes()))
                .where(*of_day)
                .group_by(row.verdict)
            ).all()
            partitions.drop_day(connection, day)
        for verdict, count, size in found:
            yield Removed("pictures", verdict, count, int(size))


def _picture_bytes() -> ColumnElement[int]:
    return (
        func.length(ThumbnailRow.photo_jpeg)
        + func.length(ThumbnailRow.overlay_jpeg)
        + func.length(ThumbnailRow.map_png)
    )
