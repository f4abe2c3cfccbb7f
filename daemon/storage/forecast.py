"""How big the database is, how fast it grows, and when that fills the disk or the budget."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, func, select, text

from daemon.config.retention import RetentionConfig
from daemon.storage.tables import InspectionRow, ThumbnailRow

RECENT = timedelta(days=7)
SAMPLE = 200
ROW_BYTES = 700
"""An inspection with its index entries and a region or two; pictures are 20 to 30 times that."""
HORIZON_DAYS = 3650


@dataclass(frozen=True, slots=True)
class Growth:
    """What one class of results adds.

    Attributes:
        stops_after_days: From then on retention removes as much as arrives; None for never.
    """

    bytes_per_day: float
    stops_after_days: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """When there is no room left.

    Attributes:
        room_bytes: What may still be added; None where nothing says (a PostgreSQL server's disk
            is not visible from here, and there is no budget).
        days: Until `room_bytes` are used; None for not within ten years.
    """

    used_bytes: int
    room_bytes: int | None
    bytes_per_day: float
    days: float | None


def days_until_full(room_bytes: float, growth: Sequence[Growth]) -> float | None:
    """Days at the present rates; None if that is beyond HORIZON_DAYS."""
    ends = sorted({g.stops_after_days for g in growth if g.stops_after_days is not None})
    day = 0.0
    for end in [*ends, float(HORIZON_DAYS)]:
        rate = sum(
            g.bytes_per_day
            for g in growth
            if g.stops_after_days is None or g.stops_after_days >= end
        )
        if rate > 0 and room_bytes <= rate * (end - day):
            return day + max(0.0, room_bytes) / rate
        room_bytes -= rate * (end - day)
        day = max(day, end)
    return None


def forecast(connection: Connection, config: RetentionConfig, now: datetime) -> Forecast:
    """From what the last seven days added."""
    used = used_bytes(connection)
    rooms = []
    if config.max_database_bytes is not None:
        rooms.append(config.max_database_bytes - used)
    if connection.dialect.name == "sqlite":
        folder = Path(str(connection.engine.url.database)).parent
        rooms.append(shutil.disk_usage(folder).free)
    growth = _growth(connection, config, now)
    room = min(rooms, default=None)
    return Forecast(
        used_bytes=used,
        room_bytes=room,
        bytes_per_day=sum(g.bytes_per_day for g in growth),
        days=None if room is None else days_until_full(room, growth),
    )


def used_bytes(connection: Connection) -> int:
    """What is in use, without the space that removed rows left for new ones."""
    if connection.dialect.name == "sqlite":
        pages = connection.scalar(text("PRAGMA page_count"))
        free = connection.scalar(text("PRAGMA freelist_count"))
        size = connection.scalar(text("PRAGMA page_size"))
        return int((pages - free) * size)
    # PostgreSQL keeps a table's size when rows go; of pictures, only what is there counts
    return int(
        connection.scalar(
            text(
                "SELECT pg_database_size(current_database())"
                " - (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('thumbnail'))"
                " + (SELECT coalesce(sum(length(photo_jpeg) + length(overlay_jpeg)"
                " + length(map_png)), 0) FROM thumbnail)"
            )
        )
        or 0
    )


def _growth(connection: Connection, config: RetentionConfig, now: datetime) -> list[Growth]:
    row, picture = InspectionRow, ThumbnailRow
    begin = now - RECENT
    first = connection.scalar(select(func.min(row.received_utc)).where(row.received_utc >= begin))
    if first is None:
        return []
    days = max((now - first) / timedelta(days=1), 1 / 24)
    rows = connection.scalar(select(func.count()).select_from(row).where(row.received_utc >= begin))
    found = [Growth((rows or 0) * ROW_BYTES / days, None)]
    counts = connection.execute(
        select(picture.verdict, func.count())
        .where(picture.received_utc >= begin)
        .group_by(picture.verdict)
    )
    for verdict, count in counts.all():
        newest = (
            select(picture.photo_jpeg, picture.overlay_jpeg, picture.map_png)
            .where(picture.verdict == verdict)
            .order_by(picture.received_utc.desc())
            .limit(SAMPLE)
        ).subquery()
        mean = connection.scalar(
            select(
                func.avg(
                    func.length(newest.c.photo_jpeg)
                    + func.length(newest.c.overlay_jpeg)
                    + func.length(newest.c.map_png)
                )
            )
        )
        stops = _stops_after_days(connection, config, verdict, now)
        found.append(Growth(count * float(mean or 0) / days, stops))
    return found


def _stops_after_days(
    connection: Connection, config: RetentionConfig, verdict: str, now: datetime
) -> float | None:
    limit = next((d for name, d in config.pictures_days.items() if name == verdict), None)
    if limit is None:
        return None
    oldest = connection.scalar(
        select(func.min(ThumbnailRow.received_utc)).where(ThumbnailRow.verdict == verdict)
    )
    age = 0.0 if oldest is None else (now - oldest) / timedelta(days=1)
    return max(0.0, limit - age)
