"""The picture thread: draws what inspection left undrawn, and hands results on in their order.

Its queue is short, because an undrawn result keeps its frame in memory. When it is full the
inspection thread waits, which is counted, and frames queue or are dropped at the daemon's entrance.
"""

import queue
import threading
from collections.abc import Callable, Sequence

from daemon.core import Calibration, Event, Inspection
from daemon.errors import StorageError
from daemon.inspection.loop import Result
from daemon.inspection.pictures import Undrawn

MAX_BATCHES = 2
"""Waiting, beside the one that is being drawn."""
WAIT_S = 0.2


class Drawer:
    """One thread puts, one runs; everything else goes through the callables it was given.

    Attributes:
        waits: Batches that found the queue full.
    """

    def __init__(
        self,
        *,
        sink: Callable[[Inspection | Calibration | Event], None],
        on_draw: Callable[[float], None],
        beat: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Args are kept.

        Args:
            sink: Where results go; may wait.
            on_draw: Told the seconds of each batch that had something to draw.
            beat: Called at least every WAIT_S plus one batch, for the watchdog.
            clock: Monotonic seconds.
        """
        self.waits = 0
        self._sink = sink
        self._on_draw = on_draw
        self._beat = beat
        self._clock = clock
        self._waiting: queue.Queue[Sequence[Result]] = queue.Queue(MAX_BATCHES)
        self._has_ended = threading.Event()

    def put(self, results: Sequence[Result], *, on_wait: Callable[[], None]) -> None:
        """Hand over a batch; waits while the queue is full.

        Args:
            on_wait: Called several times a second meanwhile (a heartbeat).

        Raises:
            StorageError: The picture thread has ended; the batch was not taken.
        """
        self.waits += self._waiting.full()
        while not self._has_ended.is_set():
            try:
                self._waiting.put(results, timeout=WAIT_S)
            except queue.Full:
                on_wait()
            else:
                return
        raise StorageError("the picture thread has ended; nothing more can be drawn or stored")

    def run(self, stop: threading.Event) -> None:
        """Draw until `stop` is set and nothing waits."""
        try:
            while not (stop.is_set() and self._waiting.empty()):
                self._beat()
                try:
                    results = self._waiting.get(timeout=WAIT_S)
                except queue.Empty:
                    continue
                for result in self._drawn(results):
                    self._sink(result)
        finally:
            self._has_ended.set()

    def _drawn(self, results: Sequence[Result]) -> list[Inspection | Calibration | Event]:
        began_at = self._clock()
        drawn = [item.drawn() if isinstance(item, Undrawn) else item for item in results]
        if any(isinstance(item, Undrawn) for item in results):
            self._on_draw(self._clock() - began_at)
        return drawn
