"""Whether the wall clock may say what is old: one that jumps ahead makes everything old at once.

What is believed is written down, so that a restart under the wrong clock changes nothing.
Forward only: under a clock that is behind, too little is removed, which harms nobody.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, insert, select, update

from daemon.core import Event, EventKind, Severity
from daemon.storage.database import write_transaction
from daemon.storage.tables import ClockMarkRow, InspectionRow

JUMP = timedelta(hours=1)
"""A running daemon's clock may get ahead of the time that passed by so much."""
STANDSTILL = timedelta(days=7)
"""A line may have been off for so long before somebody has to say that the clock is right."""
LOOK_EVERY_S = 60.0
NOTE_EVERY_S = 3600.0
SAY_EVERY_S = 86_400.0


def seconds_since_boot() -> float:
    """Passes also while the machine sleeps, and no clock setting moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockGuard:
    """Compares the clock with the time that has passed since it was last believed.

    The writer's thread calls `step` between batches; `is_right` is for the same thread.
    """

    def __init__(
        self,
        engine: Engine,
        line: str,
        *,
        now: Callable[[], datetime],
        passed: Callable[[], float] = seconds_since_boot,
    ) -> None:
        """Look up what was believed before this start.

        Raises:
            OperationalError: The database is away.
        """
        self._engine = engine
        self._line = line
        self._now = now
        self._passed = passed
        with engine.connect() as connection:
            self._mark = believed_until(connection, line)
        self._latest, self._latest_at = _latest(now(), self._mark), passed()
        self._look_at = self._note_at = self._say_at = self._latest_at
        self._is_doubted = False

    def is_right(self) -> bool:
        """Whether what the clock calls old may be removed."""
        return self._now() <= self._limit()

    def step(self) -> Sequence[Event]:
        """Now and then look at the clock; what the diary should say.

        Raises:
            DBAPIError: The database refused; looked at again the next time.
        """
        passed = self._passed()
        if passed < self._look_at:
            return ()
        self._look_at = passed + LOOK_EVERY_S
        if not self.is_right():
            self._ask_for_confirmation()
        if not self.is_right():
            return self._doubt(passed)
        if passed >= self._note_at:
            self._note_at = passed + NOTE_EVERY_S
            with write_transaction(self._engine) as connection:
                self._mark = believe(connection, self._line, self._now())
        return self._believe_again()

    def _limit(self) -> datetime:
        return self._latest + timedelta(seconds=self._passed() - self._latest_at)

    def _ask_for_confirmation(self) -> None:
        """Somebody may have said that the clock is right."""
        with self._engine.connect() as connection:
            mark = believed_until(connection, self._line)
        if mark is not None and mark != self._mark:
            self._mark = mark
            self._latest, self._latest_at = _latest(self._now(), mark), self._passed()

    def _doubt(self, passed: float) -> Sequence[Event]:
        if self._is_doubted and passed < self._say_at:
            return ()
        self._is_doubted, self._say_at = True, passed + SAY_EVERY_S
        now, limit = self._now(), self._limit()
        detail = (
            f"the clock says {now:%Y-%m-%d %H:%M} UTC, {_in_words(now - limit)} after the latest "
            f"that it can be ({limit:%Y-%m-%d %H:%M}): nothing is removed for its age. Set the "
            "clock; if it is right, run `zsad db prune --clock-is-right`"
        )
        return (Event(EventKind.CLOCK_DOUBTED, Severity.ALARM, now, detail),)

    def _believe_again(self) -> Sequence[Event]:
        if not self._is_doubted:
            return ()
        self._is_doubted = False
        detail = "the clock is believed again: retention goes on"
        return (Event(EventKind.CLOCK_BELIEVED, Severity.INFO, self._now(), detail),)


def believed_until(connection: Connection, line: str) -> datetime | None:
    """As noted; before the first note, when the newest frame came. None for a new line."""
    noted: datetime | None = connection.scalar(
        select(ClockMarkRow.believed_utc).where(ClockMarkRow.line == line)
    )
    if noted is not None:
        return noted
    row = InspectionRow
    newest: datetime | None = connection.scalar(
        select(row.received_utc).where(row.line == line).order_by(row.received_utc.desc()).limit(1)
    )
    return newest


def believe(connection: Connection, line: str, now: datetime) -> datetime:
    """Note that the clock was right; an earlier note of a later instant stays. What is noted."""
    before = connection.scalar(select(ClockMarkRow.believed_utc).where(ClockMarkRow.line == line))
    mark = now if before is None else max(before, now)
    confirm(connection, line, mark)
    return mark


def confirm(connection: Connection, line: str, now: datetime) -> None:
    """A person says that the clock is right, whatever was noted before."""
    row = ClockMarkRow
    done = connection.execute(update(row).where(row.line == line).values(believed_utc=now))
    if done.rowcount == 0:
        connection.execute(insert(row).values(line=line, believed_utc=now))


def doubt(connection: Connection, line: str, now: datetime) -> str | None:
    """Why a clock that nobody has watched is not believed; None if it is."""
    mark = believed_until(connection, line)
    if mark is None or now <= mark + STANDSTILL:
        return None
    return (
        f"the clock says {now:%Y-%m-%d %H:%M} UTC, {_in_words(now - mark)} after it was last "
        f"believed ({mark:%Y-%m-%d %H:%M}); limit {_in_words(STANDSTILL)}"
    )


def _latest(now: datetime, mark: datetime | None) -> datetime:
    """The latest that the clock can be at this moment.

    One that is behind what was noted will be set forward, by nobody knows how much.
    """
    if mark is None:
        return now + JUMP
    return mark + STANDSTILL if now < mark else min(now + JUMP, mark + STANDSTILL)


def _in_words(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.0f} days"
