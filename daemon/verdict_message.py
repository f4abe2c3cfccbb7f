"""The verdict message, version 1: the same JSON object on ZeroMQ, MQTT and the webhook.

Described for its readers in docs/verdicts.md. A field is added, never changed.
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from daemon.core import FrameLoss, Inspection, LossReason, Region, Verdict

VERSION = 1


@dataclass(frozen=True, slots=True)
class VerdictMessage:
    """One frame's verdict, for programs outside.

    Attributes:
        inspection_id: Its row in the database; None before it is stored.
        reason: Why there is no verdict on the part; set exactly for ERROR.
        regions: Defects in pixels of the frame.
    """

    line: str
    camera: str
    epoch: int
    seq: int
    category: str | None
    verdict: Verdict
    pred_score: float | None
    review_threshold: float | None
    ng_threshold: float | None
    reason: LossReason | None
    captured_utc: datetime | None
    decided_utc: datetime
    part_id: str | None
    lot: str | None
    trigger_id: str | None
    model_version: str | None
    regions: tuple[Region, ...] = field(default=())
    inspection_id: int | None = None

    def to_json(self) -> bytes:
        """One line of JSON; times are ISO 8601 in UTC."""
        values = {"v": VERSION, **asdict(self)}
        for key, value in values.items():
            if isinstance(value, datetime):
                values[key] = value.astimezone(UTC).isoformat()
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def message_of(line: str, result: Inspection | FrameLoss) -> VerdictMessage | None:
    """What to tell about a result; None for losses that name no single frame (gaps, bad bytes).

    A frame that was received and then lost is ERROR: a gate must not wait for it, nor let it pass.
    """
    match result:
        case Inspection():
            calibration, info = result.calibration, result.info
            return VerdictMessage(
                line=line,
                camera=info.frame_id.camera,
                epoch=info.frame_id.epoch,
                seq=info.frame_id.seq,
                category=info.category,
                verdict=result.verdict,
                pred_score=result.pred_score,
                review_threshold=None if calibration is None else calibration.review_threshold,
                ng_threshold=None if calibration is None else calibration.ng_threshold,
                reason=result.error_reason,
                captured_utc=info.captured_utc,
                decided_utc=result.decided_utc,
                part_id=info.part_id,
                lot=info.lot,
                trigger_id=info.trigger_id,
                model_version=result.model_version,
                regions=result.regions,
            )
        case FrameLoss():
            if result.reason in (LossReason.GAP, LossReason.DUPLICATE) or (
                result.camera is None or result.epoch is None or result.first_seq is None
            ):
                return None
            return VerdictMessage(
                line=line,
                camera=result.camera,
                epoch=result.epoch,
                seq=result.first_seq,
                category=result.category,
                verdict=Verdict.ERROR,
                pred_score=None,
                review_threshold=None,
                ng_threshold=None,
                reason=result.reason,
                captured_utc=None,
                decided_utc=result.lost_utc,
                part_id=None,
                lot=None,
                trigger_id=None,
                model_version=None,
            )
