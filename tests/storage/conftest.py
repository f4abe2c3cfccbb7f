"""Values to store."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from daemon.core import (
    Calibration,
    FrameId,
    FrameInfo,
    FrameLoss,
    Inspection,
    LossReason,
    Region,
    Thumbnails,
    Verdict,
)
from daemon.storage import repository
from daemon.storage.database import write_transaction

NOW = datetime(2026, 1, 31, 5, 59, 59, 123456, tzinfo=UTC)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def calibration() -> Calibration:
    return Calibration(
        category="fabric",
        model_version="aa-clip-1",
        review_threshold=0.4,
        ng_threshold=0.6,
        map_threshold=0.5,
        n_frames=30,
        review_rate=0.05,
        ng_rate=0.01,
        is_supported=False,
        source="learning",
        created_utc=NOW,
    )


@pytest.fixture
def make_inspection(calibration: Calibration) -> Callable[..., Inspection]:
    """An NG inspection with one region and pictures; keywords replace its parts."""

    def make(
        seq: int = 0, *, camera: str = "cam1", epoch: int = 7, **changes: object
    ) -> Inspection:
        received_utc = changes.pop("received_utc", NOW)
        values = {
            "info": FrameInfo(
                frame_id=FrameId(camera, epoch, seq),
                category="fabric",
                captured_utc=NOW - timedelta(milliseconds=5),
                received_utc=received_utc,
                received_at=1.0,
                part_id=f"part{seq}",
            ),
            "verdict": Verdict.NG,
            "model_version": "aa-clip-1",
            "decided_utc": NOW + timedelta(milliseconds=40),
            "frame_to_verdict_s": 0.04,
            "width_px": 640,
            "height_px": 480,
            "pred_score": 0.75,
            "map_peak": 0.875,
            "calibration": calibration,
            "regions": (Region(1, 2, 3, 4, 10, 0.875),),
            "thumbnails": Thumbnails(b"photo", b"overlay", b"map"),
        }
        return Inspection(**(values | changes))

    return make


@pytest.fixture
def make_loss() -> Callable[..., FrameLoss]:
    def make(
        reason: LossReason = LossReason.QUEUE_FULL, first: int = 0, last: int | None = None
    ) -> FrameLoss:
        return FrameLoss(
            reason,
            NOW,
            "64 frames waiting, limit 64",
            camera="cam1",
            category="fabric",
            epoch=7,
            first_seq=first,
            last_seq=first if last is None else last,
        )

    return make


@pytest.fixture
def register(now: datetime) -> Callable[[Engine], None]:
    """Registers the model version that the values name."""

    def register_in(engine: Engine) -> None:
        with write_transaction(engine) as connection:
            repository.ensure_model_version(
                connection,
                name="aa-clip-1",
                method="aa_clip",
                backbone="compact",
                card_json="{}",
                now=now,
            )

    return register_in


@pytest.fixture
def line_engine(engine: Engine, register: Callable[[Engine], None]) -> Engine:
    """Both databases, with the model version registered."""
    register(engine)
    return engine
