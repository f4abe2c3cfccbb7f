"""Which frames a person should label next, and why each: choosing is pure, reading is below it.

Only frames whose picture is still stored are offered, for nobody can judge the others.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil, inf
from typing import Any, Literal

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, exists, select

from daemon.core import Verdict
from daemon.storage.tables import InspectionRow, LabelRow, ThumbnailRow

MAX_CANDIDATES = 50_000
"""Of the newest frames so many are looked at; about two hours at 7 frames/s."""

NEAR = 0.1
"""A normalised score (NG from 0.5) is near the threshold within this distance."""

NOVEL_SHARE = 0.2
AUDIT_SHARE = 0.1

_PRIME = 2**31 - 1

Reason = Literal["review", "near_threshold", "novel", "audit"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A frame that may be labelled, or was.

    Attributes:
        normalised: Score in [0, 1] with NG from 0.5; None without a score or thresholds.
    """

    inspection_id: int
    camera: str
    category: str
    received_utc: datetime
    verdict: Verdict
    pred_score: float | None
    ng_threshold: float | None
    part_id: str | None

    @property
    def normalised(self) -> float | None:
        """As `daemon.inspection.decision.normalised_score`, from the row alone."""
        score, threshold = self.pred_score, self.ng_threshold
        if score is None or threshold is None:
            return None
        if score < threshold:
            return 0.5 * score / threshold
        return 0.5 + 0.5 * (score - threshold) / (1.0 - threshold) if threshold < 1.0 else 0.5

    @property
    def distance(self) -> float:
        """From the NG threshold, of the normalised score."""
        return inf if self.normalised is None else abs(self.normalised - 0.5)


@dataclass(frozen=True, slots=True)
class Queued:
    """A frame to be labelled.

    Attributes:
        why: One sentence for people.
    """

    frame: Candidate
    reason: Reason
    why: str


def choose(
    unlabelled: Sequence[Candidate],
    labelled: Sequence[Candidate],
    audit: Sequence[Candidate],
    limit: int,
) -> list[Queued]:
    """At most `limit` frames: REVIEW first, then near the threshold, novel ones, and the audit.

    Novel frames get a fifth of the places and the audit a tenth, where there are such; what they
    leave goes to REVIEW and near frames, and what those leave to more novel ones.

    Args:
        unlabelled: Newest first.
        audit: The day's random share, in its order.
    """
    chosen: dict[int, Queued] = {}

    def take(found: Iterable[Queued], room: int) -> None:
        for queued in found:
            if room <= 0:
                return
            if queued.frame.inspection_id not in chosen:
                chosen[queued.frame.inspection_id] = queued
                room -= 1

    doubtful = _doubtful(unlabelled)
    n_audit = min(len(audit), ceil(limit * AUDIT_SHARE))
    n_novel = ceil(limit * NOVEL_SHARE)
    take(doubtful, max(1, limit - n_audit - n_novel))
    take(_audit(audit), min(n_audit, limit - len(chosen)))
    novel = _novel(
        [frame for frame in unlabelled if frame.inspection_id not in chosen],
        [*labelled, *(queued.frame for queued in chosen.values())],
        limit - len(chosen),
    )
    take(novel, min(n_novel, limit - len(chosen)))
    take(doubtful, limit - len(chosen))
    take(novel, limit - len(chosen))
    order: tuple[Reason, ...] = ("review", "near_threshold", "novel", "audit")
    return sorted(chosen.values(), key=lambda queued: order.index(queued.reason))


def read_queue(
    connection: Connection, line: str, since_utc: datetime, today_utc: datetime, limit: int
) -> list[Queued]:
    """The queue of a line, of frames received since then.

    Args:
        today_utc: When the day of the plant began. The audit is drawn from the frames before it
            and seeded by it, so that it stays the same all day.
    """
    row = InspectionRow
    is_labelled = exists().where(LabelRow.inspection_id == row.id)
    shown = _shown(line, since_utc)
    newest = row.received_utc.desc(), row.id.desc()
    unlabelled = shown.where(~is_labelled, row.verdict != Verdict.ERROR).order_by(*newest)
    review = unlabelled.where(row.verdict == Verdict.REVIEW)
    found = {
        frame.inspection_id: frame
        for query in (review.limit(limit), unlabelled.limit(MAX_CANDIDATES))
        for frame in _candidates(connection, query)
    }
    labelled = _shown(line, None).where(is_labelled).order_by(*newest).limit(MAX_CANDIDATES)
    audit = (
        shown.where(row.verdict.in_((Verdict.OK, Verdict.LEARNING)), row.received_utc < today_utc)
        .order_by(_shuffled(today_utc), row.id)
        .limit(ceil(limit * AUDIT_SHARE))
    )
    drawn = {frame.inspection_id: frame for frame in _candidates(connection, audit)}
    done = connection.scalars(
        select(LabelRow.inspection_id).where(LabelRow.inspection_id.in_(drawn))
    )
    for inspection_id in done:
        drawn.pop(inspection_id, None)  # corrected labels name it more than once
    return choose(
        list(found.values()), _candidates(connection, labelled), list(drawn.values()), limit
    )


def _doubtful(frames: Iterable[Candidate]) -> list[Queued]:
    """REVIEW, then other frames near the threshold; the nearest first in both."""
    found = []
    for frame in sorted(frames, key=lambda frame: frame.distance):
        if frame.verdict is Verdict.REVIEW:
            found.append(Queued(frame, "review", "the daemon left the verdict to a person"))
        elif frame.distance <= NEAR:
            why = f"{frame.distance:.3f} from the NG threshold (normalised, near is {NEAR:g})"
            found.append(Queued(frame, "near_threshold", why))
    return sorted(found, key=lambda queued: queued.reason != "review")


def _audit(frames: Iterable[Candidate]) -> list[Queued]:
    why = "drawn at random from the frames of before today that passed"
    return [Queued(frame, "audit", why) for frame in frames]


def _novel(frames: Sequence[Candidate], known: Iterable[Candidate], count: int) -> list[Queued]:
    """Farthest first: each time the frame whose score lies farthest from all labelled ones.

    Scores are compared within a category and camera; one of which nothing is known comes first.
    """
    scored = [frame for frame in frames if frame.normalised is not None]
    scores = np.array([frame.normalised for frame in scored], dtype=np.float64)
    members: dict[tuple[str, str], list[int]] = {}
    for index, frame in enumerate(scored):
        members.setdefault((frame.camera, frame.category), []).append(index)
    gaps = np.full(len(scored), inf)

    def meet(other: Candidate) -> None:
        near = members.get((other.camera, other.category))
        if near is not None and other.normalised is not None:
            gaps[near] = np.minimum(gaps[near], np.abs(scores[near] - other.normalised))

    for other in _distinct(known):
        meet(other)
    found: list[Queued] = []
    while scored and len(found) < count:
        best = int(gaps.argmax())
        gap = float(gaps[best])
        if gap <= 0.0:
            break
        found.append(Queued(scored[best], "novel", _why_novel(scored[best], gap)))
        meet(scored[best])
    return found


def _distinct(frames: Iterable[Candidate]) -> list[Candidate]:
    """One frame for each score, to three digits, of a category and camera."""
    seen: dict[tuple[str, str, float], Candidate] = {}
    for frame in frames:
        if frame.normalised is not None:
            seen.setdefault((frame.camera, frame.category, round(frame.normalised, 3)), frame)
    return list(seen.values())


def _why_novel(frame: Candidate, gap: float) -> str:
    if gap == inf:
        return f"no frame of {frame.category} from {frame.camera} is labelled yet"
    return f"its score is {gap:.3f} (normalised) away from every labelled one"


def _shown(line: str, since_utc: datetime | None) -> Select[*tuple[Any, ...]]:
    row = InspectionRow
    query: Select[*tuple[Any, ...]] = select(
        row.id,
        row.camera,
        row.category,
        row.received_utc,
        row.verdict,
        row.pred_score,
        row.ng_threshold,
        row.part_id,
    ).where(row.line == line)
    if since_utc is None:
        return query
    picture = ThumbnailRow
    has_picture = exists().where(
        picture.inspection_id == row.id,
        picture.verdict == row.verdict,  # with the time it names the one partition to look in
        picture.received_utc == row.received_utc,
    )
    return query.where(row.received_utc >= since_utc, has_picture)


def _shuffled(day_utc: datetime) -> ColumnElement[int]:
    """An order that looks random and is the same whenever it is asked for that day."""
    draw = random.Random(day_utc.isoformat())  # noqa: S311 - a sample, not a secret
    factor, offset = draw.randrange(1, _PRIME), draw.randrange(_PRIME)
    return (InspectionRow.id % _PRIME * factor + offset) % _PRIME


def _candidates(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[Candidate]:
    return [
        Candidate(
            row.id,
            row.camera,
            row.category,
            row.received_utc,
            Verdict(row.verdict),
            row.pred_score,
            row.ng_threshold,
            row.part_id,
        )
        for row in connection.execute(query)
    ]
