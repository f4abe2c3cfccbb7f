"""Tries a candidate on live frames, and promotes or rejects it. Owned by the main thread."""

import logging
from datetime import UTC, datetime

from sqlalchemy import Engine

from daemon.config.line import Config
from daemon.config.training import TrainingConfig
from daemon.core import Event, EventKind, Severity, Verdict
from daemon.errors import ModelError
from daemon.health import Health
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.loaded_model import LoadedModel
from daemon.inspection.shadow import Rival, Shadow
from daemon.model_loader import ModelLoader, versions_of
from daemon.model_rows import judged_only_by, known_of, review_rates
from daemon.status import ModelStatus
from daemon.storage import live_counts, models, repository
from daemon.storage.database import write_transaction
from daemon.storage.live_counts import VerdictCounts
from daemon.storage.models import ActiveModel, Candidate
from daemon.training import live_check
from daemon.training.live_check import Counts, Shadowed

logger = logging.getLogger(__name__)

AUTHOR = "shadow"


class CandidateTrial:
    """From the proposal to the decision; every decision is one transaction with its reason."""

    def __init__(
        self,
        training: TrainingConfig,
        engine: Engine,
        *,
        loader: ModelLoader,
        shadow: Shadow,
        health: Health,
    ) -> None:
        self._training = training
        self._engine = engine
        self._loader = loader
        self._shadow = shadow
        self._health = health
        self._waits: tuple[str, str] | None = None

    def step(
        self,
        candidate: Candidate,
        active: ActiveModel | None,
        running: str,
        config: Config,
        now: datetime,
    ) -> ModelStatus:
        """Load the candidate, let it score, or decide on it: whatever is next.

        Args:
            running: Version of the model that inspects, which is the active one.

        Raises:
            OperationalError: the database is away; nothing was decided.
            StorageError: a person was faster.
        """
        version, line = candidate.version, config.line
        status = ModelStatus(
            version=running, candidate=version, shadow_wanted=candidate.wanted_frames
        )
        if active is not None and active.since_utc > candidate.since_utc:
            reason = f"{active.version} became active meanwhile; it was compared with another"
            return self._reject(line, status, reason, now)
        found = self._loader.get(version, config)
        if found is None:
            return status.model_copy(update={"waits_for": "it is being loaded"})
        if isinstance(found, ModelError):
            return self._reject(line, status, str(found), now)
        if missing := self._missing(found, running, config):
            todo = f"`zsad calibrate --model {version} --category NAME IMAGES`"
            text = f"thresholds of {', '.join(missing)}: make them with {todo}"
            return self._wait(line, status, "thresholds", text, now)
        with self._engine.connect() as connection:
            before, after = live_counts.shadow_counts(
                connection, line, version, candidate.since_utc
            )
        frames = sum(counts.total() for counts in before.values())
        status = status.model_copy(update={"shadow_frames": frames})
        if frames < candidate.wanted_frames:
            self._let_score(found, config)
            return status
        self._shadow.end()
        return self._decide(config, status, before, after, now)

    def _missing(self, model: LoadedModel, running: str, config: Config) -> list[str]:
        """Categories that are judged now, and would only be LEARNING under this model."""
        versions = versions_of(model, config.shared_categories)
        with self._engine.connect() as connection:
            return judged_only_by(connection, config.shared_categories, running, versions)

    def _let_score(self, model: LoadedModel, config: Config) -> None:
        if self._shadow.version == model.version:
            return
        versions = versions_of(model, config.shared_categories)
        with self._engine.connect() as connection:
            known = known_of(connection, config.line, config.shared_categories, versions)
        book = CalibrationBook(
            model_version=model.version,
            categories=config.shared_categories,
            calibrations=known.calibrations,
            learned={},
            now=lambda: datetime.now(UTC),
            variants=versions,
        )
        self._shadow.begin(Rival(model, book))

    def _decide(
        self,
        config: Config,
        status: ModelStatus,
        before: VerdictCounts,
        after: VerdictCounts,
        now: datetime,
    ) -> ModelStatus:
        shadowed = {
            name: Shadowed(
                Counts.of(before[name]), Counts.of(after[name]), after[name][Verdict.ERROR]
            )
            for name in before
        }
        if reasons := live_check.reasons_to_reject(
            shadowed, review_rates(config.shared_categories)
        ):
            return self._reject(config.line, status, "; ".join(reasons), now)
        rates = live_check.compared(
            {name: found.active for name, found in shadowed.items()},
            {name: found.candidate for name, found in shadowed.items()},
        )
        version = status.candidate
        assert version is not None, "it is on trial"  # noqa: S101
        if self._training.promote == "manual":
            text = f"a person: `zsad model promote {version}` ({rates})"
            return self._wait(config.line, status, "a person", text, now)
        with write_transaction(self._engine) as connection:
            models.promote(
                connection,
                config.line,
                version,
                instead_of=status.version,
                author=AUTHOR,
                reason=(
                    f"its verdicts on live frames stayed in their band: {rates}"
                    if shadowed
                    else "no live frames were asked for (training.shadow_frames)"
                ),
                now=now,
            )
        self._health.count_event(Severity.INFO)
        return status

    def _wait(
        self, line: str, status: ModelStatus, what: str, text: str, now: datetime
    ) -> ModelStatus:
        """Say what a candidate waits for; once in the diary."""
        if self._waits != (status.candidate, what):
            detail = f"candidate {status.candidate} waits for {text}"
            event = Event(EventKind.MODEL_WAITS, Severity.WARNING, now, detail)
            with write_transaction(self._engine) as connection:
                repository.add_results(connection, line, [event])
            self._health.count_event(Severity.WARNING)
            self._waits = status.candidate or "", what
        return status.model_copy(update={"waits_for": text})

    def _reject(self, line: str, status: ModelStatus, reason: str, now: datetime) -> ModelStatus:
        version = status.candidate or ""
        with write_transaction(self._engine) as connection:
            models.reject(connection, line, version, AUTHOR, reason, now)
        self._health.count_event(Severity.WARNING)
        logger.warning("candidate rejected", extra={"model": version, "reason": reason})
        self._shadow.end()
        return status
