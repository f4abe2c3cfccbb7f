"""Who a message is and whether it may be inspected. Opens no socket, decodes no image."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from daemon.config.sources import CameraConfig, LimitsConfig, SourceConfig
from daemon.core import FrameId, FrameInfo, FrameLoss, LossReason
from daemon.errors import FrameError
from daemon.ingest.frame_rate import FrameRate
from daemon.ingest.holes import Start
from daemon.ingest.message import (
    Beat,
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


def everybody_may_send(camera: str, key: str | None) -> bool:  # noqa: ARG001
    """Where no keys are configured."""
    return True


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
        may_send: Callable[[str, str | None], bool] = everybody_may_send,
    ) -> None:
        """`may_send` says whether a camera's message may come from the holder of a key."""
        self._cameras = cameras
        self._categories = frozenset(categories)
        self._limits = limits
        self._tracker = tracker
        self._numbering = numbering
        self._may_send = may_send
        self._frame_rate = FrameRate(limits.max_frames_per_second)

    def follow(
        self,
        cameras: Mapping[str, CameraConfig],
        categories: Collection[str],
        limits: LimitsConfig,
    ) -> None:
        """Decide by another configuration from now on; only between messages."""
        self._cameras = cameras
        self._categories = frozenset(categories)
        self._limits = limits

    def admit(
        self,
        parts: Sequence[Buffer],
        source: SourceConfig,
        *,
        received_utc: datetime,
        received_at: float,
        key: str | None = None,
    ) -> Admission:
        """Decide on one message; never raises for what a sender may send.

        Args:
            key: Its sender's; None on a plain socket.
        """
        message = self._parse(parts)
        claim = message.claim
        camera = source.camera if _is_unnamed(message) else claim.camera
        if camera is None or camera not in self._cameras:
            return Admission(_unidentified(message, camera, received_utc))
        if not self._may_send(camera, key):
            return Admission(_not_allowed(camera, received_utc))
        if isinstance(message, MessageError) and (claim.epoch is None or claim.seq is None):
            return Admission(_loss(message, claim, camera, received_utc))
        frame_id = self._identify(camera, claim)

        observed = self._tracker.observe(camera, frame_id.epoch, frame_id.seq)
        if isinstance(observed, Duplicate):
            return Admission(_duplicate(frame_id, observed, claim, received_utc))
        gap = None
        if observed is not None:
            gap = gap_loss((camera, frame_id.epoch), observed, received_utc)
        if not self._frame_rate.takes(camera, received_at):
            return Admission(self._too_fast(frame_id, claim, received_utc), gap)
        return Admission(self._judge(message, frame_id, received_utc, received_at), gap)

    def admit_delivered(
        self,
        parts: Sequence[Buffer],
        frame_id: FrameId,
        *,
        received_utc: datetime,
        received_at: float,
    ) -> Admitted | ErrorFrame:
        """Decide on a frame whose envelope says which one it is, and that it is new."""
        message = self._parse(parts)
        claim = message.claim
        named = claim.camera, claim.epoch, claim.seq
        if isinstance(message, Message) and named != (
            frame_id.camera,
            frame_id.epoch,
            frame_id.seq,
        ):
            message = MessageError(
                LossReason.BAD_MESSAGE, "header and envelope name different frames", claim
            )
        return self._judge(message, frame_id, received_utc, received_at)

    def believes(self, beat: Beat, key: str | None) -> bool:
        """Whether the beat's camera is known and its sender may speak for it."""
        return beat.camera in self._cameras and self._may_send(beat.camera, key)

    def heed(self, beat: Beat, received_utc: datetime) -> FrameLoss | None:
        """The gap that a beat shows, if it does."""
        gap = self._tracker.observe_last(beat.camera, beat.epoch, beat.last)
        if gap is None:
            return None
        return gap_loss((beat.camera, beat.epoch), gap, received_utc)

    def _parse(self, parts: Sequence[Buffer]) -> Message | MessageError:
        try:
            return parse_message(parts, max_payload_bytes=self._limits.max_payload_bytes)
        except MessageError as error:
            return error

    def _judge(
        self,
        message: Message | MessageError,
        frame_id: FrameId,
        received_utc: datetime,
        received_at: float,
    ) -> Admitted | ErrorFrame:
        info = self._info(frame_id, message, received_utc, received_at)
        try:
            return self._checked(message, info, received_utc)
        except FrameError as error:
            return ErrorFrame(info, error.reason, error.detail)

    def _too_fast(self, frame_id: FrameId, claim: Claim, lost_utc: datetime) -> FrameLoss:
        limit = self._limits.max_frames_per_second
        return FrameLoss(
            LossReason.TOO_FAST,
            lost_utc,
            f"the camera sends more than {limit:g} frames a second (limits.max_frames_per_second)",
            camera=frame_id.camera,
            category=claim.category,
            epoch=frame_id.epoch,
            first_seq=frame_id.seq,
            last_seq=frame_id.seq,
        )

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
        if info.frame_id.camera not in self._cameras:  # while it was in a session
            text = f"camera {info.frame_id.camera!r} was taken out of the configuration"
            raise FrameError(LossReason.UNKNOWN_CAMERA, text)
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
        configured = self._cameras.get(camera)
        return message.claim.category or (None if configured is None else configured.category)

    def _latest(self, received_utc: datetime) -> datetime:
        return received_utc + timedelta(seconds=self._limits.max_clock_skew_s)


def _not_allowed(camera: str, lost_utc: datetime) -> FrameLoss:
    """Counted for no camera: what a stranger claims must not stand in a camera's ledger."""
    detail = f"the sender's key is not one of camera {camera!r}; see `zsad keys list`"
    return FrameLoss(LossReason.NOT_ALLOWED, lost_utc, detail)


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


def gap_loss(start: Start, gap: Gap, lost_utc: datetime) -> FrameLoss:
    """The record of numbers that never came."""
    return FrameLoss(
        LossReason.GAP,
        lost_utc,
        f"{gap.frames} frames up to seq {gap.last_seq} were sent and never stored",
        camera=start[0],
        epoch=start[1],
        first_seq=gap.first_seq,
        last_seq=gap.last_seq,
    )
