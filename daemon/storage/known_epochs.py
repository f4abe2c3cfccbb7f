"""How far every start of a sender has come, however long ago that was.

An index leads from epoch to epoch, so that millions of frames of one cost one look.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Select, func, select

from daemon.storage.tables import FrameLossRow, InspectionRow


def last_numbers(connection: Connection, cameras: Iterable[str]) -> dict[tuple[str, int], int]:
    """The highest number that has a row or is in a loss, by (camera, epoch)."""
    found: dict[tuple[str, int], int] = {}
    for camera in cameras:
        for row, number in (
            (InspectionRow, InspectionRow.seq),
            (FrameLossRow, FrameLossRow.last_seq),
        ):
            for epoch, last in connection.execute(_from_epoch_to_epoch(row, number, camera)):
                if last is not None:
                    found[camera, epoch] = max(found.get((camera, epoch), last), last)
    return found


def _from_epoch_to_epoch(row: Any, number: Any, camera: str) -> Select[Any]:  # either table
    """Each epoch is the lowest above the one before."""
    lowest = select(func.min(row.epoch).label("epoch")).where(row.camera == camera)
    start = lowest.cte("start", recursive=True)
    following = (
        select(func.min(row.epoch))
        .where(row.camera == camera, row.epoch > start.c.epoch)
        .correlate(start)
        .scalar_subquery()
    )
    start = start.union_all(select(following).where(start.c.epoch.is_not(None)))
    last = (
        select(func.max(number))
        .where(row.camera == camera, row.epoch == start.c.epoch)
        .correlate(start)
        .scalar_subquery()
    )
    return select(start.c.epoch, last).where(start.c.epoch.is_not(None))
