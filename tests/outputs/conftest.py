"""Verdicts to send, and a writer of inspections into a real database."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from daemon.core import (
    FrameId,
    FrameInfo,
    Inspection,
    Region,
    Verdict,
)

NOW = datetime(2026, 1, 31, 6, tzinfo=UTC)


@pytest.fixture
def make_inspection() -> Callable[..., Inspection]:
    """An NG inspection number `seq` with one region."""

    def make(seq: int, verdict: Verdict = Verdict.NG) -> Inspection:
        info = FrameInfo(FrameId("cam1", 7, seq), "fabric", NOW, NOW, 0.0, part_id=f"P{seq}")
        return Inspection(
            info=info,
            verdict=verdict,
            model_version="v1",
            decided_utc=NOW,
            frame_to_verdict_s=0.1,
            width_px=10,
            height_px=10,
            pred_score=0.75,
            map_peak=0.9,
            regions=(Region(1, 2, 3, 4, 10, 0.9),),
        )

    return make
