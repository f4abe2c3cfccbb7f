"""Values of `daemon.core` to table rows and back; no SQL."""

from typing import Any

from sqlalchemy import Row

from daemon.core import (
    Calibration,
    Event,
    FrameLoss,
    Inspection,
    Region,
    ShadowScore,
    Thumbnails,
)

Values = dict[str, Any]
"""Column name to value, as SQLAlchemy's bulk insert takes it."""

MAX_NAME = 64
MAX_ID = 128


def of_inspection(line: str, inspection: Inspection, model_version_id: int) -> Values:
    """A row of `inspection`."""
    info, calibration = inspection.info, inspection.calibration
    return {
        "line": line,
        "camera": info.frame_id.camera,
        "epoch": info.frame_id.epoch,
        "seq": info.frame_id.seq,
        "category": info.category,
        "captured_utc": info.captured_utc,
        "received_utc": info.received_utc,
        "decided_utc": inspection.decided_utc,
        "frame_to_verdict_ms": inspection.frame_to_verdict_s * 1000,
        "verdict": inspection.verdict.value,
        "error_reason": None if inspection.error_reason is None else inspection.error_reason.value,
        "error_detail": storable(inspection.error_detail),
        "pred_score": inspection.pred_score,
        "map_peak": inspection.map_peak,
        "review_threshold": None if calibration is None else calibration.review_threshold,
        "ng_threshold": None if calibration is None else calibration.ng_threshold,
        "map_threshold": None if calibration is None else calibration.map_threshold,
        "model_version_id": model_version_id,
        "width_px": inspection.width_px,
        "height_px": inspection.height_px,
        "part_id": storable(info.part_id, MAX_ID),
        "lot": storable(info.lot, MAX_ID),
        "trigger_id": storable(info.trigger_id, MAX_ID),
    }


def of_loss(line: str, loss: FrameLoss) -> Values:
    """A row of `frame_loss`; camera and category may be whatever a broken message said."""
    return {
        "line": line,
        "reason": loss.reason.value,
        "lost_utc": loss.lost_utc,
        "frames": loss.frames,
        "camera": storable(loss.camera, MAX_NAME),
        "category": storable(loss.category, MAX_NAME),
        "epoch": loss.epoch,
        "first_seq": loss.first_seq,
        "last_seq": loss.last_seq,
        "detail": storable(loss.detail),
    }


def of_event(line: str, event: Event) -> Values:
    """A row of `event`."""
    return {
        "line": line,
        "kind": event.kind.value,
        "severity": event.severity.value,
        "at_utc": event.at_utc,
        "camera": storable(event.camera, MAX_NAME),
        "category": storable(event.category, MAX_NAME),
        "detail": storable(event.detail),
    }


def of_region(inspection_id: int, region: Region) -> Values:
    """A row of `region`."""
    return {
        "inspection_id": inspection_id,
        "x_px": region.x_px,
        "y_px": region.y_px,
        "width_px": region.width_px,
        "height_px": region.height_px,
        "area_px": region.area_px,
        "peak": region.peak,
    }


def of_thumbnails(inspection_id: int, inspection: Inspection, thumbnails: Thumbnails) -> Values:
    """A row of `thumbnail`."""
    return {
        "inspection_id": inspection_id,
        "verdict": inspection.verdict.value,
        "received_utc": inspection.info.received_utc,
        "photo_jpeg": thumbnails.photo_jpeg,
        "overlay_jpeg": thumbnails.overlay_jpeg,
        "map_png": thumbnails.map_png,
    }


def of_calibration(calibration: Calibration, model_version_id: int) -> Values:
    """A row of `calibration`."""
    return {
        "category": calibration.category,
        "model_version_id": model_version_id,
        "review_threshold": calibration.review_threshold,
        "ng_threshold": calibration.ng_threshold,
        "map_threshold": calibration.map_threshold,
        "n_frames": calibration.n_frames,
        "review_rate": calibration.review_rate,
        "ng_rate": calibration.ng_rate,
        "is_supported": calibration.is_supported,
        "source": calibration.source,
        "created_utc": calibration.created_utc,
        "confidence": calibration.confidence,
        "recipe": calibration.recipe,
        "median_score": calibration.median_score,
        "review_rank": calibration.review_rank,
    }


def of_shadow_score(line: str, score: ShadowScore) -> Values:
    """A row of `shadow_score`."""
    return {
        "line": line,
        "version": score.version,
        "camera": score.frame_id.camera,
        "epoch": score.frame_id.epoch,
        "seq": score.frame_id.seq,
        "category": score.category,
        "at_utc": score.at_utc,
        "verdict": score.verdict.value,
        "pred_score": score.pred_score,
        "shadow_verdict": score.shadow_verdict.value,
        "shadow_score": score.shadow_score,
    }


def to_calibration(row: Row[Any], model_version: str) -> Calibration:
    """A row of `calibration` as the value it was made from."""
    return Calibration(
        category=row.category,
        model_version=model_version,
        review_threshold=row.review_threshold,
        ng_threshold=row.ng_threshold,
        map_threshold=row.map_threshold,
        n_frames=row.n_frames,
        review_rate=row.review_rate,
        ng_rate=row.ng_rate,
        is_supported=row.is_supported,
        source=row.source,
        created_utc=row.created_utc,
        confidence=row.confidence,
        recipe=row.recipe,
        median_score=row.median_score,
        review_rank=row.review_rank,
    )


def storable(text: str | None, limit: int | None = None) -> str | None:
    """Text that both databases take: PostgreSQL refuses NUL, too long, and lone surrogates."""
    if text is None:
        return None
    clean = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return clean[:limit]
