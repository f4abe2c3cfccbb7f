"""The inspection thread: take frames, batch them, inspect, hand results on to be drawn and stored.

When they are handed on, whoever waits for the verdicts has been told already.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from daemon.core import Calibration, Event, Frame, Inspection
from daemon.inspection.batcher import Batcher
from daemon.inspection.pictures import Undrawn

IDLE_WAIT_S = 0.2

Result = Inspection | Undrawn | Calibration | Event

Inspect = Callable[[Sequence[Frame]], Sequence[Result]]
"""A batch to its results; what else looks at frames is wrapped around it."""


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
        inspect: Inspect,
        sink: Callable[[Sequence[Result]], None],
        beat: Callable[[], None],
        clock: Callable[[], float],
        between: Callable[[bool], None] = lambda is_idle: None,  # noqa: ARG005
    ) -> None:
        """Args are kept.

        Args:
            beat: Called at least every IDLE_WAIT_S plus one batch, for the watchdog.
            between: Called between batches, with whether no frame waits anywhere.
        """
        self._frames = frames
        self._batcher = batcher
        self._inspect = inspect
        self._sink = sink
        self._beat = beat
        self._clock = clock
        self._between = between

    def run(self, stop: threading.Event) -> None:
        """Inspect until `stop` is set and every received frame is decided."""
        while not (stop.is_set() and self._frames.empty() and self._batcher.due_at() is None):
            self._beat()
            self._between(self._frames.empty() and self._batcher.due_at() is None)
            self._receive()
            if batch := self._batcher.take(now=self._clock()):
                self._sink(self._inspect(batch))

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
