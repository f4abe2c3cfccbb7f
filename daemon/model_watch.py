"""Watches the verdicts of a promoted model, and takes it back. Owned by the main thread."""

import logging
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine

from daemon.config.line import Config
from daemon.config.training import TrainingConfig
from daemon.core import Severity
from daemon.health import Health
from daemon.model_rows import review_rates
from daemon.storage import live_counts, models
from daemon.storage.database import write_transaction
from daemon.storage.models import ActiveModel, ModelChangeKind
from daemon.training import live_check
from daemon.training.live_check import Counts

logger = logging.getLogger(__name__)

PAST = timedelta(hours=24)
PAST_FRAMES = 50_000
"""Of the model before, so much sets the band: its last day, and at most so many frames of it."""
LOOK_EVERY = timedelta(seconds=20)


class ModelWatch:
    """All it knows is in the database: the watch goes on after a restart."""

    def __init__(self, training: TrainingConfig, engine: Engine, health: Health) -> None:
        self._training = training
        self._engine = engine
        self._health = health
        self._looked: tuple[str, datetime] | None = None

    def step(self, active: ActiveModel, config: Config, now: datetime) -> datetime | None:
        """Roll back, confirm, or wait; until when the model is watched, None if it is not.

        Raises:
            OperationalError: the database is away; nothing was decided.
            StorageError: a person was faster.
        """
        until = active.since_utc + timedelta(minutes=self._training.watch_minutes)
        with self._engine.connect() as connection:
            if not _was_just_promoted(connection, config.line, active):
                return None
        if self._looked is not None:
            version, looked_utc = self._looked
            if version == active.version and now < min(until, looked_utc + LOOK_EVERY):
                return until
        self._looked = active.version, now
        before, after = self._before_and_after(active, config.line, now)
        if reasons := live_check.outside_band(before, after, review_rates(config.categories)):
            self._roll_back(active, config.line, "; ".join(reasons), now)
        elif now >= until:
            rates = live_check.compared(before, after)
            with write_transaction(self._engine) as connection:
                models.confirm(connection, config.line, active.version, rates, now)
            self._health.count_event(Severity.INFO)
        else:
            return until
        return None

    def _roll_back(self, active: ActiveModel, line: str, reason: str, now: datetime) -> None:
        with write_transaction(self._engine) as connection:
            models.roll_back(connection, line, active.version, "watch", reason, now)
        self._health.count_event(Severity.ALARM)
        logger.error("model rolled back", extra={"model": active.version, "reason": reason})

    def _before_and_after(
        self, active: ActiveModel, line: str, now: datetime
    ) -> tuple[dict[str, Counts], dict[str, Counts]]:
        since = active.since_utc
        with self._engine.connect() as connection:
            past, present = (
                live_counts.verdict_counts(
                    connection, line, version, since=start, until=end, newest=PAST_FRAMES
                )
                for version, start, end in (
                    (active.previous, since - PAST, since),
                    (active.version, since, now),
                )
            )
        return (
            {name: Counts.of(verdicts) for name, verdicts in past.items()},
            {name: Counts.of(verdicts) for name, verdicts in present.items()},
        )


def _was_just_promoted(connection: Connection, line: str, active: ActiveModel) -> bool:
    """Not where it came back by a roll-back, and not once its verdicts were confirmed."""
    kinds = ModelChangeKind
    last = models.last_change(
        connection, line, active.version, kinds.PROMOTED, kinds.CONFIRMED, kinds.ROLLED_BACK
    )
    return last is not None and last.kind is kinds.PROMOTED and last.at_utc == active.since_utc
