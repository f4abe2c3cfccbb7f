"""When a line's shifts begin and end, in UTC. Pure; refuses to know the clock and the database.

A shift starts at a local wall-clock time and ends where the next one starts, so its length is
whatever the clock change makes of it: a night shift from 22:00 to 06:00 has 7, 8 or 9 hours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from daemon.config.line import ShiftConfig
from daemon.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ShiftWindow:
    """One shift on one date: [start_utc, end_utc).

    Attributes:
        start_date: The local date it starts on, also when it runs over midnight.
    """

    name: str
    start_date: date
    start_utc: datetime
    end_utc: datetime

    @property
    def length(self) -> timedelta:
        """Elapsed time, not the difference of wall clocks."""
        return self.end_utc - self.start_utc


def shifts_on(shifts: Sequence[ShiftConfig], zone: ZoneInfo, day: date) -> tuple[ShiftWindow, ...]:
    """The shifts that start on a local date, in order; together with the next date's they tile.

    A shift that lies wholly inside the hour skipped in spring has length zero.
    """
    ordered = sorted(shifts, key=lambda shift: shift.start)
    starts = [utc_of_wall_time(day, shift.start, zone) for shift in ordered]
    starts.append(utc_of_wall_time(day + timedelta(days=1), ordered[0].start, zone))
    return tuple(
        ShiftWindow(shift.name, day, start_utc, end_utc)
        for shift, start_utc, end_utc in zip(ordered, starts[:-1], starts[1:], strict=True)
    )


def shift_window(
    shifts: Sequence[ShiftConfig], zone: ZoneInfo, day: date, name: str
) -> ShiftWindow:
    """The named shift that starts on a local date.

    Raises:
        ConfigError: no shift of that name is configured.
    """
    for window in shifts_on(shifts, zone, day):
        if window.name == name:
            return window
    known = ", ".join(shift.name for shift in shifts)
    raise ConfigError(f"shift {name!r} is not configured; the configured shifts are: {known}")


def shift_at(shifts: Sequence[ShiftConfig], zone: ZoneInfo, instant: datetime) -> ShiftWindow:
    """The shift that contains an aware instant."""
    local_day = instant.astimezone(zone).date()
    # Two days back, because a zone may skip a whole date (Apia on 2011-12-30).
    for days_back in (0, 1, 2, -1):
        for window in shifts_on(shifts, zone, local_day - timedelta(days=days_back)):
            if window.start_utc <= instant < window.end_utc:
                return window
    raise AssertionError(f"shifts do not tile the time line at {instant.isoformat()}")


def utc_of_wall_time(day: date, wall: time, zone: ZoneInfo) -> datetime:
    """UTC of a local wall-clock time; the first of two, and the end of the gap where there is none.

    Taking the end of the gap keeps the order of starts: `zoneinfo` alone would put a skipped
    02:30 (half an hour after the clocks moved) behind an existing 03:00.
    """
    local = datetime.combine(day, wall, tzinfo=zone)
    utc = local.astimezone(UTC)
    if utc.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return utc
    return _offset_change(local.replace(fold=1).astimezone(UTC), utc, zone)


def _offset_change(before_utc: datetime, after_utc: datetime, zone: ZoneInfo) -> datetime:
    """The whole second in (before, after] at which the zone's UTC offset changes."""
    old_offset = before_utc.astimezone(zone).utcoffset()
    low, high = 0, int((after_utc - before_utc).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if (before_utc + timedelta(seconds=middle)).astimezone(zone).utcoffset() == old_offset:
            low = middle
        else:
            high = middle
    return (before_utc + timedelta(seconds=high)).replace(microsecond=0)
