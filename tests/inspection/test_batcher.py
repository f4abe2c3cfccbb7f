"""Batches are full under load, late frames leave, order is kept."""

import queue
import threading
from collections import deque
from datetime import UTC, datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from daemon.core import Frame, FrameId, FrameInfo
from daemon.inspection.batcher import Batcher
from daemon.inspection.loop import InspectionLoop, Result

NOW = datetime(2026, 1, 31, tzinfo=UTC)
IMAGE = np.zeros((2, 2, 3), dtype=np.uint8)


def frame(seq: int, received_at: float) -> Frame:
    return Frame(FrameInfo(FrameId("cam", 1, seq), "tile", NOW, NOW, received_at), IMAGE)


@given(gaps_s=st.lists(st.floats(0, 1), max_size=40), max_size=st.integers(1, 8))
def test_batcher_keeps_order_and_bounds(gaps_s: list[float], max_size: int) -> None:
    batcher, now, taken = Batcher(max_size=max_size, max_wait_s=0.04), 0.0, []
    for seq, gap_s in enumerate(gaps_s):
        now += gap_s
        batcher.add(frame(seq, now))
        batch = batcher.take(now=now)
        assert len(batch) <= max_size
        taken += batch
    while batch := batcher.take(now=now + 1.0):
        taken += batch

    assert [taken_frame.info.frame_id.seq for taken_frame in taken] == list(range(len(gaps_s)))


def test_a_lone_frame_waits_its_delay_and_no_longer() -> None:
    batcher = Batcher(max_size=8, max_wait_s=0.04)
    batcher.add(frame(0, 10.0))

    assert batcher.take(now=10.039) == []
    assert len(batcher.take(now=10.04)) == 1


class ListedFrames:
    """A frame source that has everything at once and then nothing."""

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = deque(frames)

    def get(self, timeout_s: float) -> Frame:
        return self.get_nowait()

    def get_nowait(self) -> Frame:
        if not self._frames:
            raise queue.Empty
        return self._frames.popleft()

    def empty(self) -> bool:
        return not self._frames


def test_backlog_leaves_in_full_batches() -> None:
    sizes: list[int] = []

    def inspect(batch: list[Frame]) -> list[Result]:
        sizes.append(len(batch))
        return []

    stop = threading.Event()
    stop.set()  # so that the loop ends once everything is decided
    InspectionLoop(
        frames=ListedFrames([frame(seq, 0.0) for seq in range(19)]),
        batcher=Batcher(max_size=8, max_wait_s=0.04),
        inspect=inspect,
        sink=lambda results: None,
        beat=lambda: None,
        clock=lambda: 100.0,
    ).run(stop)

    assert sizes == [8, 8, 3]
