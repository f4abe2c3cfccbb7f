"""Which frames a person should label next, and why each: choosing is pure, reading is below it.

Only frames whose picture is still stored are offered, for nobody can judge the others.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from math import ceil, inf
from typing import Any, Literal, get_args

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, exists, select

from daemon.core import Verdict
from daemon.storage.night_tables import FrameFileRow
from daemon.storage.tables import InspectionRow, LabelRow, ThumbnailRow

MAX_CANDIDATES = 50_000
"""Of the newest frames so many are looked at; about two hours at 7 frames/s."""

NEAR = 0.1
"""A normalised score (NG from 0.5) is near the threshold within this distance."""

DISAGREEMENT_SHARE = 0.1
NOVEL_SHARE = 0.2
AUDIT_SHARE = 0.1

_PRIME = 2**31 - 1

Reason = Literal["review", "near_threshold", "disagreement", "novel", "audit"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A frame that may be labelled, or was.

    Attributes:
        normalised: Score in [0, 1] with NG from 0.5; None without a score or thresholds.
        has_frame: Whether the whole frame was kept, so that its label can be learnt from.
    """

    inspection_id: int
    camera: str
    category: str
    received_utc: datetime
    verdict: Verdict
    pred_score: float | None
    ng_threshold: float | None
    part_id: str | None
    map_peak: float | None = None
    map_threshold: float | None = None
    has_frame: bool = False

    @property
    def normalised(self) -> float | None:
        """As `daemon.inspection.decision.normalised_score`, from the row alone."""
        return _normalised(self.pred_score, self.ng_threshold)

    @property
    def disagreement(self) -> float:
        """How far the image's score and the map's peak lie apart, each by its own threshold.

        0 where both say the same of the frame: NG, or not.
        """
        by_image, by_map = self.normalised, _normalised(self.map_peak, self.map_threshold)
        if by_image is None or by_map is None or (by_image >= 0.5) == (by_map >= 0.5):
            return 0.0
        return abs(by_image - by_map)

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
    """At most `limit` frames: REVIEW first, then near the threshold and all other reasons.

    Novel frames get a fifth of the places, disagreement of the heads and the audit a tenth each,
    where there are such; what they leave goes to REVIEW and near frames, and what those leave to
    more frames with disagreement and more novel ones.

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

    doubtful, disputed = _doubtful(unlabelled), _disputed(unlabelled)
    n_audit = min(len(audit), ceil(limit * AUDIT_SHARE))
    n_disputed = min(len(disputed), ceil(limit * DISAGREEMENT_SHARE))
    n_novel = ceil(limit * NOVEL_SHARE)
    take(doubtful, max(1, limit - n_audit - n_disputed - n_novel))
    take(_audit(audit), min(n_audit, limit - len(chosen)))
    take(disputed, min(n_disputed, limit - len(chosen)))
    novel = _novel(
        [frame for frame in unlabelled if frame.inspection_id not in chosen],
        [*labelled, *(queued.frame for queued in chosen.values())],
        limit - len(chosen),
    )
    take(novel, min(n_novel, limit - len(chosen)))
    for rest in (doubtful, disputed, novel):
        take(rest, limit - len(chosen))
    return sorted(chosen.values(), key=lambda queued: get_args(Reason).index(queued.reason))


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
    drawn = {
        frame.inspection_id: frame
        for frame in draw_audit(connection, line, since_utc, today_utc, limit)
    }
    newest = row.received_utc.desc(), row.id.desc()
    unlabelled = shown.where(~is_labelled, row.verdict != Verdict.ERROR).order_by(*newest)
    review = unlabelled.where(row.verdict == Verdict.REVIEW)
    found = {
        frame.inspection_id: frame
        for query in (review.limit(limit), unlabelled.limit(MAX_CANDIDATES))
        for frame in _candidates(connection, query)
    }
    labelled = _shown(line, None).where(is_labelled).order_by(*newest).limit(MAX_CANDIDATES)
    done = connection.scalars(
        select(LabelRow.inspection_id).where(LabelRow.inspection_id.in_(drawn))
    )
    for inspection_id in done:
        drawn.pop(inspection_id, None)  # corrected labels name it more than once
    return choose(
        list(found.values()), _candidates(connection, labelled), list(drawn.values()), limit
    )


def draw_audit(
    connection: Connection, line: str, since_utc: datetime, today_utc: datetime, limit: int
) -> list[Candidate]:
    """The day's random share of a queue, labelled or not, in its order; arguments as there.

    Frames that passed and frames that were rejected in turn: the share of bad parts among the
    ones, and of good parts among the others, are the errors that only a random sample can tell.
    """
    row = InspectionRow
    before = _shown(line, since_utc).where(row.received_utc < today_utc)
    size = ceil(limit * AUDIT_SHARE)
    passed, rejected = (
        _candidates(
            connection,
            before.where(row.verdict.in_(verdicts))
            .order_by(_shuffled(today_utc), row.id)
            .limit(size),
        )
        for verdicts in ((Verdict.OK, Verdict.LEARNING), (Verdict.NG,))
    )
    in_turn = zip_longest(passed, rejected)
    return [frame for pair in in_turn for frame in pair if frame is not None][:size]


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


def _disputed(frames: Iterable[Candidate]) -> list[Queued]:
    """Frames that image score and map judge differently, by more than NEAR; the widest first."""
    found = []
    for frame in sorted(frames, key=lambda frame: -frame.disagreement):
        if frame.disagreement <= NEAR:
            break
        image, other = ("NG", "not") if (frame.normalised or 0.0) >= 0.5 else ("not NG", "NG")
        why = (
            f"the score of the image says {image}, the map {other}, {frame.disagreement:.3f} apart "
            "(normalised)"
        )
        found.append(Queued(frame, "disagreement", why))
    return found


def _normalised(value: float | None, threshold: float | None) -> float | None:
    """In [0, 1], NG from 0.5."""
    if value is None or threshold is None:
        return None
    if value < threshold:
        return 0.5 * value / threshold
    return 0.5 + 0.5 * (value - threshold) / (1.0 - threshold) if threshold < 1.0 else 0.5


def _audit(frames: Iterable[Candidate]) -> list[Queued]:
    passed, rejected = (
        f"drawn at random from the frames of before today that {what}"
        for what in ("passed", "were rejected")
    )
    return [
        Queued(frame, "audit", rejected if frame.verdict is Verdict.NG else passed)
        for frame in frames
    ]


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
        row.map_peak,
        row.map_threshold,
        _was_kept().label("has_frame"),
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


def _was_kept() -> ColumnElement[bool]:
    """Whether the whole frame of an inspection is on the disk."""
    file, row = FrameFileRow, InspectionRow
    return exists().where(file.camera == row.camera, file.epoch == row.epoch, file.seq == row.seq)


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
            row.map_peak,
            row.map_threshold,
            row.has_frame,
        )
        for row in connection.execute(query)
    ]
