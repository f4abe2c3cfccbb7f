"""Keeps the model that inspects in step with the database.

Owned by the main thread, which looks every few seconds. Everything that is decided is in the
database: a look that finds it away changes nothing and is simply repeated, and so is one that a
crash cut short.
"""

import logging
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Engine

from daemon.candidate_trial import CandidateTrial
from daemon.config.line import Config
from daemon.config.training import TrainingConfig
from daemon.core import EventKind, Severity
from daemon.errors import ModelError
from daemon.health import Health
from daemon.inspection.detector_slot import DetectorSlot
from daemon.inspection.loaded_model import LoadedModel
from daemon.inspection.loop import Inspect
from daemon.inspection.model_swap import ModelSwap, NextModel
from daemon.inspection.shadow import Shadow
from daemon.model_loader import ModelLoader, versions_of
from daemon.model_rows import known_of, register
from daemon.model_watch import ModelWatch
from daemon.status import ModelStatus
from daemon.storage import models
from daemon.storage.database import write_transaction
from daemon.storage.models import ActiveModel, Candidate
from daemon.training.model_store import ModelStore
from daemon.training.old_models import remove_old_models

logger = logging.getLogger(__name__)

Note = Callable[[EventKind, str, Severity], None]


class ModelKeeper:
    """What runs, what should run, and what waits beside it."""

    def __init__(
        self,
        config: Config,
        training: TrainingConfig,
        store: ModelStore,
        engine: Engine,
        *,
        slot: DetectorSlot,
        swap: ModelSwap,
        shadow: Shadow,
        beat: Callable[[], None],
        health: Health,
        note: Note,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            beat: Heartbeat of the thread that inspects.
            note: Writes into the diary.
        """
        self._config = config
        self._training = training
        self._store = store
        self._engine = engine
        self._slot = slot
        self._swap = swap
        self._shadow = shadow
        self._health = health
        self._note = note
        self._base = store.base_version()
        self._loader = ModelLoader(store, slot=slot, shadow=shadow, beat=beat)
        self._trial = CandidateTrial(
            training, engine, loader=self._loader, shadow=shadow, health=health
        )
        self._watch = ModelWatch(training, engine, health)

    def follow(self, config: Config) -> None:
        """Work by another configuration from the next look on; a candidate begins again."""
        self._config = config
        self._shadow.end()
        self._loader.put_away_all_but({self._swap.asked_for})

    def around_inspect(self, inspect: Inspect) -> Inspect:
        """`inspect`, watched by the candidate. For the inspection thread, as `between`."""
        return self._shadow.around_inspect(inspect)

    def between(self, is_idle: bool) -> None:
        """Between two batches: change the model, or give the candidate a moment."""
        self._swap.take_over()
        self._shadow.step(is_idle=is_idle)

    def close(self) -> None:
        """Wait for what is being loaded."""
        self._loader.close()

    def look(self, now: datetime) -> None:
        """Notice what changed, and do the next thing.

        Raises:
            OperationalError: the database is away; nothing was decided.
            StorageError: a person was faster; the next look sees what they did.
        """
        if self._collect(now):
            return  # what the new model leads to comes after it in the diary
        with self._engine.connect() as connection:
            active = models.active(connection, self._config.line)
            candidate = models.candidate(connection, self._config.line)
        wanted = self._base if active is None else active.version
        waiting = None if candidate is None else candidate.version
        self._loader.put_away_all_but({wanted, waiting, self._swap.asked_for})
        if candidate is None:
            self._shadow.end()
        self._health.set_model(self._step(wanted, active, candidate, now))
        shadow = self._shadow.counters
        self._health.set_counter("shadow_frames", shadow.frames)
        self._health.set_counter("shadow_given_up", shadow.given_up)
        self._health.set_counter("shadow_longest_pass_ms", round(1000 * shadow.longest_pass_s))

    def _step(
        self, wanted: str, active: ActiveModel | None, candidate: Candidate | None, now: datetime
    ) -> ModelStatus:
        """First the model that should inspect, then whether it may stay, then the candidate."""
        running = self._slot.version
        status = ModelStatus(version=running)
        if wanted != running or self._swap.asked_for is not None:
            self._bring(wanted, now)
            return status.model_copy(update={"wanted": wanted})
        if active is not None:
            until = self._watch.step(active, self._config, now)
            status = status.model_copy(update={"watched_until_utc": until})
        if candidate is not None:
            tried = self._trial.step(candidate, active, running, self._config, now)
            status = tried.model_copy(update={"watched_until_utc": status.watched_until_utc})
        return status

    def _bring(self, wanted: str, now: datetime) -> None:
        """Load what the database names, then ask the inspection thread to use it."""
        if self._swap.asked_for is not None:
            return  # the inspection thread takes it at its next turn
        found = self._loader.get(wanted, self._config)
        if isinstance(found, ModelError):
            self._set_back(wanted, found, now)
        elif found is not None:
            self._swap.put(self._next_of(found, now))

    def _set_back(self, wanted: str, error: ModelError, now: datetime) -> None:
        running = self._slot.version
        reason = f"{error}; {running} goes on inspecting"
        with write_transaction(self._engine) as connection:
            models.set_back(connection, self._config.line, wanted, running, reason, now)
        self._health.count_event(Severity.ALARM)
        logger.error("model not changed", extra={"model": wanted, "error": str(error)})
        self._loader.hand_out(wanted)  # somebody may mend it and ask again

    def _next_of(self, model: LoadedModel, now: datetime) -> NextModel:
        """A loaded model with what the database knows of it; its version can be named from now."""
        categories = self._config.shared_categories
        with write_transaction(self._engine) as connection:
            register(connection, model, now)
        with self._engine.connect() as connection:
            versions = versions_of(model, categories)
            known = known_of(connection, self._config.line, categories, versions)
        return NextModel(model, known.calibrations, known.learned)

    def _collect(self, now: datetime) -> bool:
        """After a swap: tell everybody, and put the old model away. Whether there was one."""
        old = self._swap.collect()
        if old is None:
            return False
        version = self._slot.version
        self._health.set_model_version(version)
        said = f"inspecting with {version} from now on, before with {old.version}"
        self._note(EventKind.MODEL_SWAPPED, said, Severity.INFO)
        logger.info("model changed", extra={"model": version, "before": old.version})
        self._loader.hand_out(version)
        self._loader.put_away(old)
        remove_old_models(
            self._engine,
            self._config.line,
            self._store,
            self._training.keep_versions,
            author="daemon",
            now=now,
            running=version,
        )
        return True
