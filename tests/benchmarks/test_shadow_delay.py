"""What a candidate in shadow costs the frames that come meanwhile, beside one pass of the network.

    pytest -m benchmark -s tests/benchmarks/test_shadow_delay.py

The shipped detector inspects one camera's frames, which come at random times with moments to
spare, twice in turn: alone, and with a candidate of the same size. The promise is that no frame
waits for more than one pass of the candidate, so the difference is set against the longest pass.
"""

import threading
import time
from datetime import UTC, datetime

import numpy as np
import pytest

from daemon.config.categories import CategoryConfig
from daemon.config.detector import ModelConfig
from daemon.config.sources import QueueConfig
from daemon.config.storage import StorageConfig
from daemon.core import Calibration, Frame, FrameId, FrameInfo, Inspection, ShadowScore
from daemon.ingest.frame_queue import FrameQueue
from daemon.inspection.batcher import Batcher
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.detector_slot import DetectorSlot
from daemon.inspection.inspector import Inspector
from daemon.inspection.loaded_model import LoadedModel
from daemon.inspection.loop import InspectionLoop
from daemon.inspection.shadow import Rival, Shadow

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("one_thread"),
]

FABRIC = CategoryConfig(class_name="woven fabric")
FRAMES, ROUNDS = 60, 3
NOW = datetime(2026, 1, 31, tzinfo=UTC)


def book_of(version: str) -> CalibrationBook:
    made = Calibration(
        "fabric", version, 0.9, 0.95, 0.5, 100, 0.05, 0.01, True, "test", NOW, FABRIC.recipe
    )
    return CalibrationBook(
        model_version=version,
        categories={"fabric": FABRIC},
        calibrations=[made],
        learned={},
        now=lambda: NOW,
    )


class Line:
    """Loop, inspector and shadow as in the daemon."""

    def __init__(self) -> None:
        self.slot = DetectorSlot(ModelConfig(device="cpu"), {"fabric": FABRIC}, max_batch=4)
        self.slot.warm_up(4)
        self.told: list[Inspection] = []
        self.scores: list[ShadowScore] = []
        self.frames = FrameQueue(QueueConfig(), {})
        self.shadow = Shadow(
            sink=self.scores.append,
            has_frames=lambda: not self.frames.empty(),
            beat=lambda: None,
            clock=time.monotonic,
            now=lambda: NOW,
        )
        self.rival = LoadedModel(
            self.slot.model.predictor,
            {"fabric": FABRIC},
            None,
            max_batch=4,
            on_batch=self.shadow.after_pass,
        )
        inspector = Inspector(
            infer=self.slot.infer,
            categories={"fabric": FABRIC},
            storage=StorageConfig(url="sqlite://", thumbnails=()),
            book=book_of(self.slot.version),
            clock=time.monotonic,
            now=lambda: NOW,
            on_batch=lambda frames: None,
            tell=self.told.append,
        )
        self.loop = InspectionLoop(
            frames=self.frames,
            batcher=Batcher(max_size=4, max_wait_s=0.01),
            inspect=self.shadow.around_inspect(inspector.inspect),
            sink=lambda results: None,
            beat=lambda: None,
            clock=time.monotonic,
            between=lambda is_idle: self.shadow.step(is_idle=is_idle),
        )

    def latencies_ms(self, gaps_s: list[float], *, with_shadow: bool) -> list[float]:
        """Frame to verdict of frames that come so far apart."""
        if with_shadow:
            self.shadow.begin(Rival(self.rival, book_of(self.slot.version)))
        stop, pause = threading.Event(), threading.Event()
        thread = threading.Thread(target=self.loop.run, args=[stop])
        thread.start()
        self.told.clear()
        rng = np.random.default_rng(3)
        for seq, gap_s in enumerate(gaps_s):
            pause.wait(gap_s)
            image = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
            info = FrameInfo(FrameId("cam1", 1, seq), "fabric", NOW, NOW, time.monotonic())
            self.frames.put(Frame(info, image), stop=stop)
        stop.set()
        thread.join()
        self.shadow.end()
        self.shadow.step(is_idle=True)
        return [1000 * told.frame_to_verdict_s for told in self.told]


def test_a_candidate_delays_a_frame_by_one_pass_at_most() -> None:
    line = Line()
    alone_s = float(np.median(line.latencies_ms([1.0] * 9, with_shadow=False))) / 1000
    rng = np.random.default_rng(7)
    alone: list[float] = []
    shadowed: list[float] = []
    longest_ms = 0.0
    for _ in range(ROUNDS):
        gaps_s = (alone_s * rng.uniform(2.0, 6.0, FRAMES)).tolist()
        alone += line.latencies_ms(gaps_s, with_shadow=False)
        shadowed += line.latencies_ms(gaps_s, with_shadow=True)
        longest_ms = max(longest_ms, 1000 * line.shadow.counters.longest_pass_s)

    assert len(alone) == len(shadowed) == FRAMES * ROUNDS
    print(f"\n{len(line.scores)} of {len(shadowed)} frames were scored by the candidate too")
    for name, share in (("p50", 50), ("p90", 90), ("p99", 99)):
        before, with_ = np.percentile(alone, share), np.percentile(shadowed, share)
        more = (with_ - before) / longest_ms
        print(
            f"{name}: alone {before:.0f} ms, with a candidate {with_:.0f} ms: {more:+.2f} of its "
            f"longest pass ({longest_ms:.0f} ms)"
        )
