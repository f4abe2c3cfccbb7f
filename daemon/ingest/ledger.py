"""What became of every message taken off a socket, per camera. Counts; decides nothing."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from daemon.core import Frame, FrameInfo, FrameLoss, LossReason


@dataclass(frozen=True, slots=True)
class CameraCounters:
    """One camera since the start; `received == decoding + queued + errors + losses` always.

    Attributes:
        received: Messages taken off the sockets.
        decoding: Not yet decided.
        queued: Given to the frame queue and not dropped by it.
        errors: Identified frames that got an ERROR row.
        losses: Received, without a row; never GAP.
        gaps: Numbers that were sent and never received.
        last_received_utc: None before the first message.
    """

    received: int
    decoding: int
    queued: int
    errors: Mapping[LossReason, int]
    losses: Mapping[LossReason, int]
    gaps: int
    last_received_utc: datetime | None

    @property
    def sent(self) -> int:
        """What the camera must have sent up to the last frame received."""
        return self.received - self.losses.get(LossReason.DUPLICATE, 0) + self.gaps


@dataclass(frozen=True, slots=True)
class IngestCounters:
    """A snapshot. The key None holds messages of no configured camera."""

    cameras: Mapping[str | None, CameraCounters]


@dataclass(slots=True)
class _Tally:
    received: int = 0
    queued: int = 0
    gaps: int = 0
    errors: Counter[LossReason] = field(default_factory=Counter)
    losses: Counter[LossReason] = field(default_factory=Counter)
    last_received_utc: datetime | None = None


class Ledger:
    """Written by the ingest thread, read by any.

    One tally per configured camera and one for None: invented names cannot make it grow.
    """

    def __init__(self, cameras: Mapping[str, object]) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[str | None, _Tally] = {name: _Tally() for name in cameras}
        self._tallies[None] = _Tally()

    def follow(self, cameras: Mapping[str, object]) -> None:
        """Count these cameras too; what was counted of others stays."""
        with self._lock:
            for name in cameras:
                self._tallies.setdefault(name, _Tally())

    def received(self, camera: str | None, received_utc: datetime) -> None:
        """A message was taken off a socket."""
        with self._lock:
            tally = self._of(camera)
            tally.received += 1
            tally.last_received_utc = received_utc

    def queued(self, frame: Frame, dropped: tuple[Frame, ...]) -> None:
        """A frame went to the queue, which dropped others or the frame itself for it."""
        with self._lock:
            self._of(frame.info.frame_id.camera).queued += 1
            for loser in dropped:
                tally = self._of(loser.info.frame_id.camera)
                tally.queued -= 1
                tally.losses[LossReason.QUEUE_FULL] += 1

    def error(self, info: FrameInfo, reason: LossReason) -> None:
        """An identified frame got an ERROR row."""
        with self._lock:
            self._of(info.frame_id.camera).errors[reason] += 1

    def lost(self, loss: FrameLoss) -> None:
        """A gap, or a received message without a row."""
        with self._lock:
            tally = self._of(loss.camera)
            if loss.reason is LossReason.GAP:
                tally.gaps += loss.frames
            else:
                tally.losses[loss.reason] += 1

    def snapshot(self) -> IngestCounters:
        """All counters at one instant."""
        with self._lock:
            return IngestCounters(
                {camera: _freeze(tally) for camera, tally in self._tallies.items()}
            )

    def _of(self, camera: str | None) -> _Tally:
        return self._tallies.get(camera) or self._tallies[None]


def _freeze(tally: _Tally) -> CameraCounters:
    decided = tally.queued + tally.errors.total() + tally.losses.total()
    return CameraCounters(
        received=tally.received,
        decoding=tally.received - decided,
        queued=tally.queued,
        errors=dict(tally.errors),
        losses=dict(tally.losses),
        gaps=tally.gaps,
        last_received_utc=tally.last_received_utc,
    )
