from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.training.window import (
    Night,
    Window,
    latest_night,
    may_still_start,
    next_night,
    night_on,
)

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",  # clocks move by half an hour
    "Pacific/Apia",  # skipped a whole date
    "Asia/Kolkata",
]
windows = st.builds(
    Window,
    st.times().map(lambda t: t.replace(microsecond=0)),
    st.times().map(lambda t: t.replace(microsecond=0)),
    st.sampled_from(ZONES).map(ZoneInfo),
)
instants = st.integers(0, 20 * 366 * 86_400).map(
    lambda seconds: datetime(2010, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


def window(start: time, end: time, zone: ZoneInfo = BERLIN) -> Window:
    return Window(start, end, zone)


@pytest.mark.parametrize(
    ("day", "hours"),
    [(date(2026, 3, 29), 3), (date(2026, 10, 25), 5), (date(2026, 11, 22), 4)],
    ids=["23 hours", "25 hours", "24 hours"],
)
def test_a_night_has_as_many_hours_as_the_clocks_leave_it(day: date, hours: int) -> None:
    night = night_on(window(time(1), time(5)), day)

    assert night.end_utc - night.start_utc == timedelta(hours=hours)


def test_a_start_that_the_clocks_skip_is_the_end_of_the_gap() -> None:
    night = night_on(window(time(2, 30), time(5)), date(2026, 3, 29))

    assert night.start_utc == datetime(2026, 3, 29, 1, tzinfo=UTC)  # 03:00 summer time


def test_of_a_start_that_comes_twice_the_first_counts() -> None:
    night = night_on(window(time(2, 30), time(5)), date(2026, 10, 25))

    assert night.start_utc == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # summer time still
    assert night.end_utc == datetime(2026, 10, 25, 4, tzinfo=UTC)


def test_a_window_that_the_clocks_skip_altogether_is_empty() -> None:
    night = night_on(window(time(2, 10), time(2, 50)), date(2026, 3, 29))

    assert night.start_utc == night.end_utc
    assert not night.contains(night.start_utc)


def test_a_window_may_run_over_midnight() -> None:
    night = night_on(window(time(22), time(4)), date(2026, 11, 21))

    assert night == Night(
        datetime(2026, 11, 21, 21, tzinfo=UTC), datetime(2026, 11, 22, 3, tzinfo=UTC)
    )


@given(windows, instants)
def test_next_and_latest_night_enclose_every_instant(at: Window, now: datetime) -> None:
    latest, following = latest_night(at, now), next_night(at, now)

    assert latest.start_utc <= now < following.start_utc
    assert latest.start_utc <= latest.end_utc
    assert next_night(at, latest.start_utc) == following  # none lies between


@given(windows, instants, st.integers(1, 24))
def test_a_night_may_start_only_inside_its_window_and_not_too_late(
    at: Window, now: datetime, hours: int
) -> None:
    night = latest_night(at, now)

    allowed = may_still_start(night, now, timedelta(hours=hours))

    late = now - night.start_utc
    assert allowed == (now < night.end_utc and late <= timedelta(hours=hours))
