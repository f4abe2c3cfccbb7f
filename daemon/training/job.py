"""The nightly job as a process of its own: one at a time, with low priority and bounded memory.

It stops between two images when it is told to, when its window ends, and waits there while the
daemon says that inspection has become slow.
"""

import contextlib
import logging
import os
import resource
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from daemon.config.line import Config
from daemon.config.training import TrainingConfig
from daemon.latency_guard import PAUSE_NAME
from daemon.storage import job_runs
from daemon.storage.database import write_transaction
from daemon.storage.job_runs import JobState
from daemon.training.night import Night, OnStep
from daemon.training.night_end import Outcome
from daemon.training.night_work import only_night

logger = logging.getLogger(__name__)

NICE = 15
DEVICE_SHARE = 0.5
"""Of a GPU's memory, at most."""
PAUSE_HOLDS_S = 10.0
"""A pause that the daemon has not renewed for so long is over: the daemon is gone."""
PAUSE_LOOK_S = 0.5
TELL_EVERY_S = 1.0


class StoppedError(Exception):
    """The night has to end before it is done; the message says why."""


def run_job(
    engine: Engine,
    config: Config,
    *,
    due_utc: datetime,
    until_utc: datetime | None,
    now: Callable[[], datetime],
    stop: threading.Event,
    show: OnStep,
) -> Outcome:
    """One night, from lock to row.

    Args:
        due_utc: Start of its window, or now.
        until_utc: End of its window; None has no end.
        stop: Set to end it in order.
        show: Told of every step.

    Raises:
        ConfigError: another night is running, or `models_dir` cannot be written.
        OperationalError: the database is away.
    """
    training = config.training
    assert training is not None, "the caller has looked"  # noqa: S101
    with only_night(training.models_dir):
        with write_transaction(engine) as connection:
            run_id = job_runs.begin(connection, config.line, due_utc, now())
        pace = _Pace(engine, run_id, config.run_dir / PAUSE_NAME, until_utc, now, stop, show)
        try:
            return Night(engine, config, run_id=run_id, now=now, on_step=pace).run()
        except StoppedError as reason:
            detail = f"{reason}; the next night goes on where it was"
            with write_transaction(engine) as connection:
                job_runs.end(connection, config.line, run_id, JobState.KILLED, detail, now())
            return Outcome(JobState.KILLED, detail)


def lower_priority(training: TrainingConfig) -> None:
    """For this whole process: last in line for the CPU, few threads, bounded memory."""
    import cv2
    import torch

    os.nice(NICE)
    with contextlib.suppress(OSError):  # a container may forbid it; nice is enough then
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = training.memory_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    torch.set_num_threads(training.threads)
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(DEVICE_SHARE)
    cv2.setNumThreads(training.threads)


class _Pace:
    """What a night calls at every step: tells, waits and ends."""

    def __init__(
        self,
        engine: Engine,
        run_id: int,
        pause: Path,
        until_utc: datetime | None,
        now: Callable[[], datetime],
        stop: threading.Event,
        show: OnStep,
    ) -> None:
        self._engine, self._run_id, self._pause = engine, run_id, pause
        self._until_utc, self._now, self._stop, self._show = until_utc, now, stop, show
        self._told_at = -TELL_EVERY_S
        self._step = ""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Raises StoppedError."""
        self._show(step, done, total)
        if step != self._step or time.monotonic() - self._told_at >= TELL_EVERY_S:
            self._step, self._told_at = step, time.monotonic()
            self._tell(step, done, total)
        while not self._stop.is_set() and _holds(self._pause):
            self._stop.wait(PAUSE_LOOK_S)
        if self._stop.is_set():
            raise StoppedError("it was told to stop")
        if self._until_utc is not None and self._now() >= self._until_utc:
            raise StoppedError(f"its window ended at {self._until_utc:%Y-%m-%d %H:%M} UTC")

    def _tell(self, step: str, done: int, total: int) -> None:
        try:
            with write_transaction(self._engine) as connection:
                job_runs.progress(connection, self._run_id, step, done, total)
        except OperationalError as error:  # results come first; the next step is told again
            logger.debug("progress not noted", extra={"error": str(error.orig)})


def _holds(pause: Path) -> bool:
    try:
        return time.time() - pause.stat().st_mtime < PAUSE_HOLDS_S
    except FileNotFoundError:
        return False
