import itertools
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.config.line import ShiftConfig
from daemon.errors import ConfigError
from daemon.shift_calendar import shift_at, shift_window, shifts_on

BERLIN = ZoneInfo("Europe/Berlin")
THREE_SHIFTS = (
    ShiftConfig(name="early", start=time(6)),
    ShiftConfig(name="late", start=time(14)),
    ShiftConfig(name="night", start=time(22)),
)
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # clocks move by half an hour
    "Asia/Kathmandu",  # 5 h 45 min
    "Asia/Beirut",  # clocks move at midnight
    "Pacific/Apia",  # skipped 2011-12-30 altogether
    "Africa/Casablanca",
]


def shifts_from(starts: set[time]) -> tuple[ShiftConfig, ...]:
    return tuple(ShiftConfig(name=f"s{i}", start=start) for i, start in enumerate(starts))


@pytest.mark.parametrize(
    ("day", "hours"),
    [(date(2027, 3, 27), 7), (date(2027, 10, 30), 9), (date(2027, 6, 1), 8)],
)
def test_night_shift_has_the_length_the_clock_change_gives_it(day: date, hours: int) -> None:
    window = shift_window(THREE_SHIFTS, BERLIN, day, "night")

    assert window.length == timedelta(hours=hours)
    assert window.start_date == day
    assert window.end_utc.astimezone(BERLIN).time() == time(6)


@pytest.mark.parametrize(("day", "hours"), [(date(2027, 3, 28), 23), (date(2027, 10, 31), 25)])
def test_one_shift_from_midnight_has_23_and_25_hours(day: date, hours: int) -> None:
    (window,) = shifts_on((ShiftConfig(name="day", start=time(0)),), BERLIN, day)

    assert window.length == timedelta(hours=hours)


def test_start_inside_the_skipped_hour_begins_when_the_clocks_have_moved() -> None:
    shifts = (ShiftConfig(name="a", start=time(2, 30)), ShiftConfig(name="b", start=time(3)))

    a, b = shifts_on(shifts, BERLIN, date(2027, 3, 28))

    assert a.start_utc == datetime(2027, 3, 28, 1, tzinfo=UTC)
    assert a.length == timedelta(0)
    assert b.start_utc == a.start_utc


def test_start_in_the_repeated_hour_takes_its_first_occurrence() -> None:
    window = shift_window(
        (ShiftConfig(name="a", start=time(2, 30)),), BERLIN, date(2027, 10, 31), "a"
    )

    assert window.start_utc == datetime(2027, 10, 31, 0, 30, tzinfo=UTC)


def test_after_midnight_belongs_to_the_night_shift_of_the_date_before() -> None:
    window = shift_at(THREE_SHIFTS, BERLIN, datetime(2026, 1, 31, 3, tzinfo=BERLIN))

    assert (window.name, window.start_date) == ("night", date(2026, 1, 30))


def test_unknown_shift_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"'middle' is not configured.*early, late, night"):
        shift_window(THREE_SHIFTS, BERLIN, date(2026, 1, 31), "middle")


@given(
    zone_name=st.sampled_from(ZONES),
    first_day=st.dates(date(2005, 1, 1), date(2035, 12, 1)),
    starts=st.sets(st.times().map(lambda t: t.replace(microsecond=0)), min_size=1, max_size=5),
)
@example(zone_name="Europe/Berlin", first_day=date(2027, 3, 27), starts={time(2, 30), time(3)})
@example(zone_name="Pacific/Apia", first_day=date(2011, 12, 29), starts={time(6), time(22)})
@example(zone_name="Australia/Lord_Howe", first_day=date(2026, 4, 4), starts={time(1, 45)})
def test_shifts_tile_the_time_line(zone_name: str, first_day: date, starts: set[time]) -> None:
    shifts, zone = shifts_from(starts), ZoneInfo(zone_name)

    windows = [
        window
        for days in range(4)
        for window in shifts_on(shifts, zone, first_day + timedelta(days=days))
    ]

    for before, after in itertools.pairwise(windows):
        assert before.end_utc == after.start_utc
        assert before.length >= timedelta(0)


@given(
    zone_name=st.sampled_from(ZONES),
    instant=st.integers(1_100_000_000, 2_080_000_000).map(lambda s: datetime.fromtimestamp(s, UTC)),
    starts=st.sets(st.times().map(lambda t: t.replace(microsecond=0)), min_size=1, max_size=5),
)
@example(
    zone_name="Pacific/Apia", instant=datetime(2011, 12, 30, 11, tzinfo=UTC), starts={time(20)}
)
def test_every_instant_lies_in_the_shift_found_for_it(
    zone_name: str, instant: datetime, starts: set[time]
) -> None:
    shifts, zone = shifts_from(starts), ZoneInfo(zone_name)

    window = shift_at(shifts, zone, instant)

    assert window.start_utc <= instant < window.end_utc
    assert window in shifts_on(shifts, zone, window.start_date)
