"""What models said of live frames, counted: the candidate's scores, and verdicts by model version.

Every function works in the caller's transaction.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from daemon.core import ShadowScore, Verdict
from daemon.storage import rows
from daemon.storage.night_tables import ShadowScoreRow
from daemon.storage.tables import InspectionRow, ModelVersionRow

VerdictCounts = Mapping[str, Counter[Verdict]]
"""By category."""

JUDGED = tuple(verdict.value for verdict in (Verdict.OK, Verdict.REVIEW, Verdict.NG))


def add_shadow_scores(connection: Connection, line: str, scores: Sequence[ShadowScore]) -> None:
    """Write what a candidate said; a frame that has its row keeps it."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(
        dialect.insert(ShadowScoreRow).on_conflict_do_nothing(),
        [rows.of_shadow_score(line, score) for score in scores],
    )


def shadow_counts(
    connection: Connection, line: str, version: str, since: datetime
) -> tuple[VerdictCounts, VerdictCounts]:
    """Verdicts of the active model and of a candidate, on the same frames, by category.

    A frame that the candidate has no score for is ERROR in its counts.

    Args:
        since: When it became the candidate; what it said as an earlier one does not count.
    """
    row = ShadowScoreRow
    active: dict[str, Counter[Verdict]] = {}
    candidate: dict[str, Counter[Verdict]] = {}
    for category, verdict, shadow_verdict, frames in connection.execute(
        select(row.category, row.verdict, row.shadow_verdict, func.count())
        .where(row.line == line, row.version == version, row.at_utc >= since)
        .group_by(row.category, row.verdict, row.shadow_verdict)
    ):
        active.setdefault(category, Counter())[Verdict(verdict)] += frames
        candidate.setdefault(category, Counter())[Verdict(shadow_verdict)] += frames
    return active, candidate


def verdict_counts(
    connection: Connection,
    line: str,
    version: str,
    *,
    since: datetime,
    until: datetime,
    newest: int,
) -> VerdictCounts:
    """Verdicts by thresholds that frames of [since, until) got under a model, by category.

    Args:
        version: Of the weights; with any reference bank.
        newest: Only of so many frames, the newest.
    """
    name, row = ModelVersionRow.name, InspectionRow
    versions = select(ModelVersionRow.id).where(
        or_(name == version, name.startswith(f"{version}+", autoescape=True))
    )
    chosen = (
        select(row.category, row.verdict)
        .where(
            row.line == line,
            row.received_utc >= since,
            row.received_utc < until,
            row.model_version_id.in_(versions),
            row.verdict.in_(JUDGED),
        )
        .order_by(row.received_utc.desc())
        .limit(newest)
        .subquery()
    )
    found: dict[str, Counter[Verdict]] = {}
    for category, verdict, frames in connection.execute(
        select(chosen.c.category, chosen.c.verdict, func.count()).group_by(
            chosen.c.category, chosen.c.verdict
        )
    ):
        found.setdefault(category, Counter())[Verdict(verdict)] = frames
    return found
