"""When the night is: a local time window in an IANA zone, on nights of 23, 24 and 25 hours.

A start or end that the clocks skip in spring becomes the end of the gap; of one that comes twice in
autumn the first counts. Pure; refuses to know the clock and the database.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from daemon.shift_calendar import utc_of_wall_time

_DAY = timedelta(days=1)
_ZONES_APART = timedelta(days=3)
"""More than any zone's offset, a window's length and a skipped date together."""


@dataclass(frozen=True, slots=True)
class Window:
    """Between which wall-clock times training may run; over midnight where `end` <= `start`."""

    start: time
    end: time
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Night:
    """One night's window: [start_utc, end_utc), empty where the clocks skip it altogether."""

    start_utc: datetime
    end_utc: datetime

    def contains(self, now: datetime) -> bool:
        """Whether training may run at an aware instant."""
        return self.start_utc <= now < self.end_utc


def night_on(window: Window, day: date) -> Night:
    """The night that starts on a local date."""
    end_day = day + _DAY if window.end <= window.start else day
    start_utc = utc_of_wall_time(day, window.start, window.zone)
    return Night(start_utc, max(start_utc, utc_of_wall_time(end_day, window.end, window.zone)))


def next_night(window: Window, now: datetime) -> Night:
    """The first night that starts after `now`."""
    return next(night for night in _nights_from(window, now) if night.start_utc > now)


def latest_night(window: Window, now: datetime) -> Night:
    """The last night that has started; it may be over."""
    latest = None
    for night in _nights_from(window, now):
        if night.start_utc > now:
            break
        latest = night
    assert latest is not None, "a night starts on every date"  # noqa: S101
    return latest


def may_still_start(night: Night, now: datetime, misfire: timedelta) -> bool:
    """Whether a night that has not been begun may begin now: inside its window, not too late."""
    return night.contains(now) and now - night.start_utc <= misfire


def _nights_from(window: Window, now: datetime) -> Iterator[Night]:
    """Nights in order of their start, from before `now` on."""
    day = (now.astimezone(UTC) - _ZONES_APART).date()
    while True:
        yield night_on(window, day)
        day += _DAY
