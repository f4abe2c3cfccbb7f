"""Values and files of a line whose frames are kept."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from sqlalchemy import Engine

from daemon.core import FrameId, FrameInfo, Inspection, KeptFrame, Verdict
from daemon.storage import frame_folder, repository
from daemon.storage.database import write_transaction

NOW = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
LINE = "line1"
BOTH = pytest.mark.parametrize("line_engine", ["sqlite", "postgresql"], indirect=True)
"""For what depends on the database."""


def jpeg(seed: int, side: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def register(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        repository.ensure_model_version(
            connection, name="m-1", method="m", backbone="b", card_json="{}", now=NOW
        )


def inspection(seq: int, **changes: object) -> Inspection:
    """An inspection of part `P<seq>`; keywords replace its parts and those of its frame."""
    facts = {
        "frame_id": FrameId("cam1", 7, seq),
        "category": "fabric",
        "captured_utc": NOW,
        "received_utc": NOW,
        "received_at": 0.0,
        "part_id": f"P{seq}",
    }
    values = {
        "verdict": Verdict.REVIEW,
        "model_version": "m-1",
        "decided_utc": NOW,
        "frame_to_verdict_s": 0.01,
        "width_px": 24,
        "height_px": 24,
        "pred_score": 0.5,
        "map_peak": 0.5,
    }
    facts |= {name: changes.pop(name) for name in list(changes) if name in (*facts, "lot")}
    return Inspection(info=FrameInfo(**facts), **(values | changes))


def kept(made: Inspection, folder: Path, content: bytes | None = None) -> KeptFrame:
    """Its file written, and the row for it."""
    info = made.info
    content = jpeg(info.frame_id.seq) if content is None else content
    path = frame_folder.frame_path(LINE, info.frame_id, info.received_utc, "jpg")
    frame_folder.write_durably(folder, path, content)
    return KeptFrame(
        info.frame_id,
        info.category,
        made.verdict,
        info.received_utc,
        str(path),
        len(content),
        hashlib.sha256(content).hexdigest(),
    )
