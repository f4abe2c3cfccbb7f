"""How long whole frames stay: by age, then by budget; a row goes before its file.

The writer's thread calls `step` between batches; each call does one chunk. Labelled frames and
those that made thresholds stay, and so does every calibration image.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Select, delete, func, select

from daemon.config.frames import FramesConfig
from daemon.core import Event, EventKind, Severity, Verdict
from daemon.errors import StorageError
from daemon.storage.chunks import Chunks, Work
from daemon.storage.database import write_transaction
from daemon.storage.frame_files import THRESHOLD_FRAMES, is_protected
from daemon.storage.frame_folder import frames_of, locate
from daemon.storage.night_tables import CalibrationImageRow, FrameFileRow

logger = logging.getLogger(__name__)

CHUNK_ROWS = 200
BUDGET_ORDER = (Verdict.OK, Verdict.LEARNING, Verdict.REVIEW, Verdict.NG)
BUDGET_EVERY_S = 300.0
AGE_EVERY_S = 86_400.0
FIRST_S = 60.0
"""The start has enough to do."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which frames may go: of a verdict, received before an instant.

    Attributes:
        category: None for all.
    """

    verdict: Verdict
    before: datetime
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """What one chunk removed."""

    verdict: Verdict
    count: int
    n_bytes: int


class FrameRetention:
    """The upkeep of one line's frames, in chunks."""

    def __init__(
        self,
        engine: Engine,
        config: FramesConfig,
        line: str,
        *,
        now: Callable[[], datetime],
        is_clock_right: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_clock_right` is asked before anything goes for its age; the budget needs no clock."""
        self._engine = engine
        self._config = config
        self._line = line
        self._now = now
        self._is_clock_right = is_clock_right
        self._clock = clock
        self._age_at = self._budget_at = clock() + FIRST_S
        self._chunks = Chunks(self._due_work)

    def step(self) -> Sequence[Event]:
        """One chunk, if there is work; what the diary should say.

        Raises:
            DBAPIError: The database refused; the rest of the work waits for its next time.
        """
        return self._chunks.step()

    def _due_work(self) -> Work | None:
        now = self._clock()
        if now >= self._age_at:
            self._age_at, self._budget_at = now + AGE_EVERY_S, now + BUDGET_EVERY_S
            return self._by_age()
        if now >= self._budget_at:
            self._budget_at = now + BUDGET_EVERY_S
            return self._by_budget()
        return None

    def _by_age(self) -> Work:
        if self._is_clock_right():
            oldest = self._now() - timedelta(days=self._config.days)
            yield from self._remove(prune(self._engine, self._config.dir, self._line, oldest))
            for _ in sweep(self._engine, self._config.dir, self._line, oldest):
                yield None
        yield from self._by_budget()
        with self._engine.connect() as connection:
            used = used_bytes(connection, self._line)
        if used > self._config.max_bytes:
            detail = (
                f"frames that must stay (labelled, calibration) take {used} bytes, "
                f"frames.max_bytes is {self._config.max_bytes}: others go at once; raise it"
            )
            yield Event(EventKind.FRAMES_NOT_KEPT, Severity.WARNING, self._now(), detail)

    def _by_budget(self) -> Work:
        with self._engine.connect() as connection:
            excess = used_bytes(connection, self._line) - self._config.max_bytes
        if excess > 0:
            chunks = shrink(self._engine, self._config.dir, self._line, excess, self._now())
            yield from self._remove(chunks)

    def _remove(self, chunks: Iterator[Removed]) -> Work:
        removed: Counter[str] = Counter()
        for chunk in chunks:
            removed[f"{chunk.verdict} whole frames"] += chunk.count
            yield None
        if removed:
            logger.info("retention removed frames", extra={"removed": dict(removed)})
            counts = ", ".join(f"{count} {name}" for name, count in sorted(removed.items()))
            yield Event(EventKind.PRUNED, Severity.INFO, self._now(), counts)


def used_bytes(connection: Connection, line: str) -> int:
    """Of all files of a line that have a row."""
    total = 0
    for row in (FrameFileRow, CalibrationImageRow):
        size = select(func.coalesce(func.sum(row.n_bytes), 0)).where(row.line == line)
        total += int(connection.scalar(size) or 0)
    return total


def prune(engine: Engine, folder: Path, line: str, oldest: datetime) -> Iterator[Removed]:
    """Remove what was received before an instant, chunk by chunk."""
    for rule in _rules(engine, line, oldest):
        yield from _remove_due(engine, folder, line, rule)


def shrink(
    engine: Engine, folder: Path, line: str, excess_bytes: int, now: datetime
) -> Iterator[Removed]:
    """Remove the oldest of the least important until `excess_bytes` are gone, or no more may go."""
    for rule in _rules(engine, line, now):
        for removed in _remove_due(engine, folder, line, rule, excess_bytes):
            yield removed
            excess_bytes -= removed.n_bytes
        if excess_bytes <= 0:
            return


def sweep(engine: Engine, folder: Path, line: str, oldest: datetime) -> Iterator[int]:
    """Remove files without a row, which a crash left, from hours before an instant.

    Younger ones wait until then. A database that knows no frame of the line is not asked: it is
    a new one, or not that of this folder.

    Yields:
        How many files went, for each hour of each camera.
    """
    row = FrameFileRow
    with engine.connect() as connection:
        if connection.scalar(select(row.id).where(row.line == line).limit(1)) is None:
            return
    for hour in sorted((folder / frames_of(line)).glob("*/????-??-??/??")):
        begin = _begin_of(hour)
        if begin is None or begin + timedelta(hours=1) > oldest:
            continue
        with engine.connect() as connection:
            known = set(
                connection.scalars(
                    select(row.path).where(
                        row.line == line,
                        row.received_utc >= begin,
                        row.received_utc < begin + timedelta(hours=1),
                    )
                )
            )
        orphans = [file for file in hour.iterdir() if str(file.relative_to(folder)) not in known]
        for file in orphans:
            _unlink(file)
        _remove_if_empty(hour)
        _remove_if_empty(hour.parent)
        yield len(orphans)


def _rules(engine: Engine, line: str, before: datetime) -> list[Rule]:
    """In the order in which frames go; the newest LEARNING frames of each category stay."""
    rules = []
    for verdict in BUDGET_ORDER:
        if verdict is Verdict.LEARNING:
            rules += _learning_rules(engine, line, before)
        else:
            rules.append(Rule(verdict, before))
    return rules


def _learning_rules(engine: Engine, line: str, before: datetime) -> list[Rule]:
    row = FrameFileRow
    with engine.connect() as connection:
        categories = connection.scalars(
            select(row.category)
            .where(row.line == line, row.verdict == Verdict.LEARNING)
            .distinct()
            .order_by(row.category)
        ).all()
        return [
            Rule(
                Verdict.LEARNING,
                min(before, _thresholds_since(connection, line, category)),
                category,
            )
            for category in categories
        ]


def _thresholds_since(connection: Connection, line: str, category: str) -> datetime:
    """When the first of the LEARNING frames was received that are held to have made thresholds."""
    row = FrameFileRow
    newest = (
        select(row.received_utc)
        .where(row.line == line, row.category == category, row.verdict == Verdict.LEARNING)
        .order_by(row.received_utc.desc())
        .limit(THRESHOLD_FRAMES)
        .subquery()
    )
    found: datetime = connection.execute(select(func.min(newest.c.received_utc))).scalar_one()
    return found


def _remove_due(
    engine: Engine, folder: Path, line: str, rule: Rule, excess_bytes: float = inf
) -> Iterator[Removed]:
    """Chunk by chunk, until `excess_bytes` are gone or nothing is due."""
    begin = None
    while excess_bytes > 0:
        with write_transaction(engine) as connection:
            found = connection.execute(_due(line, rule, begin)).all()
            if not found:
                return
            begin = found[-1].received_utc  # what stays before it is not looked at again
            sizes = [file.n_bytes for file in found]
            enough = sum(before < excess_bytes for before in accumulate(sizes[:-1], initial=0))
            found = found[:enough]
            row = FrameFileRow
            connection.execute(delete(row).where(row.id.in_([file.id for file in found])))
        for file in found:
            _unlink(_located(folder, file.path))
        removed = Removed(rule.verdict, len(found), sum(sizes[:enough]))
        excess_bytes -= removed.n_bytes
        yield removed


def _due(line: str, rule: Rule, begin: datetime | None) -> Select[*tuple[Any, ...]]:
    """Files that a rule names, oldest first."""
    row = FrameFileRow
    query: Select[*tuple[Any, ...]] = (
        select(row.id, row.path, row.n_bytes, row.received_utc)
        .where(
            row.line == line,
            row.verdict == rule.verdict,
            row.received_utc < rule.before,
            ~is_protected(),
        )
        .order_by(row.received_utc)
        .limit(CHUNK_ROWS)
    )
    if rule.category is not None:
        query = query.where(row.category == rule.category)
    return query if begin is None else query.where(row.received_utc >= begin)


def _located(folder: Path, path: str) -> Path | None:
    try:
        return locate(folder, path)
    except StorageError:
        return None  # a damaged row: the file it leads to is not ours


def _unlink(file: Path | None) -> None:
    if file is None:
        return
    try:
        file.unlink(missing_ok=True)
    except OSError as error:  # swept one day, for its row is gone
        logger.warning("frame not removed", extra={"file": str(file), "error": str(error)})


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # something is still in it


def _begin_of(hour: Path) -> datetime | None:
    try:
        return datetime.strptime(f"{hour.parent.name} {hour.name}", "%Y-%m-%d %H").replace(
            tzinfo=UTC
        )
    except ValueError:
        return None
