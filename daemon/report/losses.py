"""Reads the loss records of a window: frames that have no inspection row, and why."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, Connection, or_, select, type_coerce

from daemon.core import LossReason
from daemon.report.contents import NO_CAMERA
from daemon.storage.tables import FrameLossRow, InspectionRow

_CHUNK_ROWS = 20_000
_LONGEST_WAIT = timedelta(hours=1)
"""A frame's loss may be stored this much before later numbers of its camera."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One loss record.

    Attributes:
        camera: NO_CAMERA where the message named none or one that is not known here.
        lost_us: Microseconds since 1970 UTC.
        epoch, first_seq, last_seq: None where unknown. A DUPLICATE's number belongs to the
            frame seen before, so it is None here too.
    """

    camera: str
    reason: LossReason
    lost_us: int
    frames: int
    epoch: int | None
    first_seq: int | None
    last_seq: int | None

    @property
    def is_numbered(self) -> bool:
        """Whether it accounts for running numbers of a known camera."""
        return self.first_seq is not None


def read_losses(
    connection: Connection,
    line: str,
    start_utc: datetime,
    end_utc: datetime,
    *,
    known_cameras: Iterable[str],
) -> list[Loss]:
    """Losses of the line in [start, end).

    Names that are not known cameras came from the wire and are unbounded, so they are one entry.
    Summed in Python, where a hostile running number near 2**63 cannot overflow.
    """
    row = FrameLossRow
    query = select(
        row.camera,
        row.reason,
        type_coerce(row.lost_utc, BigInteger),
        row.frames,
        row.epoch,
        row.first_seq,
        row.last_seq,
    ).where(row.line == line, row.lost_utc >= start_utc, row.lost_utc < end_utc)
    known = frozenset(known_cameras)
    losses = []
    for camera, reason, lost_us, frames, epoch, first_seq, last_seq in connection.execute(
        query.execution_options(yield_per=_CHUNK_ROWS)
    ):
        is_numbered = (
            camera in known
            and reason != LossReason.DUPLICATE
            and None not in (epoch, first_seq, last_seq)
        )
        numbers = (epoch, first_seq, last_seq) if is_numbered else (None, None, None)
        losses.append(
            Loss(
                camera if camera in known else NO_CAMERA,
                LossReason(reason),
                lost_us,
                frames,
                *numbers,
            )
        )
    return losses


def highest_number_before(connection: Connection, camera: str, epoch: int, seq: int) -> int | None:
    """The highest number below `seq` that a row or a loss of this publisher start accounts for."""
    row = connection.execute(
        select(InspectionRow.seq)
        .where(
            InspectionRow.camera == camera, InspectionRow.epoch == epoch, InspectionRow.seq < seq
        )
        .order_by(InspectionRow.seq.desc())
        .limit(1)
    ).scalar()
    loss = connection.execute(
        select(FrameLossRow.last_seq)
        .where(
            FrameLossRow.camera == camera,
            FrameLossRow.epoch == epoch,
            FrameLossRow.last_seq < seq,
            FrameLossRow.reason != LossReason.DUPLICATE.value,
        )
        .order_by(FrameLossRow.last_seq.desc())
        .limit(1)
    ).scalar()
    return max((number for number in (row, loss) if number is not None), default=None)


def numbers_lost_outside(
    connection: Connection,
    camera: str,
    epoch: int,
    first_seq: int,
    last_seq: int,
    window: tuple[datetime, datetime],
) -> int:
    """Numbers in [first, last] whose loss was stored outside the window, for example after a crash.

    A daemon that was killed counts what it had not stored when it starts again, hours later.
    """
    start_utc, end_utc = window
    row = FrameLossRow
    found = connection.execute(
        select(row.first_seq, row.last_seq).where(
            row.camera == camera,
            row.epoch == epoch,
            row.last_seq >= first_seq,
            row.first_seq <= last_seq,
            row.reason != LossReason.DUPLICATE.value,
            row.lost_utc >= start_utc - _LONGEST_WAIT,
            or_(row.lost_utc < start_utc, row.lost_utc >= end_utc),
        )
    )
    return sum(
        min(last, last_seq) - max(first, first_seq) + 1
        for first, last in found
        if first is not None and last is not None
    )
