"""Whether training slows inspection down. Pure: latencies in, pause or go on out."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

PAUSE_NAME = "night.pause"
"""A file in `run_dir`: while it is renewed, training waits."""
MIN_FRAMES = 20
"""Fewer say nothing about a 95th percentile."""
LOOK_BACK = 60
"""Frames, the newest, that decide about a pause."""
QUIET_FEEDS = 10
"""Without a new frame, after which nobody is being kept waiting."""
KEPT = 200_000
"""Latencies of a night that are remembered, the newest."""


@dataclass
class LatencyGuard:
    """Compares frame to verdict while a night trains with what it was before.

    Args:
        before_s: Latencies of the frames before the night, in seconds.
        max_ratio: Pause while the 95th percentile is more than so many times what it was.
    """

    before_s: Sequence[float]
    max_ratio: float
    _during_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    _latest_s: deque[float] = field(default_factory=lambda: deque(maxlen=LOOK_BACK))
    _is_paused: bool = False
    _quiet: int = 0

    def feed(self, latencies_s: Sequence[float]) -> bool:
        """Take in new frames; whether training has to wait.

        After each change of mind only frames that came since then count: those from before say
        nothing about how it is now. A line that stands still does not keep training waiting.
        """
        self._quiet = 0 if latencies_s else self._quiet + 1
        if self._quiet >= QUIET_FEEDS:
            self._latest_s.clear()
            self._is_paused = False
        self._during_s.extend(latencies_s)
        self._latest_s.extend(latencies_s)
        before, now = percentile(self.before_s, 95), percentile(self._latest_s, 95)
        if before is None or now is None:
            return self._is_paused
        is_slow = now > self.max_ratio * before
        if is_slow is not self._is_paused:
            self._is_paused = is_slow
            self._latest_s.clear()
        return self._is_paused

    @property
    def before_p99_s(self) -> float | None:
        """None where too few frames came."""
        return percentile(self.before_s, 99)

    @property
    def during_p99_s(self) -> float | None:
        """None where too few frames came."""
        return percentile(self._during_s, 99)


def percentile(values: Sequence[float] | deque[float], percent: float) -> float | None:
    """None of fewer than MIN_FRAMES values."""
    if len(values) < MIN_FRAMES:
        return None
    return float(np.percentile(np.fromiter(values, np.float64), percent))
