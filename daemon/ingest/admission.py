"""Who a message is and whether it may be inspected. Opens no socket, decodes no image."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from daemon.config.sources import CameraConfig, LimitsConfig, SourceConfig
from daemon.core import FrameId, FrameInfo, FrameLoss, LossReason
from daemon.errors import FrameError
from daemon.ingest.message import (
    Buffer,
    Claim,
    Message,
    MessageError,
    Payload,
    parse_message,
)
from daemon.ingest.numbering import DaemonNumbering
from daemon.ingest.sequence import Duplicate, Gap, SequenceTracker

UNKNOWN_CATEGORY = "unknown"
_UNIX_START = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ErrorFrame:
    """An identified frame that cannot be inspected; it becomes a row with verdict ERROR.

    Attributes:
        info: Category as claimed or configured, UNKNOWN_CATEGORY if neither; `captured_utc`
            is `received_utc` where the capture time is unknown or wrong.
    """

    info: FrameInfo
    reason: LossReason
    detail: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A frame that may be decoded."""

    info: FrameInfo
    payload: Payload


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of one message, and the gap before it if its number shows one."""

    outcome: Admitted | ErrorFrame | FrameLoss
    gap: FrameLoss | None = None


class Gatekeeper:
    """Decides on messages in the order in which they were received.

    The number is looked at before the payload, so a damaged frame is an error and not a gap too.
    """

    def __init__(
        self,
        *,
        cameras: Mapping[str, CameraConfig],
        categories: Collection[str],
        limits: LimitsConfig,
        tracker: SequenceTracker,
        numbering: DaemonNumbering,
    ) -> None:
        self._cameras = cameras
        self._categories = frozenset(categories)
        self._limits = limits
        self._tracker = tracker
        self._numbering = numbering

    def admit(
        self,
        parts: Sequence[Buffer],
        source: SourceConfig,
        *,
        received_utc: datetime,
        received_at: float,
    ) -> Admission:
        """Decide on one message; never raises for what a sender may send."""
        message: Message | MessageError
        try:
            message = parse_message(parts, max_payload_bytes=self._limits.max_payload_bytes)
        except MessageError as error:
            message = error
        claim = message.claim
        camera = source.camera if _is_unnamed(message) else claim.camera
        if camera is None or camera not in self._cameras:
            return Admission(_unidentified(message, camera, received_utc))
        if isinstance(message, MessageError) and (claim.epoch is None or claim.seq is None):
            return Admission(_loss(message, claim, camera, received_utc))
        frame_id = self._identify(camera, claim)

        observed = self._tracker.observe(camera, frame_id.epoch, frame_id.seq)
        if isinstance(observed, Duplicate):
            return Admission(_duplicate(frame_id, observed, claim, received_utc))
        gap = _gap(frame_id, observed, received_utc) if observed else None
        info = self._info(frame_id, message, received_utc, received_at)
        try:
            return Admission(self._checked(message, info, received_utc), gap)
        except FrameError as error:
            return Admission(ErrorFrame(info, error.reason, error.detail), gap)

    def _identify(self, camera: str, claim: Claim) -> FrameId:
        if claim.epoch is not None and claim.seq is not None:
            return FrameId(camera, claim.epoch, claim.seq)
        frame_id, is_joined = self._numbering.number(camera, claim.seq)
        if is_joined:
            self._tracker.join(camera, frame_id.epoch, frame_id.seq)
        return frame_id

    def _info(
        self,
        frame_id: FrameId,
        message: Message | MessageError,
        received_utc: datetime,
        received_at: float,
    ) -> FrameInfo:
        captured_utc = _claimed_utc(message) or received_utc
        if captured_utc > self._latest(received_utc):
            captured_utc = received_utc
        readable = message if isinstance(message, Message) else None
        return FrameInfo(
            frame_id=frame_id,
            category=self._category(frame_id.camera, message) or UNKNOWN_CATEGORY,
            captured_utc=captured_utc,
            received_utc=received_utc,
            received_at=received_at,
            part_id=readable.part_id if readable else None,
            lot=readable.lot if readable else None,
            trigger_id=readable.trigger_id if readable else None,
        )

    def _checked(
        self, message: Message | MessageError, info: FrameInfo, received_utc: datetime
    ) -> Admitted:
        if isinstance(message, MessageError):
            raise message
        category = self._category(info.frame_id.camera, message)
        if category not in self._categories:
            known = f"configured are {', '.join(sorted(self._categories)[:8])}"
            raise FrameError(
                LossReason.UNKNOWN_CATEGORY,
                f"neither the frame nor its camera names a category; {known}"
                if category is None
                else f"category {category!r} is not configured; {known}",
            )
        claimed_utc = _claimed_utc(message)
        if claimed_utc is not None and claimed_utc > self._latest(received_utc):
            ahead_s = (claimed_utc - received_utc).total_seconds()
            raise FrameError(
                LossReason.CLOCK,
                f"capture time is {ahead_s:.1f} s ahead of the daemon's clock, "
                f"limit {self._limits.max_clock_skew_s:g} s; synchronise the clocks",
            )
        return Admitted(info, message.payload)

    def _category(self, camera: str, message: Message | MessageError) -> str | None:
        return message.claim.category or self._cameras[camera].category

    def _latest(self, received_utc: datetime) -> datetime:
        return received_utc + timedelta(seconds=self._limits.max_clock_skew_s)


def _is_unnamed(message: Message | MessageError) -> bool:
    """Whether the source's camera applies: only imagezmq messages may leave the name out."""
    return isinstance(message, Message) and message.claim.camera is None


def _claimed_utc(message: Message | MessageError) -> datetime | None:
    """Capture time as the sender gives it; None where it gives none or cannot be read."""
    if isinstance(message, MessageError) or message.captured_ns is None:
        return None
    return _UNIX_START + timedelta(microseconds=message.captured_ns // 1000)


def _unidentified(
    message: Message | MessageError, camera: str | None, lost_utc: datetime
) -> FrameLoss:
    """A message of no configured camera; the name it claims is bounded."""
    if isinstance(message, MessageError) and camera is None:
        return _loss(message, message.claim, None, lost_utc)
    detail = (
        "message names no camera and its source has none; set `camera` of the source"
        if camera is None
        else f"camera {camera!r} is not configured; add it under `cameras`"
    )
    claim = message.claim
    return FrameLoss(
        LossReason.UNKNOWN_CAMERA,
        lost_utc,
        detail,
        camera=camera,
        category=claim.category,
        epoch=claim.epoch,
        first_seq=claim.seq,
        last_seq=claim.seq,
    )


def _loss(error: MessageError, claim: Claim, camera: str | None, lost_utc: datetime) -> FrameLoss:
    return FrameLoss(
        error.reason,
        lost_utc,
        error.detail,
        camera=camera,
        category=claim.category,
        epoch=claim.epoch,
        first_seq=claim.seq,
        last_seq=claim.seq,
    )


def _duplicate(
    frame_id: FrameId, duplicate: Duplicate, claim: Claim, lost_utc: datetime
) -> FrameLoss:
    return FrameLoss(
        LossReason.DUPLICATE,
        lost_utc,
        f"seq {frame_id.seq} came after seq {duplicate.last_seq} of the same epoch",
        camera=frame_id.camera,
        category=claim.category,
        epoch=frame_id.epoch,
        first_seq=frame_id.seq,
        last_seq=frame_id.seq,
    )


def _gap(frame_id: FrameId, gap: Gap, lost_utc: datetime) -> FrameLoss:
    return FrameLoss(
        LossReason.GAP,
        lost_utc,
        f"{gap.frames} frames before seq {frame_id.seq} were sent and never received",
        camera=frame_id.camera,
        epoch=frame_id.epoch,
        first_seq=gap.first_seq,
        last_seq=gap.last_seq,
    )
