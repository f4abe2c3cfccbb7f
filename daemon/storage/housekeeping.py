"""What the database needs once a day: partitions for the days to come, retention, maintenance.

The writer's thread calls `step` between batches; each call does one chunk.
"""

import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain

from sqlalchemy import Connection, Engine, text

from daemon.config.retention import RetentionConfig
from daemon.core import Event, EventKind, Severity
from daemon.storage import frame_columns, partitions, retention
from daemon.storage.chunks import Chunks, Work
from daemon.storage.database import write_transaction
from daemon.storage.forecast import Forecast, forecast, used_bytes

logger = logging.getLogger(__name__)

EVERY_S = 86_400.0
HOURS_EVERY_S = 600.0
HOUR_REST = timedelta(minutes=5)
"""A finished hour is kept as columns when so much has passed that hardly a frame comes late."""
FIRST_PRUNE_S = 60.0
"""The start has enough to do."""
VACUUM_BYTES = 2 << 20
"""Moved in one transaction."""
KEPT_FREE_SHARE = 0.05
"""Of a SQLite file: what new rows fill is not given back first."""


class Housekeeper:
    """A day's work, in chunks."""

    def __init__(
        self,
        engine: Engine,
        config: RetentionConfig,
        *,
        line: str,
        now: Callable[[], datetime],
        is_clock_right: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_clock_right` is asked before anything goes for its age; budgets need no clock."""
        self._engine = engine
        self._config = config
        self._line = line
        self._now = now
        self._is_clock_right = is_clock_right
        self._clock = clock
        self._next_at = clock() + FIRST_PRUNE_S
        self._next_hours_at = self._next_at
        self._chunks = Chunks(self._due_work, first=self._prepare_days())

    def step(self) -> Sequence[Event]:
        """One chunk, if there is work; what the diary should say.

        Raises:
            DBAPIError: The database refused; the rest of the work waits for the next day.
        """
        return self._chunks.step()

    def _due_work(self) -> Work | None:
        now_s = self._clock()
        if now_s >= self._next_at:
            self._next_at = now_s + EVERY_S
            return chain(self._prepare_days(), self._prune(), self._forecast())
        if now_s >= self._next_hours_at:
            self._next_hours_at = now_s + HOURS_EVERY_S
            return frame_columns.keep_hours(self._engine, self._line, self._now() - HOUR_REST)
        return None

    def _prepare_days(self) -> Work:
        if self._engine.dialect.name != "postgresql":
            return
        with write_transaction(self._engine) as connection:
            done = partitions.prepare_days(connection, self._now().date())
        if done.moved:
            detail = (
                f"{done.moved} pictures had no partition of their day and were moved; is a clock "
                f"wrong, or was the daemon off for {partitions.DAYS_AHEAD} days?"
            )
            yield self._event(EventKind.PARTITION_MISSED, Severity.ALARM, detail)

    def _prune(self) -> Work:
        removed: Counter[str] = Counter()
        by_age = self._is_clock_right()
        for chunk in remove(self._engine, self._config, self._now(), by_age=by_age):
            removed[f"{chunk.verdict} {chunk.what}"] += chunk.count
            yield None
        if removed:
            counts = ", ".join(f"{count} {name}" for name, count in sorted(removed.items()))
            logger.info("retention removed results", extra={"removed": dict(removed)})
            yield self._event(EventKind.PRUNED, Severity.INFO, counts)
        for _ in give_back(self._engine):
            yield None

    def _forecast(self) -> Work:
        with self._engine.connect() as connection:
            found = forecast(connection, self._config, self._now())
        if found.days is not None and found.days < self._config.warn_full_days:
            severity = Severity.ALARM if found.days < 1 else Severity.WARNING
            yield self._event(EventKind.DATABASE_FULL_SOON, severity, describe(found))

    def _event(self, kind: EventKind, severity: Severity, detail: str) -> Event:
        return Event(kind, severity, self._now(), detail)


def remove(
    engine: Engine, config: RetentionConfig, now: datetime, *, by_age: bool
) -> Iterator[retention.Removed]:
    """By age, unless the clock is not believed; then by budget, the oldest first."""
    if by_age:
        yield from retention.prune(engine, retention.rules_of(config, now))
    if config.max_database_bytes is not None:
        with engine.connect() as connection:
            excess = used_bytes(connection) - config.max_database_bytes
        yield from retention.shrink(engine, excess, now)


def give_back(engine: Engine) -> Iterator[None]:
    """Hand free pages of a SQLite file back to the disk, a few at a time.

    Of no effect on a file that was made without auto_vacuum; its pages are used again.
    """
    if engine.dialect.name != "sqlite":
        return  # autovacuum does it
    while True:
        with write_transaction(engine) as connection:
            free, pages, page_bytes = (
                int(connection.scalar(text(f"PRAGMA {name}")) or 0)
                for name in ("freelist_count", "page_count", "page_size")
            )
            at_once = VACUUM_BYTES // page_bytes
            if free <= KEPT_FREE_SHARE * pages + at_once:
                break
            _run_to_end(connection, f"PRAGMA incremental_vacuum({at_once})")
            left = int(connection.scalar(text("PRAGMA freelist_count")) or 0)
        if left >= free:
            break
        yield
    with engine.connect() as connection:
        _run_to_end(connection, "PRAGMA wal_checkpoint(PASSIVE)")  # waits for nobody
    yield


def _run_to_end(connection: Connection, pragma: str) -> None:
    """These work row by row, as the rows are fetched, and have no columns to fetch."""
    raw = connection.connection.driver_connection
    if isinstance(raw, sqlite3.Connection):
        raw.execute(pragma).fetchall()


def describe(found: Forecast) -> str:
    """One sentence."""
    per_day = f"{found.used_bytes:,} bytes in use, {found.bytes_per_day:,.0f} more each day"
    if found.room_bytes is None:
        return f"{per_day}; set retention.max_database_bytes to learn when it is full"
    if found.days is None:
        return f"{per_day}; room for more than ten years"
    return f"{per_day}; full in {found.days:.0f} days"
