"""What is counted and watched while the daemon runs: heartbeats, frame counts, latencies.

Called from every thread; knows no socket, file or database.
"""

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args

import numpy as np

from daemon.core import FrameLoss, Inspection, LossReason, Severity, Stage, Verdict
from daemon.histogram import Counted, Histogram
from daemon.status import (
    CameraStatus,
    ConfigStatus,
    ModelStatus,
    NightStatus,
    SourceStatus,
    StageStatus,
    State,
    StatusSnapshot,
    ThreadStatus,
)

LATENCY_WINDOW = 4096
UNKNOWN = "(unknown)"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SCORES = tuple(tenth / 20 for tenth in range(1, 21))
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Measured:
    """Distributions since the start."""

    batch_size: Counted
    frame_to_verdict_s: Counted
    stages_s: Mapping[Stage, Counted]
    pred_scores: Mapping[str, Counted]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Frame to verdict.

    Attributes:
        count: Frames so far.
        latest_s: Of the last LATENCY_WINDOW of them, in seconds, oldest first.
    """

    count: int
    latest_s: list[float]


class Heartbeat:
    """Proof of progress of one thread, which calls `beat` at least every `max_age_s` seconds."""

    def __init__(self, name: str, max_age_s: float, clock: Callable[[], float]) -> None:
        self.name = name
        self.max_age_s = max_age_s
        self._clock = clock
        self._beat_at = clock()

    def beat(self) -> None:
        """Show progress."""
        self._beat_at = self._clock()

    def beat_at(self, at: float) -> None:
        """Show progress that was made at another instant of the same clock."""
        self._beat_at = at

    def age_s(self, now: float) -> float:
        """Seconds since the last beat."""
        return max(0.0, now - self._beat_at)

    def is_alive(self, now: float) -> bool:
        """Whether the thread beat in time."""
        return self.age_s(now) <= self.max_age_s


class Health:
    """Everything the daemon knows of its own state; thread-safe.

    Cameras and categories other than the configured ones are counted together as UNKNOWN: a
    sender who invents names gains no memory.

    Args:
        line: Name of the line.
        cameras: Configured cameras.
        categories: Configured categories.
        database: URL without its password.
        queue_limit: Most frames that may wait for the detector.
    """

    def __init__(
        self,
        *,
        line: str,
        cameras: Iterable[str],
        categories: Iterable[str],
        database: str,
        queue_limit: int,
        started_utc: datetime | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._line = line
        self._database = database
        self._queue_limit = queue_limit
        self._clock = clock
        self._started_at = clock()
        self._started_utc = datetime.now(UTC) if started_utc is None else started_utc
        self._lock = threading.Lock()
        self._state = State.STARTING
        self._model_version: str | None = None
        self._model: ModelStatus | None = None
        self._config: ConfigStatus | None = None
        self._night: NightStatus | None = None
        self._heartbeats: list[Heartbeat] = []
        self._sources: dict[str, SourceStatus] = {}
        self._received: Counter[str] = Counter()
        self._inspected: Counter[str] = Counter()
        self._last_frame_utc: dict[str, datetime] = {}
        self._lost: dict[str, Counter[LossReason]] = {name: Counter() for name in cameras}
        self._lost[UNKNOWN] = Counter()
        self._verdicts: dict[str, Counter[Verdict]] = {name: Counter() for name in categories}
        self._verdicts[UNKNOWN] = Counter()
        self._latencies_s: deque[float] = deque(maxlen=LATENCY_WINDOW)
        self._queue_frames = 0
        self._batches = 0
        self._batch_frames = 0
        self._counters: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._troubles: dict[str, str] = {}
        self._events: Counter[Severity] = Counter()
        self._batch_size = Histogram(_BATCHES)
        self._frame_to_verdict = Histogram(_SECONDS)
        self._stages: dict[Stage, Histogram] = {
            name: Histogram(_SECONDS) for name in get_args(Stage)
        }
        self._scores = {name: Histogram(_SCORES) for name in self._verdicts}

    @property
    def state(self) -> State:
        """Starting, ready or stopping."""
        return self._state

    def set_state(self, state: State) -> None:
        """Enter another stage of life."""
        with self._lock:
            self._state = state

    def set_model_version(self, version: str) -> None:
        """Say which model decides from now on."""
        with self._lock:
            self._model_version = version

    def set_model(self, model: ModelStatus) -> None:
        """Say how the models of the line stand."""
        with self._lock:
            self._model = model

    def set_night(self, night: NightStatus) -> None:
        """Say how nightly training stands."""
        with self._lock:
            self._night = night

    def follow(self, cameras: Iterable[str], categories: Iterable[str]) -> None:
        """Count these too; what was counted of others stays."""
        with self._lock:
            for name in cameras:
                self._lost.setdefault(name, Counter())
            for name in categories:
                self._verdicts.setdefault(name, Counter())
                self._scores.setdefault(name, Histogram(_SCORES))

    def set_config(self, config: ConfigStatus) -> None:
        """Say which configuration is in force, and how the last reload went."""
        with self._lock:
            self._config = config

    def watch(self, name: str, max_age_s: float) -> Heartbeat:
        """Watch one more thread; it must beat from now on."""
        heartbeat = Heartbeat(name, max_age_s, self._clock)
        with self._lock:
            self._heartbeats.append(heartbeat)
        return heartbeat

    def dead_threads(self, now: float) -> list[str]:
        """Names of the threads that did not beat in time."""
        with self._lock:
            return [beat.name for beat in self._heartbeats if not beat.is_alive(now)]

    def set_received(
        self, camera: str | None, received: int, last_frame_utc: datetime | None
    ) -> None:
        """Say how many messages came so far; `camera` None stands for no configured one."""
        with self._lock:
            name = self._camera(camera)
            self._received[name] = received
            if last_frame_utc is not None:
                self._last_frame_utc[name] = last_frame_utc

    def set_sources(self, sources: Mapping[str, SourceStatus]) -> None:
        """Say what was heard of each source."""
        with self._lock:
            self._sources = dict(sources)

    def count_loss(self, loss: FrameLoss) -> None:
        """Count frames that have no inspection row."""
        with self._lock:
            self._lost[self._camera(loss.camera)][loss.reason] += loss.frames

    def count_inspection(self, inspection: Inspection) -> None:
        """Count a verdict; ERROR counts as lost under its reason, and has no latency."""
        camera, category = inspection.info.frame_id.camera, inspection.info.category
        with self._lock:
            self._verdicts[self._category(category)][inspection.verdict] += 1
            if inspection.verdict is Verdict.ERROR:
                reason = inspection.error_reason or LossReason.INFERENCE_FAILED
                self._lost[self._camera(camera)][reason] += 1
            else:
                self._inspected[self._camera(camera)] += 1
                self._latencies_s.append(inspection.frame_to_verdict_s)
                self._frame_to_verdict.observe(inspection.frame_to_verdict_s)
            if inspection.pred_score is not None:
                self._scores[self._category(category)].observe(inspection.pred_score)

    def count_batch(self, frames: int) -> None:
        """Count one batch given to the detector."""
        with self._lock:
            self._batches += 1
            self._batch_frames += frames
            self._batch_size.observe(frames)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Count how long one frame, or one batch, took in a stage."""
        with self._lock:
            self._stages[stage].observe(seconds)

    def count_event(self, severity: Severity) -> None:
        """Count an entry of the line's diary."""
        with self._lock:
            self._events[severity] += 1

    def set_trouble(self, name: str, detail: str | None) -> None:
        """Say why frames cannot be handled now; None says that this is over."""
        with self._lock:
            if detail is None:
                self._troubles.pop(name, None)
            else:
                self._troubles[name] = detail

    def set_refused(self, totals: Mapping[str, int]) -> None:
        """Say who was refused so far, by reason."""
        with self._lock:
            self._refused = dict(totals)

    def measured(self) -> Measured:
        """Every distribution at this instant."""
        with self._lock:
            return Measured(
                batch_size=self._batch_size.counted(),
                frame_to_verdict_s=self._frame_to_verdict.counted(),
                stages_s={name: histogram.counted() for name, histogram in self._stages.items()},
                pred_scores={name: scores.counted() for name, scores in self._scores.items()},
            )

    def latencies(self) -> Latencies:
        """How long the last frames took."""
        with self._lock:
            count = sum(self._frame_to_verdict.counted().counts)
            return Latencies(count, list(self._latencies_s))

    def set_queue_frames(self, frames: int) -> None:
        """Say how many frames wait for the detector."""
        with self._lock:
            self._queue_frames = frames

    def set_counter(self, name: str, total: int) -> None:
        """Say the total of something that a part counts itself, such as write retries."""
        with self._lock:
            self._counters[name] = total

    def snapshot(self, now: float, now_utc: datetime) -> StatusSnapshot:
        """Everything at this instant.

        Args:
            now: Monotonic seconds, by the clock given at construction.
            now_utc: The same instant as a date.
        """
        with self._lock:
            latencies_s = np.array(self._latencies_s)
            p50_s, p99_s = (
                np.percentile(latencies_s, [50, 99]).tolist() if len(latencies_s) else (None, None)
            )
            return StatusSnapshot(
                state=self._state,
                pid=os.getpid(),
                line=self._line,
                started_utc=self._started_utc,
                written_utc=now_utc,
                uptime_s=now - self._started_at,
                database=self._database,
                model_version=self._model_version,
                model=self._model,
                config=self._config,
                night=self._night,
                sources=dict(self._sources),
                cameras={name: self._camera_status(name) for name in self._lost},
                verdicts={name: dict(counts) for name, counts in self._verdicts.items()},
                latency_frames=len(latencies_s),
                latency_p50_s=p50_s,
                latency_p99_s=p99_s,
                stages=self._stage_statuses(),
                queue_frames=self._queue_frames,
                queue_limit=self._queue_limit,
                batches=self._batches,
                batch_mean=self._batch_frames / self._batches if self._batches else None,
                threads={
                    beat.name: ThreadStatus(age_s=beat.age_s(now), max_age_s=beat.max_age_s)
                    for beat in self._heartbeats
                },
                troubles=dict(self._troubles),
                refused=dict(self._refused),
                events=dict(self._events),
                counters=dict(self._counters),
            )

    def _stage_statuses(self) -> dict[Stage, StageStatus]:
        found = {}
        for stage, histogram in self._stages.items():
            counted = histogram.counted()
            p50_s, p99_s = counted.quantile(0.5), counted.quantile(0.99)
            if p50_s is not None and p99_s is not None:
                found[stage] = StageStatus(p50_s=p50_s, p99_s=p99_s)
        return found

    def _camera_status(self, name: str) -> CameraStatus:
        return CameraStatus(
            received=self._received[name],
            inspected=self._inspected[name],
            lost=dict(self._lost[name]),
            last_frame_utc=self._last_frame_utc.get(name),
        )

    def _camera(self, name: str | None) -> str:
        return name if name in self._lost and name is not None else UNKNOWN

    def _category(self, name: str) -> str:
        return name if name in self._verdicts else UNKNOWN
