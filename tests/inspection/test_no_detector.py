import subprocess
import sys
from datetime import UTC, datetime

import numpy as np

from daemon.core import Frame, FrameId, FrameInfo, Inspection, Verdict
from daemon.inspection.no_detector import NoDetector

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def test_without_a_detector_every_frame_is_learning_without_a_score() -> None:
    batches: list[int] = []
    told: list[Inspection] = []
    frames = [
        Frame(
            FrameInfo(FrameId("cam", 1, seq), "tile", NOW, NOW, 1.0),
            np.zeros((40, 60, 3), dtype=np.uint8),
        )
        for seq in range(3)
    ]

    results = NoDetector(
        clock=lambda: 1.5, now=lambda: NOW, on_batch=batches.append, tell=told.append
    ).inspect(frames)

    assert told == results
    assert [result.info.frame_id.seq for result in results] == [0, 1, 2]
    assert {result.verdict for result in results} == {Verdict.LEARNING}
    assert {(result.pred_score, result.map_peak) for result in results} == {(None, None)}
    assert (results[0].width_px, results[0].height_px) == (60, 40)
    assert (results[0].frame_to_verdict_s, batches) == (0.5, [3])


def test_commissioning_loads_no_torch() -> None:
    program = "import sys, daemon.app; sys.exit('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)

    assert done.returncode == 0
