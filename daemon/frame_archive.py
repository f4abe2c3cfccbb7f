"""Whole frames to disk as the camera sent them, in a thread of its own: inspection never waits.

A file is complete on the disk before its row goes to the writer. When the disk is slower than the
frames, or has little room, frames are not kept; they are counted, and the diary says so.
"""

import logging
import queue
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import cv2
import numpy as np

from daemon.config.frames import FramesConfig
from daemon.core import (
    Event,
    EventKind,
    Frame,
    FrameInfo,
    Image,
    ImageFile,
    Inspection,
    KeptFrame,
    Severity,
    Verdict,
)
from daemon.errors import StorageError
from daemon.inspection.loop import Result
from daemon.inspection.pictures import Undrawn
from daemon.storage.disk_space import DiskSpace, Shed
from daemon.storage.frame_folder import digest, frame_path, write_durably

logger = logging.getLogger(__name__)

MAX_WAITING_BYTES = 128 << 20
"""Of frames that wait for the disk; one larger frame may wait alone."""
QUIET_S = 60.0
"""After so long without a frame that was left out the diary says that all are kept again."""
IDLE_WAIT_S = 0.2


Inspect = Callable[[Sequence[Frame]], Sequence[Result]]


@dataclass(frozen=True, slots=True)
class ArchiveCounters:
    """Frames that the policy wanted, since the start.

    Attributes:
        not_kept: For want of room, or because the disk was too slow.
        reason: Of the last one that was not kept, for people.
    """

    kept: int = 0
    not_kept: int = 0
    reason: str = ""


class LossSpell:
    """Turns counters into the diary's entries: one when frames begin to be left out, one after."""

    def __init__(self) -> None:
        self._before = 0
        self._told = 0
        self._last_at: float | None = None

    def event(self, counters: ArchiveCounters, now: float, now_utc: datetime) -> Event | None:
        """What the diary should say since the last call.

        Args:
            now: Monotonic seconds.
        """
        is_new = counters.not_kept > self._told
        if is_new and self._last_at is None:
            self._before = self._told
            detail = f"whole frames are not kept: {counters.reason}"
            event = Event(EventKind.FRAMES_NOT_KEPT, Severity.WARNING, now_utc, detail)
        elif not is_new and self._last_at is not None and now - self._last_at >= QUIET_S:
            self._last_at = None
            left_out = counters.not_kept - self._before
            detail = f"whole frames are kept again; {left_out} were left out"
            event = Event(EventKind.FRAMES_KEPT, Severity.INFO, now_utc, detail)
        else:
            event = None
        if is_new:
            self._told, self._last_at = counters.not_kept, now
        return event


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A frame that waits for the disk: as a file, else its pixels."""

    info: FrameInfo
    verdict: Verdict
    content: ImageFile | Image

    @property
    def n_bytes(self) -> int:
        content = self.content
        return len(content.data) if isinstance(content, ImageFile) else content.nbytes


class FrameArchive:
    """One thread writes, any thread offers; `events` is for the main thread."""

    def __init__(
        self,
        config: FramesConfig,
        *,
        line: str,
        reserve_bytes: int,
        put: Callable[[KeptFrame], None],
        clock: Callable[[], float],
        now: Callable[[], datetime],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Make the folder; nothing starts.

        Args:
            reserve_bytes: What should stay free on the folder's disk.
            put: Takes the row of a file that is complete; may wait.
            clock: Monotonic seconds.
            draw: Random in [0, 1), for the share of OK frames.

        Raises:
            StorageError: The folder cannot be made.
        """
        self._config = config
        self._line = line
        self._space = DiskSpace(config.dir, reserve_bytes)
        self._put = put
        self._clock = clock
        self._now = now
        self._draw = draw
        self._queue: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._counters = ArchiveCounters()
        self._spell = LossSpell()
        try:
            config.dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"frames.dir {config.dir} cannot be made ({error.strerror}): create it for this "
                "user, or configure another"
            ) from error

    @property
    def counters(self) -> ArchiveCounters:
        """A consistent snapshot; replaced, never changed."""
        return self._counters

    def offer(self, frame: Frame, verdict: Verdict) -> None:
        """Keep a frame if the policy wants it; never waits."""
        if not self._wants(verdict):
            return
        waiting = _Waiting(frame.info, verdict, frame.image if frame.file is None else frame.file)
        with self._lock:
            waits = self._waiting_bytes
            if waits and waits + waiting.n_bytes > MAX_WAITING_BYTES:
                self._leave_out(
                    f"{waits} bytes of frames wait for the disk, limit {MAX_WAITING_BYTES}: it is "
                    "too slow"
                )
                return
            self._waiting_bytes += waiting.n_bytes
        self._queue.put(waiting)

    def around(self, inspect: Inspect) -> Inspect:
        """The same inspection, after which its frames are offered."""

        def inspect_and_offer(batch: Sequence[Frame]) -> Sequence[Result]:
            results = inspect(batch)
            for frame, verdict in zip(batch, _verdicts(results), strict=True):
                self.offer(frame, verdict)
            return results

        return inspect_and_offer

    def run(self, stop: threading.Event) -> None:
        """Write until `stop` is set and nothing waits."""
        while True:
            is_stopping = stop.is_set()  # read before the queue: nothing is overlooked
            try:
                waiting = self._queue.get(timeout=0.0 if is_stopping else IDLE_WAIT_S)
            except queue.Empty:
                if is_stopping:
                    return
                continue
            self._keep(waiting)
            with self._lock:
                self._waiting_bytes -= waiting.n_bytes

    def events(self) -> list[Event]:
        """What the diary should say since the last call."""
        event = self._spell.event(self._counters, self._clock(), self._now())
        if event is None:
            return []
        logger.warning("frames", extra={"kind": event.kind, "detail": event.detail})
        return [event]

    def _wants(self, verdict: Verdict) -> bool:
        match verdict:
            case Verdict.OK:
                one_of = self._config.keep_one_ok_of
                return one_of is not None and self._draw() * one_of < 1.0
            case Verdict.NG | Verdict.REVIEW:
                return verdict.value in self._config.keep
            case Verdict.LEARNING:
                return True  # thresholds are made from it, and every later model needs it again
            case Verdict.ERROR:
                return False

    def _keep(self, waiting: _Waiting) -> None:
        if problem := self._shortage(waiting.verdict):
            self._lose(problem)
            return
        info = waiting.info
        try:
            file = waiting.content
            if not isinstance(file, ImageFile):
                file = ImageFile("png", _png(file))
            path = frame_path(self._line, info.frame_id, info.received_utc, file.suffix)
            write_durably(self._config.dir, path, file.data)
        except OSError as error:
            self._lose(f"{self._config.dir} takes no file ({error.strerror})")
            return
        self._put(
            KeptFrame(
                frame_id=info.frame_id,
                category=info.category,
                verdict=waiting.verdict,
                received_utc=info.received_utc,
                path=str(path),
                n_bytes=len(file.data),
                sha256=digest(file.data),
            )
        )
        with self._lock:
            self._counters = replace(self._counters, kept=self._counters.kept + 1)

    def _shortage(self, verdict: Verdict) -> str | None:
        """Good parts go when the disk's reserve is touched, all when half of it is gone."""
        shed = self._space.shed()
        if shed is Shed.ALL_PICTURES or (shed is Shed.OK_PICTURES and verdict is Verdict.OK):
            return f"{self._space.free_bytes()} bytes are free on the disk of {self._config.dir}"
        return None

    def _lose(self, reason: str) -> None:
        with self._lock:
            self._leave_out(reason)

    def _leave_out(self, reason: str) -> None:
        """Under the lock."""
        not_kept = self._counters.not_kept + 1
        self._counters = replace(self._counters, not_kept=not_kept, reason=reason)


def _verdicts(results: Iterable[Result]) -> Iterator[Verdict]:
    """One for each frame of a batch, in order."""
    for result in results:
        if isinstance(result, Undrawn):
            yield result.inspection.verdict
        elif isinstance(result, Inspection):
            yield result.verdict


def _png(image: Image) -> bytes:
    """A PNG of the pixels, with OpenCV's fast settings; grey where the three colours are equal."""
    is_grey = np.array_equal(image[:, :, 0], image[:, :, 1]) and np.array_equal(
        image[:, :, 1], image[:, :, 2]
    )
    pixels = image[:, :, 0] if is_grey else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".png", pixels)
    assert done, "a decoded frame can be encoded"  # noqa: S101
    return encoded.tobytes()
