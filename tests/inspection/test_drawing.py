"""Pictures are drawn beside inspection, in order; nothing is lost when they are slow or fail."""

import threading
from datetime import UTC, datetime

import numpy as np
import pytest

from daemon.config.recipe import RoiConfig
from daemon.core import (
    Calibration,
    Event,
    EventKind,
    FrameId,
    FrameInfo,
    Inspection,
    Severity,
    Verdict,
)
from daemon.errors import StorageError
from daemon.inspection.drawing import MAX_BATCHES, Drawer
from daemon.inspection.pictures import Undrawn
from zsad.anomaly_map import AnomalyMap

NOW = datetime(2026, 1, 31, tzinfo=UTC)
PATIENCE_S = 30.0
Drawn = Inspection | Calibration | Event


def undrawn(seq: int) -> Undrawn:
    info = FrameInfo(FrameId("cam", 1, seq), "tile", NOW, NOW, 0.0)
    inspection = Inspection(info, Verdict.NG, "m1", NOW, 0.1)
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    return Undrawn(
        inspection, image, AnomalyMap.of(np.zeros((4, 6), dtype=np.float32)), 30, RoiConfig()
    )


class Running:
    """A drawer in a thread, whose sink can be held."""

    def __init__(self) -> None:
        self.stored: list[Drawn] = []
        self.open = threading.Event()
        self.began = threading.Event()
        self.stop = threading.Event()
        self.draw_s: list[float] = []
        self.drawer = Drawer(
            sink=self._store, on_draw=self.draw_s.append, beat=lambda: None, clock=lambda: 1.0
        )
        self.thread = threading.Thread(target=self.drawer.run, args=[self.stop])
        self.thread.start()

    def _store(self, result: Drawn) -> None:
        self.began.set()
        assert self.open.wait(PATIENCE_S)
        self.stored.append(result)

    def end(self) -> None:
        self.open.set()
        self.stop.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def no_wait() -> None:
    raise AssertionError("the queue has room")


def test_pictures_are_drawn_and_order_is_kept_until_the_end() -> None:
    running = Running()
    event = Event(EventKind.STARTED, Severity.INFO, NOW, "said between two frames")

    running.drawer.put([undrawn(0), event, undrawn(1)], on_wait=no_wait)
    running.drawer.put([undrawn(2)], on_wait=no_wait)
    running.end()

    first, second, third, fourth = running.stored
    assert second is event
    for seq, item in enumerate((first, third, fourth)):
        assert isinstance(item, Inspection)
        assert item.info.frame_id.seq == seq
        assert item.thumbnails is not None
    assert len(running.draw_s) == 2


def test_inspection_waits_while_the_queue_is_full_and_that_is_counted() -> None:
    running = Running()
    running.drawer.put([undrawn(0)], on_wait=no_wait)
    assert running.began.wait(PATIENCE_S)
    for seq in range(1, 1 + MAX_BATCHES):
        running.drawer.put([undrawn(seq)], on_wait=no_wait)
    assert running.drawer.waits == 0

    running.drawer.put([undrawn(1 + MAX_BATCHES)], on_wait=running.open.set)
    running.end()

    assert running.drawer.waits == 1
    assert len(running.stored) == MAX_BATCHES + 2


def test_nothing_is_taken_once_the_picture_thread_has_ended() -> None:
    def refuse(result: Drawn) -> None:
        raise StorageError("the writer has died")

    drawer = Drawer(sink=refuse, on_draw=lambda seconds: None, beat=lambda: None, clock=lambda: 1.0)
    drawer.put([undrawn(0)], on_wait=no_wait)
    with pytest.raises(StorageError, match="writer has died"):
        drawer.run(threading.Event())

    with pytest.raises(StorageError, match="picture thread has ended"):
        drawer.put([undrawn(1)], on_wait=no_wait)
