"""A clock that jumps ahead removes nothing, whatever is restarted under it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select

from daemon.config.retention import RetentionConfig
from daemon.core import Event, EventKind, Inspection, Severity, Verdict
from daemon.storage import clock_guard, repository
from daemon.storage.clock_guard import LOOK_EVERY_S, SAY_EVERY_S, ClockGuard
from daemon.storage.database import write_transaction
from daemon.storage.housekeeping import FIRST_PRUNE_S, Housekeeper
from daemon.storage.tables import InspectionRow

LINE = "line1"
TRUTH = datetime(2026, 11, 22, 2, tzinfo=UTC)
HOUR, YEAR = timedelta(hours=1), timedelta(days=365)
BY_AGE = RetentionConfig(rows_days={"OK": 30})


class Machine:
    """Its true time, and how far its wall clock is off."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.passed_s = 0.0
        self.ahead = timedelta()

    def now(self) -> datetime:
        return TRUTH + timedelta(seconds=self.passed_s) + self.ahead

    def start_daemon(self) -> "Daemon":
        return Daemon(self)

    def confirm(self) -> None:
        with write_transaction(self.engine) as connection:
            clock_guard.confirm(connection, LINE, self.now())


class Daemon:
    """What the writer's thread does between batches."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._guard = ClockGuard(
            machine.engine, LINE, now=machine.now, passed=lambda: machine.passed_s
        )
        self._keeper = Housekeeper(
            machine.engine,
            BY_AGE,
            line=LINE,
            now=machine.now,
            is_clock_right=self._guard.is_right,
            clock=lambda: machine.passed_s,
        )

    def run(self, seconds: float) -> list[Event]:
        """What the diary got; a look at least every minute."""
        events = []
        end_s = self._machine.passed_s + seconds
        while self._machine.passed_s < end_s:
            step_s = LOOK_EVERY_S if seconds < 10 * LOOK_EVERY_S else seconds / 10
            self._machine.passed_s += step_s
            for _ in range(4):
                events += [*self._guard.step(), *self._keeper.step()]
        return [event for event in events if event.kind is not EventKind.PARTITION_MISSED]


@pytest.fixture
def make_machine(make_inspection: Callable[..., Inspection]) -> Callable[[Engine], Machine]:
    """Three OK frames of an hour ago."""

    def make(engine: Engine) -> Machine:
        made = [
            make_inspection(seq, verdict=Verdict.OK, received_utc=TRUTH - HOUR) for seq in range(3)
        ]
        with write_transaction(engine) as connection:
            repository.add_results(connection, LINE, made)
        return Machine(engine)

    return make


@pytest.fixture
def machine(
    sqlite_engine: Engine,
    register: Callable[[Engine], None],
    make_machine: Callable[[Engine], Machine],
) -> Machine:
    register(sqlite_engine)
    return make_machine(sqlite_engine)


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(select(func.count()).select_from(InspectionRow)) or 0)


def kinds(events: list[Event]) -> list[EventKind]:
    return [event.kind for event in events]


def test_under_a_right_clock_what_is_old_goes_and_nothing_is_said_of_the_clock(
    machine: Machine,
) -> None:
    daemon = machine.start_daemon()
    daemon.run(2 * FIRST_PRUNE_S)
    assert rows(machine.engine) == 3

    said = daemon.run(31 * 86_400.0)

    assert rows(machine.engine) == 0
    assert kinds(said) == [EventKind.PRUNED]


def test_a_jump_while_the_daemon_runs_pauses_retention_until_the_clock_is_set_back(
    machine: Machine,
) -> None:
    daemon = machine.start_daemon()
    daemon.run(2 * FIRST_PRUNE_S)
    machine.ahead = YEAR

    said = daemon.run(2 * 86_400.0)

    assert rows(machine.engine) == 3
    assert set(kinds(said)) == {EventKind.CLOCK_DOUBTED}
    assert len(said) == 2, "once a day"
    assert said[0].severity is Severity.ALARM
    assert "2027-11-22" in said[0].detail
    assert "365 days after" in said[0].detail
    assert "zsad db prune --clock-is-right" in said[0].detail
    machine.ahead = timedelta()
    assert kinds(daemon.run(3 * LOOK_EVERY_S)) == [EventKind.CLOCK_BELIEVED]


def test_a_restart_under_a_wrong_clock_believes_it_no_more_than_before(
    line_engine: Engine,
    make_machine: Callable[[Engine], Machine],
    make_inspection: Callable[..., Inspection],
) -> None:
    machine = make_machine(line_engine)
    machine.start_daemon().run(2 * FIRST_PRUNE_S)
    machine.ahead = YEAR
    with write_transaction(machine.engine) as connection:  # as the running daemon stores it
        wrong = make_inspection(9, verdict=Verdict.OK, received_utc=machine.now())
        repository.add_results(connection, LINE, [wrong])

    said = machine.start_daemon().run(2 * 86_400.0)

    assert rows(machine.engine) == 4
    assert kinds(said)[0] is EventKind.CLOCK_DOUBTED


def test_a_person_who_says_that_the_clock_is_right_is_believed(machine: Machine) -> None:
    machine.start_daemon().run(2 * FIRST_PRUNE_S)
    machine.ahead = YEAR  # the line stood still
    daemon = machine.start_daemon()
    assert kinds(daemon.run(2 * LOOK_EVERY_S)) == [EventKind.CLOCK_DOUBTED]

    machine.confirm()
    said = daemon.run(2 * 86_400.0)

    assert kinds(said) == [EventKind.CLOCK_BELIEVED, EventKind.PRUNED]
    assert rows(machine.engine) == 0


def test_a_clock_without_battery_that_is_set_after_the_start_is_believed(machine: Machine) -> None:
    machine.start_daemon().run(2 * FIRST_PRUNE_S)
    machine.ahead = -10 * YEAR
    machine.passed_s += 3 * 86_400.0  # a weekend without power
    daemon = machine.start_daemon()
    daemon.run(LOOK_EVERY_S)
    machine.ahead = timedelta()

    assert daemon.run(10 * SAY_EVERY_S) == []


@pytest.mark.parametrize("ahead", [timedelta(minutes=50), -HOUR, -YEAR])
def test_a_small_step_and_one_back_are_no_alarm(machine: Machine, ahead: timedelta) -> None:
    daemon = machine.start_daemon()
    daemon.run(2 * FIRST_PRUNE_S)
    machine.ahead = ahead

    assert daemon.run(SAY_EVERY_S) == []
    assert rows(machine.engine) == 3


def test_before_the_first_note_the_newest_frame_says_where_the_clock_was(machine: Machine) -> None:
    machine.ahead = YEAR

    with machine.engine.connect() as connection:
        assert clock_guard.doubt(connection, LINE, TRUTH) is None
        assert clock_guard.doubt(connection, "a new line", machine.now()) is None
        why_not = clock_guard.doubt(connection, LINE, machine.now())

    assert why_not is not None
    assert "365 days after it was last believed (2026-11-22 01:00); limit 7 days" in why_not
