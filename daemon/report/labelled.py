"""What people said of a window's frames beside the machine, and how often it erred.

An error rate is told only from frames that nobody chose for their score: those that the queue drew
at random, or all frames of a verdict where all of them are labelled.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, func, select

from daemon.core import LabelVerdict, Verdict
from daemon.report.contents import Agreement, ErrorRate, LabelledCount
from daemon.report.intervals import wilson
from daemon.storage.night_tables import AuditDrawRow
from daemon.storage.tables import InspectionRow, LabelRow

How = Literal["random", "all", "chosen"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Labelled frames of one verdict, of which an error rate is told, or not.

    Attributes:
        right, wrong: Frames where the person agrees, and where not; UNCERTAIN counts nowhere.
    """

    how: How
    drawn: int
    right: int
    wrong: int


def read_agreement(
    connection: Connection,
    line: str,
    start_utc: datetime,
    end_utc: datetime,
    frames: Mapping[Verdict, int],
) -> Agreement | None:
    """Labels in force of frames received in [start, end); None where there is none.

    Args:
        frames: Of the window by verdict.
    """
    row, draw = InspectionRow, AuditDrawRow
    # labels are few: beginning with them reads no row of the window without one
    newest = select(func.max(LabelRow.id)).group_by(LabelRow.inspection_id)
    labelled: Counter[tuple[Verdict, LabelVerdict, bool]] = Counter()
    for verdict, label, is_drawn, n in connection.execute(
        select(row.verdict, LabelRow.verdict, draw.inspection_id.is_not(None), func.count())
        .select_from(LabelRow)
        .join(row, row.id == LabelRow.inspection_id)
        .outerjoin(draw, draw.inspection_id == row.id)
        .where(LabelRow.id.in_(newest))
        .where(row.line == line, row.received_utc >= start_utc, row.received_utc < end_utc)
        .group_by(row.verdict, LabelRow.verdict, draw.inspection_id.is_not(None))
    ):
        labelled[Verdict(verdict), LabelVerdict(label), bool(is_drawn)] += n
    if not labelled:
        return None
    drawn: Counter[Verdict] = Counter()
    for verdict, n in connection.execute(
        select(row.verdict, func.count())
        .join(draw, draw.inspection_id == row.id)
        .where(row.line == line, row.received_utc >= start_utc, row.received_utc < end_utc)
        .group_by(row.verdict)
    ):
        drawn[Verdict(verdict)] = n
    return agreement_of(labelled, drawn, frames)


def agreement_of(
    labelled: Mapping[tuple[Verdict, LabelVerdict, bool], int],
    drawn: Mapping[Verdict, int],
    frames: Mapping[Verdict, int],
) -> Agreement:
    """Counts and rates.

    Args:
        labelled: Frames by verdict, label, and whether they were drawn at random.
        drawn: Frames that were drawn at random, by verdict, labelled or not.
        frames: Of the window by verdict.
    """
    together: Counter[tuple[Verdict, LabelVerdict]] = Counter()
    for (verdict, label, _), n in labelled.items():
        together[verdict, label] += n
    review = {label: together[Verdict.REVIEW, label] for label in LabelVerdict}
    passed = _sample(Verdict.OK, LabelVerdict.OK, LabelVerdict.NG, labelled, drawn, frames)
    rejected = _sample(Verdict.NG, LabelVerdict.NG, LabelVerdict.OK, labelled, drawn, frames)
    return Agreement(
        counts=tuple(
            LabelledCount(verdict, label, n) for (verdict, label), n in sorted(together.items())
        ),
        review_ok=review[LabelVerdict.OK],
        review_ng=review[LabelVerdict.NG],
        review_open=frames.get(Verdict.REVIEW, 0)
        - review[LabelVerdict.OK]
        - review[LabelVerdict.NG],
        escapes=_rate(passed, 1.0, 0.0),
        false_rejects=_rate(
            rejected, float(frames.get(Verdict.NG, 0)), float(frames.get(Verdict.OK, 0))
        ),
    )


def _sample(
    verdict: Verdict,
    right: LabelVerdict,
    wrong: LabelVerdict,
    labelled: Mapping[tuple[Verdict, LabelVerdict, bool], int],
    drawn: Mapping[Verdict, int],
    frames: Mapping[Verdict, int],
) -> Sample:
    """All of a verdict's frames if all are labelled, else those drawn at random, else none."""

    def count(label: LabelVerdict, *, only_drawn: bool) -> int:
        chosen = 0 if only_drawn else labelled.get((verdict, label, False), 0)
        return chosen + labelled.get((verdict, label, True), 0)

    everywhere = Sample("all", 0, count(right, only_drawn=False), count(wrong, only_drawn=False))
    if 0 < frames.get(verdict, 0) <= everywhere.right + everywhere.wrong:
        return everywhere
    at_random = count(right, only_drawn=True), count(wrong, only_drawn=True)
    if sum(at_random):
        return Sample("random", drawn.get(verdict, 0), *at_random)
    return Sample("chosen", drawn.get(verdict, 0), everywhere.right, everywhere.wrong)


def _rate(sample: Sample, rejected: float, passed: float) -> ErrorRate:
    """The share of wrong ones, carried over to the share of good frames that were rejected.

    With p of the `rejected` frames good, p * rejected of the good ones were rejected and `passed`
    were not; (1, 0) leaves p as it is. Monotonic, so that the interval's ends carry over too.
    """
    n = sample.right + sample.wrong
    if sample.how == "chosen" or n == 0:
        return ErrorRate(sample.how, sample.drawn, n, sample.wrong, None, None, None)
    low, high = wilson(sample.wrong, n)

    def carried(share: float) -> float:
        good = share * rejected + passed
        return share if passed == 0.0 else share * rejected / good

    if sample.how == "all":  # counted, not estimated
        return ErrorRate(
            "all", sample.drawn, n, sample.wrong, carried(sample.wrong / n), None, None
        )
    return ErrorRate(
        "random",
        sample.drawn,
        n,
        sample.wrong,
        carried(sample.wrong / n),
        carried(low),
        carried(high),
    )
