"""The ledger: where every frame of every camera went, checked against the camera's own numbers."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import Connection, func, select

from daemon.core import LossReason, Verdict
from daemon.report.contents import NO_CAMERA, LedgerRow, LossCount, counts_of
from daemon.report.frames import Frames
from daemon.report.losses import Loss, highest_number_before, numbers_lost_outside
from daemon.storage.tables import InspectionRow


@dataclass(slots=True)
class _Numbers:
    """Running numbers of one publisher start that the window has a record of."""

    lowest: int
    highest: int
    rows: int = 0
    lost: int = 0


def ledger_rows(
    connection: Connection,
    frames: Frames,
    losses: Sequence[Loss],
    cameras: Iterable[str],
    window: tuple[datetime, datetime],
) -> tuple[LedgerRow, ...]:
    """One row a camera, also for a configured camera that sent nothing.

    Args:
        cameras: Configured camera names.
        window: Start and end (UTC) that frames and losses were read for.
    """
    frames_per_key = np.bincount(frames.code, minlength=len(frames.keys)).tolist()
    checks = _number_checks(connection, _numbers(frames, frames_per_key, losses), window)
    by_verdict: dict[str, Counter[Verdict]] = defaultdict(Counter)
    lost: dict[str, Counter[LossReason]] = defaultdict(Counter)
    unnumbered: Counter[str] = Counter()
    for key, n in zip(frames.keys, frames_per_key, strict=True):
        by_verdict[key.camera][key.verdict] += n
        if key.error_reason is not None:
            lost[key.camera][key.error_reason] += n
    received = Counter({camera: counts.total() for camera, counts in by_verdict.items()})
    for loss in losses:
        lost[loss.camera][loss.reason] += loss.frames
        if loss.reason != LossReason.GAP:
            received[loss.camera] += loss.frames
            unnumbered[loss.camera] += 0 if loss.is_numbered else loss.frames
    names = sorted({*cameras, *by_verdict, *lost} - {NO_CAMERA})
    return tuple(
        LedgerRow(
            camera=camera,
            counts=counts_of(by_verdict[camera].items()),
            received=received[camera],
            lost=_loss_counts(lost[camera]),
            gaps=lost[camera][LossReason.GAP],
            unnumbered=unnumbered[camera],
            sent=checks[camera].sent,
            accounted=checks[camera].accounted,
            joined_at=checks[camera].joined_at,
        )
        for camera in (*names, *([NO_CAMERA] if NO_CAMERA in lost else []))
    )


def _loss_counts(lost: Counter[LossReason]) -> tuple[LossCount, ...]:
    """Received and lost, most frequent first; gaps were never received."""
    return tuple(
        LossCount(reason, n) for reason, n in lost.most_common() if n and reason != LossReason.GAP
    )


@dataclass(slots=True)
class _NumberCheck:
    """A camera's own count of its frames; see LedgerRow."""

    sent: int = 0
    accounted: int = 0
    joined_at: int = 0


def _number_checks(
    connection: Connection,
    recorded: Mapping[tuple[str, int], _Numbers],
    window: tuple[datetime, datetime],
) -> dict[str, _NumberCheck]:
    """Frames known sent by each camera, and how many of these numbers have any record at all.

    A publisher start (camera, epoch) has used in this window every number from behind the last
    one recorded earlier up to the highest one recorded here. Numbers count from 0, and what is
    missing before the first frame is stored as a gap, so a first record above 0 means that the
    daemon joined a sender that names no epoch.
    """
    checks: dict[str, _NumberCheck] = defaultdict(_NumberCheck)
    for (camera, epoch), numbers in recorded.items():
        check = checks[camera]
        before = None
        if numbers.lowest > 0:
            before = highest_number_before(connection, camera, epoch, numbers.lowest)
        if before is None:
            check.joined_at += numbers.lowest
        first = numbers.lowest if before is None else before + 1
        sent = numbers.highest - first + 1
        check.sent += sent
        check.accounted += numbers.lost + (
            sent  # each number has one row at most, so there is nothing to look for
            if numbers.rows == sent
            else _count_rows(connection, camera, epoch, first, numbers.highest)
        )
        check.accounted += numbers_lost_outside(
            connection, camera, epoch, first, numbers.highest, window
        )
    return checks


def _count_rows(connection: Connection, camera: str, epoch: int, first: int, last: int) -> int:
    """Rows of these numbers, whenever they were received."""
    row = InspectionRow
    wanted = row.camera == camera, row.epoch == epoch, row.seq.between(first, last)
    return connection.scalar(select(func.count()).select_from(row).where(*wanted)) or 0


def _numbers(
    frames: Frames, frames_per_key: Sequence[int], losses: Sequence[Loss]
) -> dict[tuple[str, int], _Numbers]:
    """By camera and epoch."""
    found: dict[tuple[str, int], _Numbers] = {}
    for key, (low, high), n in zip(frames.keys, frames.numbers, frames_per_key, strict=True):
        numbers = found.setdefault((key.camera, key.epoch), _Numbers(low, high))
        numbers.rows += n
        numbers.lowest, numbers.highest = min(numbers.lowest, low), max(numbers.highest, high)
    for loss in losses:
        if loss.epoch is None or loss.first_seq is None or loss.last_seq is None:
            continue
        numbers = found.setdefault(
            (loss.camera, loss.epoch), _Numbers(loss.first_seq, loss.last_seq)
        )
        numbers.lowest = min(numbers.lowest, loss.first_seq)
        numbers.highest = max(numbers.highest, loss.last_seq)
        numbers.lost += loss.frames
    return found
