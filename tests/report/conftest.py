"""A line whose rows are written one by one, so that every figure can be counted by hand."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, insert

from daemon.config.categories import CategoryConfig
from daemon.config.line import Config, ShiftConfig
from daemon.config.sources import CameraConfig, SourceConfig
from daemon.config.storage import StorageConfig
from daemon.storage.tables import (
    CalibrationRow,
    DaemonRunRow,
    FrameLossRow,
    InspectionRow,
    ModelVersionRow,
    RegionRow,
    ThumbnailRow,
)

START = datetime(2026, 1, 31, 5, tzinfo=UTC)  # 06:00 in Berlin


class Line:
    """Writes rows of line `l1`; `at_min` are minutes after the early shift began."""

    def __init__(self, engine: Engine, tmp_path: Path) -> None:
        self.engine = engine
        self.config = Config(
            line="l1",
            timezone="Europe/Berlin",
            run_dir=tmp_path,
            sources=(SourceConfig(endpoint="tcp://127.0.0.1:5555"),),
            cameras={"cam1": CameraConfig(), "cam2": CameraConfig()},
            categories={
                "fabric": CategoryConfig(class_name="fabric"),
                "bolt": CategoryConfig(class_name="bolt"),
            },
            storage=StorageConfig(url="sqlite:///unused.db"),
            shifts=(
                ShiftConfig(name="early", start=time(6)),
                ShiftConfig(name="late", start=time(14)),
                ShiftConfig(name="night", start=time(22)),
            ),
        )
        self.start = START
        self._open: Connection | None = None
        self._next_seq: dict[tuple[str, int], int] = {}

    def at(self, at_min: float) -> datetime:
        return START + timedelta(minutes=at_min)

    def model(self, name: str) -> int:
        return self._insert(
            ModelVersionRow,
            name=name,
            method="aa_clip",
            backbone="compact",
            card_json="{}",
            first_used_utc=START,
        )

    def frame(
        self,
        verdict: str,
        at_min: float = 1.0,
        *,
        model: int,
        camera: str = "cam1",
        category: str = "fabric",
        epoch: int = 7,
        seq: int | None = None,
        score: float | None = None,
        thresholds: tuple[float, float] | None = (0.4, 0.6),
        latency_ms: float = 20.0,
        error_reason: str | None = None,
        regions: tuple[tuple[int, int, int, int, int, float], ...] = (),
        pictures: tuple[bytes, bytes] | None = None,
        **other: Any,
    ) -> int:
        """One inspection row; `seq` counts by itself unless given."""
        if seq is None:
            seq = self._next_seq.get((camera, epoch), 0)
        self._next_seq[camera, epoch] = seq + 1
        if thresholds is None or verdict in ("ERROR", "LEARNING"):
            thresholds = (None, None)  # type: ignore[assignment]
        values = {
            "line": "l1",
            "camera": camera,
            "epoch": epoch,
            "seq": seq,
            "category": category,
            "captured_utc": self.at(at_min),
            "received_utc": self.at(at_min),
            "decided_utc": self.at(at_min) + timedelta(milliseconds=latency_ms),
            "frame_to_verdict_ms": latency_ms,
            "verdict": verdict,
            "error_reason": error_reason,
            "pred_score": score,
            "map_peak": score,
            "review_threshold": thresholds[0],
            "ng_threshold": thresholds[1],
            "model_version_id": model,
            "width_px": 300,
            "height_px": 300,
        } | other
        row_id = self._insert(InspectionRow, **values)
        for region in regions:
            names = ("x_px", "y_px", "width_px", "height_px", "area_px", "peak")
            box = dict(zip(names, region, strict=True))
            self._insert(RegionRow, inspection_id=row_id, **box)
        if pictures:
            self._insert(
                ThumbnailRow,
                inspection_id=row_id,
                verdict=verdict,
                received_utc=values["received_utc"],
                photo_jpeg=pictures[0],
                overlay_jpeg=pictures[1],
                map_png=b"",
            )
        return row_id

    def loss(
        self,
        reason: str,
        at_min: float = 1.0,
        *,
        camera: str | None = "cam1",
        epoch: int | None = 7,
        seqs: tuple[int, int] | None = None,
        frames: int | None = None,
    ) -> None:
        """One loss record of the numbers seqs[0] to seqs[1]."""
        if seqs is not None and camera is not None and epoch is not None:
            highest = max(self._next_seq.get((camera, epoch), 0), seqs[1] + 1)
            self._next_seq[camera, epoch] = highest
        self._insert(
            FrameLossRow,
            line="l1",
            reason=reason,
            lost_utc=self.at(at_min),
            frames=frames or (seqs[1] - seqs[0] + 1 if seqs else 1),
            camera=camera,
            category=None,
            epoch=epoch,
            first_seq=seqs[0] if seqs else None,
            last_seq=seqs[1] if seqs else None,
            detail="because",
        )

    def run(self, started_min: float, stopped_min: float | None) -> None:
        self._insert(
            DaemonRunRow,
            line="l1",
            started_utc=self.at(started_min),
            stopped_utc=None if stopped_min is None else self.at(stopped_min),
            last_batch=0,
        )

    def calibration(self, at_min: float, model: int, category: str = "fabric") -> None:
        self._insert(
            CalibrationRow,
            category=category,
            model_version_id=model,
            review_threshold=0.4,
            ng_threshold=0.6,
            map_threshold=0.5,
            n_frames=100,
            review_rate=0.05,
            ng_rate=0.01,
            is_supported=True,
            source="first frames",
            created_utc=self.at(at_min),
        )

    @contextmanager
    def one_transaction(self) -> Iterator[None]:
        """Rows written inside are committed together: thousands in a second."""
        with self.engine.begin() as self._open:
            yield
        self._open = None

    def _insert(self, table: Any, **values: Any) -> int:
        with nullcontext(self._open) if self._open else self.engine.begin() as connection:
            key = connection.execute(insert(table), values).inserted_primary_key
            return int(key[0]) if key else 0


@pytest.fixture
def line(engine: Engine, tmp_path: Path) -> Line:
    """The line on SQLite and on PostgreSQL."""
    return Line(engine, tmp_path)


@pytest.fixture
def sqlite_line(sqlite_engine: Engine, tmp_path: Path) -> Line:
    """The line on SQLite, where the claim is not about the database."""
    return Line(sqlite_engine, tmp_path)


@pytest.fixture
def busy_line(sqlite_line: Line) -> Line:
    """An early shift with everything that can happen in one: what the page must show well."""
    _fill(sqlite_line)
    return sqlite_line


def _fill(line: Line) -> None:
    rng = np.random.default_rng(1)
    old, new = line.model("compact-v1"), line.model("compact-v2")
    line.run(-600, 62.3)
    line.run(63, None)
    line.run(250, None)
    for category in ("fabric", "bolt"):
        line.calibration(25, old, category)
        line.calibration(300, new, category)
    rows: list[dict[str, Any]] = []
    for camera, category in (("cam1", "fabric"), ("cam2", "bolt")):
        for seq in range(1200):
            at_min = seq / 2.5 + float(rng.uniform(0, 0.1))
            is_defective = rng.random() < (0.09 if 120 < at_min < 180 else 0.03)
            score = float(np.clip(rng.normal(0.62 if is_defective else 0.22, 0.07), 0, 1))
            if 350 <= seq < 362 and camera == "cam2":
                continue  # a gap
            if 650 <= seq < 680 and camera == "cam1":
                continue  # dropped
            model, thresholds = (old, (0.40, 0.45)) if at_min < 300 else (new, (0.38, 0.47))
            verdict = "NG" if score >= thresholds[1] else "OK"
            verdict = "REVIEW" if thresholds[0] <= score < thresholds[1] else verdict
            if at_min < 25:
                verdict = "LEARNING"
            if rng.random() < 0.002:
                verdict = "ERROR"
            rows.append(
                {
                    "verdict": verdict,
                    "at_min": at_min,
                    "model": model,
                    "camera": camera,
                    "category": category,
                    "seq": seq,
                    "score": None if verdict == "ERROR" else score,
                    "thresholds": thresholds,
                    "latency_ms": float(rng.lognormal(3.6, 0.35)),
                    "error_reason": "bad_payload" if verdict == "ERROR" else None,
                }
            )
    line.loss("gap", 140, camera="cam2", seqs=(350, 361))
    for seq in range(650, 680):
        line.loss("queue_full", 260, seqs=(seq, seq))
    for at_min in (30.0, 31.0, 200.0):
        line.loss("bad_message", at_min, camera=None, epoch=None)
    _write_rows(line, rows, rng)


def _write_rows(line: Line, rows: list[dict[str, Any]], rng: np.random.Generator) -> None:
    """In order of time, in one transaction, with regions and pictures for NG and REVIEW."""
    rows.sort(key=lambda row: row["at_min"])
    with line.one_transaction():
        for row in rows:
            if row["verdict"] in ("NG", "REVIEW"):
                x, y = (int(v) for v in rng.integers(20, 220, 2))
                side = int(rng.integers(8, 60))
                row["regions"] = ((x, y, side, side, side * side, row["score"]),)
                row["pictures"] = _pictures(x, y, side, rng)
            line.frame(**row, part_id=f"P{row['seq']:05d}", lot="L-2026-014")


def _pictures(x: int, y: int, side: int, rng: np.random.Generator) -> tuple[bytes, bytes]:
    """A woven surface with a stain, and its heat map over it; 256 px JPEGs."""
    rows, columns = np.mgrid[0:256, 0:256]
    weave = 150 + 22 * np.sin(columns / 2.1) * np.cos(rows / 2.6) + rng.normal(0, 6, (256, 256))
    distance = np.hypot(columns - x - side / 2, rows - y - side / 2) / side
    stain = np.exp(-(distance**2))
    grey = np.clip(weave - 80 * stain, 0, 255).astype(np.uint8)
    photo = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    heat = cv2.applyColorMap((255 * np.clip(stain, 0, 1)).astype(np.uint8), cv2.COLORMAP_TURBO)
    overlay = np.asarray(cv2.addWeighted(photo, 0.55, heat, 0.45, 0), dtype=np.uint8)
    return _jpeg(np.asarray(photo, dtype=np.uint8)), _jpeg(overlay)


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1])
