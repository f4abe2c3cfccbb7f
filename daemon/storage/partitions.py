"""PostgreSQL only: one partition a UTC day for the pictures of OK and LEARNING frames.

A day's partition is dropped in milliseconds, whatever it holds. It must exist before the day's
first picture; pictures of a day without one go to the default partition, and are moved out of it
when the day's partition is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import Connection, text

DAYS_AHEAD = 7

_DAY_US = 86_400_000_000
_EPOCH = date(1970, 1, 1)
_PREFIX = "thumbnail_day_"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare_days` did.

    Attributes:
        created: Days that have a partition now.
        moved: Pictures that were found in the default partition: a clock was wrong, or no
            daemon ran for DAYS_AHEAD days.
    """

    created: tuple[date, ...]
    moved: int


def prepare_days(connection: Connection, today: date) -> Prepared:
    """Make partitions from today to DAYS_AHEAD days from now, and for days of stray pictures."""
    existing = set(days(connection))
    stray = {
        _EPOCH + timedelta(days=number)
        for number in connection.scalars(
            text(f"SELECT DISTINCT received_utc / {_DAY_US} FROM thumbnail_routine_default")  # noqa: S608
        )
    }
    wanted = {today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)} | stray
    created = sorted(wanted - existing)
    moved = sum(_create(connection, day) for day in created)
    return Prepared(tuple(created), moved)


def days(connection: Connection) -> list[date]:
    """Days that have a partition, oldest first."""
    names = connection.scalars(
        text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = 'thumbnail_routine'::regclass"
        )
    )
    numbers = [int(name.removeprefix(_PREFIX)) for name in names if name.startswith(_PREFIX)]
    return [_EPOCH + timedelta(days=number) for number in sorted(numbers)]


def drop_day(connection: Connection, day: date) -> None:
    """Remove a day's pictures with its partition."""
    connection.execute(text(f"DROP TABLE {_name(day)}"))


def end_of(day: date) -> datetime:
    """The first instant after the day."""
    return datetime.combine(day + timedelta(days=1), time(), tzinfo=UTC)


def begin_of(day: date) -> datetime:
    """The first instant of the day."""
    return datetime.combine(day, time(), tzinfo=UTC)


def expired(existing: Sequence[date], before: datetime) -> list[date]:
    """Days that lie wholly before an instant."""
    return [day for day in existing if end_of(day) <= before]


def _create(connection: Connection, day: date) -> int:
    """Attached, not created in place: that would wait for every reader of the parent."""
    name, begin = _name(day), (day - _EPOCH).days * _DAY_US
    statements = f"""
        CREATE TABLE {name} (
            LIKE thumbnail_routine INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE
        );
        WITH moved AS (
            DELETE FROM thumbnail_routine_default
            WHERE received_utc >= {begin} AND received_utc < {begin + _DAY_US} RETURNING *
        ) INSERT INTO {name} SELECT * FROM moved;
        ALTER TABLE thumbnail_routine ATTACH PARTITION {name}
            FOR VALUES FROM ({begin}) TO ({begin + _DAY_US})
    """  # noqa: S608 - names and numbers of this file
    moved = 0
    for statement in statements.split(";"):
        done = connection.execute(text(statement))
        if statement.lstrip().startswith("WITH"):
            moved = done.rowcount
    return moved


def _name(day: date) -> str:
    return f"{_PREFIX}{(day - _EPOCH).days}"
