"""Latency over throughput of the batching, by the real loop in simulated time.

    pytest -m benchmark -s tests/benchmarks/test_batching_curve.py

Only the cost of a pass is assumed, so the curve does not depend on what else the machine does. A
CPU costs the same for each frame; a GPU has a fixed cost for each pass, and batching pays.
Cameras with a trigger send at a steady pace, each in its own phase; Poisson arrivals are the worst
that a line can be. Latency is from receipt to verdict; the bound is what a frame cannot avoid,
its wait for company and the slowest pass.
"""

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.core import Frame, FrameId, FrameInfo
from daemon.inspection.batcher import Batcher
from daemon.inspection.loop import InspectionLoop, Result

pytestmark = pytest.mark.benchmark

FRAMES = 20_000
CAMERAS = 8
IMAGE = np.zeros((2, 2, 3), dtype=np.uint8)
NOW = datetime(2026, 1, 31, tzinfo=UTC)


@dataclass(frozen=True)
class Cost:
    """Seconds of a pass: `fixed_s` and `frame_s` for each frame of it."""

    name: str
    fixed_s: float
    frame_s: float

    def of(self, frames: int) -> float:
        return self.fixed_s + self.frame_s * frames

    def capacity(self, max_size: int) -> float:
        """Frames per second with full batches."""
        return max_size / self.of(max_size)


CPU = Cost("CPU, 80 ms a frame", 0.0, 0.080)
GPU = Cost("GPU, 8 ms a pass and 2 ms a frame", 0.008, 0.002)


class Simulation:
    """A frame source, a clock and a detector; time passes when the loop waits or inspects."""

    def __init__(self, arrive_at: NDArray[np.float64], cost: Cost) -> None:
        self.now = 0.0
        self.latency_s: list[float] = []
        self.pass_s: list[float] = []
        self._arrive_at = arrive_at.tolist()
        self._cost = cost
        self._next = 0

    def get(self, timeout_s: float) -> Frame:
        if self.empty() or self._arrive_at[self._next] > self.now + timeout_s:
            self.now += timeout_s
            raise queue.Empty
        self.now = max(self.now, self._arrive_at[self._next])
        return self.get_nowait()

    def get_nowait(self) -> Frame:
        if self.empty() or self._arrive_at[self._next] > self.now:
            raise queue.Empty
        info = FrameInfo(
            FrameId("cam", 1, self._next), "tile", NOW, NOW, self._arrive_at[self._next]
        )
        self._next += 1
        return Frame(info, IMAGE)

    def empty(self) -> bool:
        return self._next == len(self._arrive_at)

    def inspect(self, batch: Sequence[Frame]) -> list[Result]:
        self.pass_s.append(self._cost.of(len(batch)))
        self.now += self.pass_s[-1]
        self.latency_s += [self.now - frame.info.received_at for frame in batch]
        return []


def arrivals(rate: float, *, is_steady: bool) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    if not is_steady:
        return np.cumsum(rng.exponential(1 / rate, FRAMES))
    period = CAMERAS / rate * rng.uniform(0.98, 1.02, CAMERAS)  # no two clocks are alike
    phase = rng.uniform(0, period)
    of_each = [np.arange(FRAMES // CAMERAS) * period[i] + phase[i] for i in range(CAMERAS)]
    return np.sort(np.concatenate(of_each))


def simulate(cost: Cost, max_size: int, delay_s: float, load: float, *, is_steady: bool) -> str:
    rate = load * cost.capacity(max_size)
    simulation = Simulation(arrivals(rate, is_steady=is_steady), cost)
    stop = threading.Event()
    stop.set()  # so that the loop ends with the last frame
    InspectionLoop(
        frames=simulation,
        batcher=Batcher(max_size=max_size, max_wait_s=delay_s),
        inspect=simulation.inspect,
        sink=lambda results: None,
        beat=lambda: None,
        clock=lambda: simulation.now,
    ).run(stop)
    assert len(simulation.latency_s) == FRAMES
    p50, p99 = np.percentile(simulation.latency_s, (50, 99))
    bound = delay_s + float(np.percentile(simulation.pass_s, 99))
    return (
        f"{rate:6.1f}/s  p50 {p50 * 1000:6.1f}  p99 {p99 * 1000:6.1f} ms  "
        f"{FRAMES / len(simulation.pass_s):4.1f} a pass  p99 over bound {p99 / bound:.2f}"
    )


@pytest.mark.parametrize("cost", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("is_steady", [True, False], ids=["steady", "poisson"])
def test_latency_over_load(cost: Cost, is_steady: bool) -> None:
    print(f"\n{cost.name}, {'steady cameras' if is_steady else 'Poisson arrivals'}")
    for max_size, delay_s in ((1, 0.0), (4, 0.02), (8, 0.04)):
        for load in (0.3, 0.5, 0.7, 0.9):
            line = simulate(cost, max_size, delay_s, load, is_steady=is_steady)
            print(f"batch {max_size}, {delay_s * 1000:.0f} ms, load {load:.0%}: {line}")
