"""The database as outbox: stored verdicts after a cursor, and the cursor of each receiver.

One daemon's writer is the only one that inserts for its line, so ids grow in the order of commits.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from daemon.core import LossReason, Region, Verdict
from daemon.storage.tables import DeliveryCursorRow, InspectionRow, ModelVersionRow, RegionRow
from daemon.verdict_message import VerdictMessage


def open_cursor(connection: Connection, line: str, receiver: str) -> int:
    """Where a receiver stands; a new one starts behind what is already stored."""
    row = DeliveryCursorRow
    last_id = connection.scalar(
        select(row.last_id).where(row.line == line, row.receiver == receiver)
    )
    if last_id is None:
        last_id = connection.scalar(select(func.coalesce(func.max(InspectionRow.id), 0)))
        connection.execute(insert(row).values(line=line, receiver=receiver, last_id=last_id))
    return int(last_id or 0)


def move_cursor(connection: Connection, line: str, receiver: str, last_id: int) -> None:
    """The receiver has confirmed everything up to `last_id`."""
    row = DeliveryCursorRow
    connection.execute(
        update(row).where(row.line == line, row.receiver == receiver).values(last_id=last_id)
    )


def verdicts_after(
    connection: Connection, line: str, after_id: int, verdicts: Sequence[str], limit: int
) -> tuple[int, list[VerdictMessage]]:
    """At most `limit` wanted verdicts behind `after_id`, oldest first, and where to go on.

    The first of the pair is the id up to which all is in the list or not wanted.
    """
    row = InspectionRow
    newest = connection.scalar(select(func.max(row.id)).where(row.line == line))
    if newest is None or newest <= after_id:
        return after_id, []
    found = connection.execute(
        select(row.__table__, ModelVersionRow.name.label("model_version"))
        .join(ModelVersionRow, ModelVersionRow.id == row.model_version_id)
        .where(row.line == line, row.id > after_id, row.id <= newest, row.verdict.in_(verdicts))
        .order_by(row.id)
        .limit(limit)
    ).all()
    regions = _regions(connection, [item.id for item in found])
    messages = [_message(item, tuple(regions[item.id])) for item in found]
    return (found[-1].id if len(found) == limit else newest), messages


def _regions(connection: Connection, ids: Sequence[int]) -> dict[int, list[Region]]:
    regions: dict[int, list[Region]] = defaultdict(list)
    row = RegionRow
    for item in connection.execute(
        select(row.__table__).where(row.inspection_id.in_(ids)).order_by(row.id)
    ):
        regions[item.inspection_id].append(
            Region(item.x_px, item.y_px, item.width_px, item.height_px, item.area_px, item.peak)
        )
    return regions


def _message(row: Row[Any], regions: tuple[Region, ...]) -> VerdictMessage:
    return VerdictMessage(
        line=row.line,
        camera=row.camera,
        epoch=row.epoch,
        seq=row.seq,
        category=row.category,
        verdict=Verdict(row.verdict),
        pred_score=row.pred_score,
        review_threshold=row.review_threshold,
        ng_threshold=row.ng_threshold,
        reason=None if row.error_reason is None else LossReason(row.error_reason),
        captured_utc=row.captured_utc,
        decided_utc=row.decided_utc,
        part_id=row.part_id,
        lot=row.lot,
        trigger_id=row.trigger_id,
        model_version=row.model_version,
        regions=regions,
        inspection_id=row.id,
    )
