"""When the night is, and the process that it runs in: started, watched, paused and ended here.

The list of jobs is this file. APScheduler keeps nothing: what was due while the daemon was away is
seen from `job_run` at the start. Learns nothing itself; torch is in the child only.
"""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from daemon.config.line import Config
from daemon.config.training import TrainingConfig
from daemon.health import Health
from daemon.latency_guard import PAUSE_NAME, LatencyGuard
from daemon.status import NightStatus
from daemon.storage import job_runs
from daemon.storage.database import write_transaction
from daemon.storage.job_runs import JobRun, JobState
from daemon.training.window import Night, Window, latest_night, may_still_start, next_night

logger = logging.getLogger(__name__)

LOOK_S = 1.0
TERM_AFTER_S = 30.0
"""A child that has not ended by itself so long after its window is told to, then killed."""
KILL_AFTER_S = 15.0
BUSY_CODE = 2


class NightTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler is untyped
    """Fires when a night's window begins, on nights of 23, 24 and 25 hours."""

    def __init__(self, window: Window) -> None:
        self._window = window

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """APScheduler's contract; both are aware."""
        return next_night(self._window, now if previous is None else max(previous, now)).start_utc


class Schedule:
    """One line's nights. Its threads are APScheduler's; any thread may ask for `publish`."""

    def __init__(
        self,
        config: Config,
        training: TrainingConfig,
        config_file: Path,
        engine: Engine,
        health: Health,
        now: Callable[[], datetime],
    ) -> None:
        """Args are kept; nothing starts."""
        self._config, self._training = config, training
        self._config_file, self._engine, self._health, self._now = (
            config_file,
            engine,
            health,
            now,
        )
        self._window = Window(training.window_start, training.window_end, config.zone)
        self._pause_file = config.run_dir / PAUSE_NAME
        self._stop = threading.Event()
        self._is_paused = False
        self._scheduler = BackgroundScheduler(
            timezone="UTC",
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={
                "coalesce": True,
                "max_instances": 1,
                "misfire_grace_time": training.misfire_hours * 3600,
            },
        )

    def start(self) -> None:
        """Note what was missed, take up what can still be done, wait for the next night."""
        self._scheduler.add_job(self._run_night, NightTrigger(self._window), id="night")
        if self._catch_up():
            self._scheduler.add_job(self._run_night, id="catch-up")
        self._publish(None)
        self._scheduler.start()

    def stop(self) -> None:
        """End the child in order; it goes on at the next chance."""
        self._stop.set()
        self._scheduler.shutdown(wait=True)
        self._pause_file.unlink(missing_ok=True)

    # -- what was due while the daemon was away ------------------------------------------------

    def _catch_up(self) -> bool:
        """Whether the latest night may begin, or go on, now."""
        now = self._now()
        night = latest_night(self._window, now)
        try:
            with self._engine.connect() as connection:
                run = job_runs.of_window(connection, self._config.line, night.start_utc)
                is_first = job_runs.latest(connection, self._config.line) is None
        except OperationalError as error:  # away: the next night comes
            logger.warning("nights not read", extra={"error": str(error.orig)})
            return False
        if _can_go_on(run, night, now, timedelta(hours=self._training.misfire_hours)):
            return True
        if run is None and not is_first:  # a line that never had a night has missed none
            self._note_end(night, JobState.MISSED, "the daemon was not running, or came too late")
        return False

    # -- one night, in APScheduler's thread ----------------------------------------------------

    def _run_night(self) -> None:
        night = latest_night(self._window, self._now())
        if not night.contains(self._now()):
            words = "the clocks skip tonight's window" if _is_empty(night) else "it came too late"
            self._note_end(night, JobState.MISSED, words)
            return
        guard = LatencyGuard(self._health.latencies().latest_s, self._training.max_latency_ratio)
        logger.info("night begins", extra={"ends_utc": night.end_utc})
        command = [sys.executable, "-m", "daemon", "train", "nightly", "--config"]
        try:
            child = subprocess.Popen(  # noqa: S603 - this very program
                [*command, str(self._config_file)],
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:  # no memory, no more processes
            logger.exception("night not started")
            words = f"its process could not be started: {error.strerror}"
            self._note_end(night, JobState.FAILED, words)
            return
        try:
            self._watch(child, night, guard)
        finally:
            code = self._end(child)
            self._set_pause(is_slow=False)
        self._close(night, code, guard)

    def _watch(self, child: "subprocess.Popen[bytes]", night: Night, guard: LatencyGuard) -> None:
        """Until the child is done, the window over, or the daemon stops."""
        seen = self._health.latencies().count
        last_chance = night.end_utc + timedelta(seconds=TERM_AFTER_S)
        while child.poll() is None and self._now() < last_chance:
            found = self._health.latencies()
            new = min(found.count - seen, len(found.latest_s))
            seen = found.count
            self._set_pause(is_slow=guard.feed(found.latest_s[len(found.latest_s) - new :]))
            self._publish(night)
            if self._stop.wait(LOOK_S):
                return

    def _end(self, child: "subprocess.Popen[bytes]") -> int:
        """SIGTERM, then SIGKILL; the exit code."""
        if child.poll() is None:
            child.terminate()
        try:
            return child.wait(KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def _set_pause(self, *, is_slow: bool) -> None:
        """The child looks at the file's age, so that it need not wait for a daemon that died."""
        try:
            if is_slow:
                self._pause_file.touch()
            else:
                self._pause_file.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("training not paused", extra={"error": str(error)})
        if is_slow is not self._is_paused:
            self._is_paused = is_slow
            logger.info("training paused" if is_slow else "training goes on")

    def _close(self, night: Night, code: int, guard: LatencyGuard) -> None:
        """What the child could not say itself, and how inspection fared."""
        if self._stop.is_set():
            self._note_end(night, JobState.KILLED, "the daemon was stopped; it goes on later")
        elif code < 0:
            self._note_end(night, JobState.KILLED, f"it was ended by signal {-code}")
        elif code != BUSY_CODE or self._run(night) is None:
            words = f"it ended with code {code}; the daemon's log says why"
            self._note_end(night, JobState.FAILED, words)
        before, during = guard.before_p99_s, guard.during_p99_s
        logger.info(
            "night ended",
            extra={"code": code, "latency_before_s": before, "latency_during_s": during},
        )
        try:
            with write_transaction(self._engine) as connection:
                job_runs.note_latency(
                    connection, self._config.line, night.start_utc, _ms(before), _ms(during)
                )
        except OperationalError as error:
            logger.warning("latency not noted", extra={"error": str(error.orig)})
        self._publish(None)

    # -- the database and the status -----------------------------------------------------------

    def _note_end(self, night: Night, state: JobState, detail: str) -> None:
        try:
            with write_transaction(self._engine) as connection:
                job_runs.note_end_of_window(
                    connection, self._config.line, night.start_utc, state, detail, self._now()
                )
        except OperationalError as error:
            logger.warning("night not noted", extra={"error": str(error.orig)})

    def _run(self, night: Night | None) -> JobRun | None:
        """The row of a night, or the latest; None also where the database is away."""
        try:
            with self._engine.connect() as connection:
                if night is None:
                    return job_runs.latest(connection, self._config.line)
                return job_runs.of_window(connection, self._config.line, night.start_utc)
        except OperationalError:
            return None

    def _publish(self, night: Night | None) -> None:
        """How the night stands, for `zsad status`."""
        run = self._run(night)
        status = NightStatus(
            next_start_utc=next_night(self._window, self._now()).start_utc,
            is_running=night is not None,
            is_paused=self._is_paused,
        )
        if run is not None:
            status = status.model_copy(
                update={
                    "state": run.state.value,
                    "due_utc": run.due_utc,
                    "step": run.step,
                    "done": run.done,
                    "total": run.total,
                    "detail": run.detail,
                }
            )
        self._health.set_night(status)


def _can_go_on(run: JobRun | None, night: Night, now: datetime, misfire: timedelta) -> bool:
    if run is None:
        return may_still_start(night, now, misfire)
    is_open = run.state in (JobState.RUNNING, JobState.KILLED)  # nobody runs it: it was killed
    return is_open and night.contains(now)


def _is_empty(night: Night) -> bool:
    return night.end_utc <= night.start_utc


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
