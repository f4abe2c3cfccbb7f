"""The inspection thread: take frames, batch them, inspect, hand results on."""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from daemon.core import Calibration, Event, Frame, Inspection
from daemon.inspection.batcher import Batcher

IDLE_WAIT_S = 0.2

Result = Inspection | Calibration | Event


class FrameSource(Protocol):
    """Where frames come from; the ingest queue in the daemon."""

    def get(self, timeout_s: float) -> Frame:
        """The next frame; raises queue.Empty after `timeout_s`."""
        ...

    def get_nowait(self) -> Frame:
        """The next frame; raises queue.Empty when there is none."""
        ...

    def empty(self) -> bool:
        """Whether no frame waits."""
        ...


class InspectionLoop:
    """Owns the detector's thread; everything it does goes through the callables it was given."""

    def __init__(
        self,
        *,
        frames: FrameSource,
        batcher: Batcher,
        inspect: Callable[[Sequence[Frame]], Sequence[Result]],
        sink: Callable[[Result], None],
        beat: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """`beat` is called at least every IDLE_WAIT_S plus one batch, for the watchdog."""
        self._frames = frames
        self._batcher = batcher
        self._inspect = inspect
        self._sink = sink
        self._beat = beat
        self._clock = clock

    def run(self, stop: threading.Event) -> None:
        """Inspect until `stop` is set and every received frame is decided."""
        while not (stop.is_set() and self._frames.empty() and self._batcher.due_at() is None):
            self._beat()
            self._receive()
            if batch := self._batcher.take(now=self._clock()):
                for result in self._inspect(batch):
                    self._sink(result)

    def _receive(self) -> None:
        """Wait for a frame until a batch is due, then take all that have already arrived.

        Draining first keeps batches full under overload, when every frame is already late.
        """
        due_at = self._batcher.due_at()
        wait_s = IDLE_WAIT_S if due_at is None else max(0.0, due_at - self._clock())
        with contextlib.suppress(queue.Empty):
            self._batcher.add(self._frames.get(timeout_s=min(wait_s, IDLE_WAIT_S)))
            while not self._batcher.is_full():
                self._batcher.add(self._frames.get_nowait())
