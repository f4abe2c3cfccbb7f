"""How a night ends: what the database learns of it, in one transaction, and what the disk keeps."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine

from daemon.config.line import Config
from daemon.config.training import TrainingConfig
from daemon.errors import StorageError
from daemon.storage import job_runs, models, repository
from daemon.storage.database import write_transaction
from daemon.storage.job_runs import JobState
from daemon.training.gate import Judgement
from daemon.training.model_store import ModelStore
from daemon.training.old_models import remove_old_models
from daemon.training.thresholds import Thresholds
from zsad.predictor import Predictor

AUTHOR = "night"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a night ended.

    Attributes:
        detail: One sentence, for people.
        report_json: All findings of the gate; None where it did not come to that.
    """

    state: JobState
    detail: str
    candidate: str | None = None
    report_json: str | None = None


class NightEnd:
    """The last step of one run."""

    def __init__(
        self,
        engine: Engine,
        config: Config,
        store: ModelStore,
        *,
        run_id: int,
        now: Callable[[], datetime],
    ) -> None:
        """Args are kept; `config` has `training`.

        Args:
            run_id: Of the row in `job_run`.
            now: Aware UTC.
        """
        assert config.training is not None, "the caller has looked"  # noqa: S101
        self._engine, self._line, self._store = engine, config.line, store
        self._training: TrainingConfig = config.training
        self._run_id, self._now = run_id, now

    def note(self, outcome: Outcome) -> None:
        """A night that proposes nothing. Raises OperationalError: the database is away."""
        with write_transaction(self._engine) as connection:
            self._note(connection, outcome)

    def propose(
        self,
        candidate: Predictor,
        folder: Path,
        judgement: Judgement,
        thresholds: Thresholds,
        report: str,
    ) -> Outcome:
        """Store the model and hand it to the daemon; or say why not.

        Args:
            folder: That the candidate was loaded from, golden images included.

        Returns:
            What is noted already where it says PROPOSED.

        Raises:
            ModelError: the model is damaged, or the disk takes no more.
            OperationalError: the database is away.
        """
        version = candidate.version
        if not judgement.promote:
            detail = f"{version} refused: {'; '.join(judgement.reasons)}"
            return Outcome(JobState.REFUSED, detail, version, report)
        self._store.add(folder)
        reason = next(found.text for found in judgement.findings if found.subject == "gain")
        outcome = Outcome(JobState.PROPOSED, f"{version} proposed: {reason}", version, report)
        try:
            self._hand_over(candidate, thresholds, reason, outcome)
        except StorageError as error:
            return Outcome(JobState.REFUSED, str(error), version, report)
        remove_old_models(
            self._engine,
            self._line,
            self._store,
            self._training.keep_versions,
            author=AUTHOR,
            now=self._now(),
        )
        return outcome

    def _hand_over(
        self,
        candidate: Predictor,
        thresholds: Thresholds,
        reason: str,
        outcome: Outcome,
    ) -> None:
        """Model, thresholds, proposal and the night's end in one transaction."""
        card, now = candidate.card, self._now()
        assert card is not None, "a model from disk has a card"  # noqa: S101
        with write_transaction(self._engine) as connection:
            repository.ensure_model_version(
                connection,
                name=candidate.version,
                method=card.method.method,
                backbone=card.backbone.name,
                card_json=card.model_dump_json(),
                now=now,
            )
            for made in thresholds.categories.values():
                if made.calibration is not None:
                    repository.add_calibration(connection, made.calibration)
            models.propose(
                connection,
                self._line,
                candidate.version,
                self._training.shadow_frames,
                AUTHOR,
                reason,
                now,
            )
            self._note(connection, outcome)

    def _note(self, connection: Connection, outcome: Outcome) -> None:
        job_runs.end(
            connection,
            self._line,
            self._run_id,
            outcome.state,
            outcome.detail,
            self._now(),
            candidate=outcome.candidate,
            report_json=outcome.report_json,
        )
