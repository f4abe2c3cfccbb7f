import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from night_line import LINE, NightLine, Shown
from night_pictures import draw
from sqlalchemy import select

from daemon.health import Health
from daemon.schedule import NightTrigger, Schedule
from daemon.status import NightStatus
from daemon.storage import job_runs
from daemon.storage.database import write_transaction
from daemon.storage.job_runs import JobRun, JobState
from daemon.storage.night_tables import JobRunRow
from daemon.training.window import Window, night_on

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 11, 22, 11, 0, tzinfo=UTC)
TONIGHT = datetime(2026, 11, 22, 0, 0, tzinfo=UTC)


def line_of(tmp_path: Path, migrated_file: Path, start: str, end: str) -> NightLine:
    return NightLine(
        tmp_path / "line",
        {"grain": "grain"},
        database=migrated_file,
        window_start=start,
        window_end=end,
    )


@pytest.fixture
def line(tmp_path: Path, migrated_file: Path) -> Iterator[NightLine]:
    made = line_of(tmp_path, migrated_file, "01:00", "05:00")
    yield made
    made.close()


class WatchedHealth(Health):
    """Tells when a night trains, and when it has ended."""

    def __init__(self) -> None:
        super().__init__(line=LINE, cameras=[], categories=[], database="", queue_limit=1)
        self.nights: list[NightStatus] = []
        self.ended, self.reached = threading.Event(), threading.Event()

    def set_night(self, night: NightStatus) -> None:
        was_running = bool(self.nights) and self.nights[-1].is_running
        self.nights.append(night)
        if night.step == "train":
            self.reached.set()
        if was_running and not night.is_running:
            self.ended.set()


def schedule_of(line: NightLine, health: Health, now: datetime | None = None) -> Schedule:
    training = line.config.training
    assert training is not None
    return Schedule(
        line.config,
        training,
        line.file,
        line.engine,
        health,
        (lambda: datetime.now(UTC)) if now is None else (lambda: now),
    )


def rows(line: NightLine) -> list[JobRun]:
    """Of all nights that have a row."""
    with line.engine.connect() as connection:
        dues = connection.scalars(select(JobRunRow.due_utc)).all()
        runs = [job_runs.of_window(connection, LINE, due) for due in dues]
    return [run for run in runs if run is not None]


def test_it_fires_at_every_start_also_around_clock_changes() -> None:
    window = Window(time(2, 30), time(5), BERLIN)
    trigger = NightTrigger(window)
    fired, now = [], datetime(2026, 3, 27, 12, tzinfo=UTC)

    for _ in range(4):
        now = trigger.get_next_fire_time(fired[-1] if fired else None, now)
        fired.append(now)

    days = (date(2026, 3, 28) + timedelta(days=n) for n in range(4))
    assert fired == [night_on(window, day).start_utc for day in days]


def test_a_night_that_was_missed_is_noted_at_the_next_start(line: NightLine) -> None:
    with write_transaction(line.engine) as connection:
        run_id = job_runs.begin(connection, LINE, TONIGHT - timedelta(days=3), NOON)
        job_runs.end(connection, LINE, run_id, JobState.NOTHING, "", NOON)
    health = WatchedHealth()
    schedule = schedule_of(line, health, NOON)

    schedule.start()
    schedule.stop()

    (missed,) = (run for run in rows(line) if run.state == JobState.MISSED)
    assert missed.due_utc == TONIGHT
    assert "was not running" in missed.detail
    assert health.nights[0].next_start_utc == TONIGHT + timedelta(days=1)


def test_a_line_that_has_just_begun_has_missed_nothing(line: NightLine) -> None:
    schedule = schedule_of(line, WatchedHealth(), NOON)

    schedule.start()
    schedule.stop()

    assert rows(line) == []


@pytest.mark.e2e
def test_a_night_that_can_still_begin_runs_as_a_process_and_says_that_it_did_nothing(
    tmp_path: Path, migrated_file: Path
) -> None:
    now = datetime.now(BERLIN)
    start, end = (now + timedelta(hours=hours) for hours in (-1, 2))
    line = line_of(tmp_path, migrated_file, f"{start:%H:%M}", f"{end:%H:%M}")
    health = WatchedHealth()
    schedule = schedule_of(line, health)

    schedule.start()
    ended = health.ended.wait(90)
    schedule.stop()

    (run,) = rows(line)
    line.close()
    assert ended
    assert (run.state, run.attempts) == (JobState.NOTHING, 1)
    assert "0 labels are new" in run.detail
    assert health.nights[-1].state == "nothing"
    assert health.nights[-1].detail == run.detail


def test_a_night_whose_process_cannot_be_started_is_told(
    tmp_path: Path, migrated_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(BERLIN)
    start, end = (now + timedelta(hours=hours) for hours in (-1, 2))
    line = line_of(tmp_path, migrated_file, f"{start:%H:%M}", f"{end:%H:%M}")
    monkeypatch.setattr("sys.executable", str(tmp_path / "gone"))

    schedule_of(line, WatchedHealth())._run_night()

    (run,) = rows(line)
    line.close()
    assert run.state == JobState.FAILED
    assert "could not be started: No such file" in run.detail


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_daemon_that_stops_ends_the_night_in_order(tmp_path: Path, migrated_file: Path) -> None:
    now = datetime.now(BERLIN)
    start, end = (now + timedelta(hours=hours) for hours in (-1, 2))
    line = line_of(tmp_path, migrated_file, f"{start:%H:%M}", f"{end:%H:%M}")
    for is_ng in (False, True):
        files = draw(tmp_path / "pictures", 12, is_ng=is_ng, seed=1)
        line.label("grain", [Shown(file, is_ng) for file in files])
    health = WatchedHealth()
    schedule = schedule_of(line, health)

    schedule.start()
    trains = health.reached.wait(200)
    schedule.stop()

    (run,) = rows(line)
    line.close()
    assert trains
    assert run.state == JobState.KILLED
    assert "it was told to stop; the next night goes on where it was" in run.detail
