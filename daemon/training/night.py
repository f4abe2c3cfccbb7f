"""One night, step by step: labels in, a tested candidate out, or the reason why not.

Every step leaves a file in the night's work folder and is skipped where that file is whole, so a
night that was killed anywhere goes on where it was, as long as labels, active model and
configuration are the same; otherwise it begins anew. The database learns of the outcome in one
transaction at the end. Constructs everything it needs; nothing here decides.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from pathlib import Path

import torch
from sqlalchemy import Engine

from daemon.config.line import Config
from daemon.config.night_recipes import LinearProbeRecipe, NightRecipe
from daemon.config.training import TrainingConfig
from daemon.core import Calibration, LabelVerdict
from daemon.errors import ConfigError, ModelError, StorageError
from daemon.inspection.loaded_model import LoadedModel
from daemon.model import open_model, use_precision
from daemon.storage import job_runs, models, repository
from daemon.storage.database import write_transaction
from daemon.storage.job_runs import JobState
from daemon.training.answers import ModelAnswers, ask, fingerprints
from daemon.training.banks import make_bank, take_over_banks
from daemon.training.candidate import Training, recipe_for, train_candidate, withdraw
from daemon.training.evidence import (
    evidence_of,
    measured_categories,
    report_of,
    unmeasured,
)
from daemon.training.gate import judge, losses
from daemon.training.golden import MAX_GOLDEN, replay_golden, write_golden
from daemon.training.model_store import GOLDEN_NAME
from daemon.training.night_end import NightEnd, Outcome
from daemon.training.night_work import is_whole, keep, read_kept, start_clean, work_folder
from daemon.training.pictures import learnable_products, pictures_of
from daemon.training.snapshot import Snapshot, SnapshotItem, good_images, take_snapshot
from daemon.training.stored_model import store_of
from daemon.training.thresholds import (
    Thresholds,
    calibrate_candidate,
    good_sample,
    same_scores,
)
from daemon.training.unseen import UnseenSet, unseen_sets
from zsad.backbone import Backbone
from zsad.image_files import DataError, load_image
from zsad.methods.linear_probe import LinearProbe
from zsad.predictor import Predictor
from zsad.reference_bank import BankError
from zsad.tiling import TilingError
from zsad.train import TrainingError

logger = logging.getLogger(__name__)

STEPS = (
    "snapshot",
    "train",
    "ask the active model",
    "ask the candidate",
    "leave out what lost",
    "thresholds",
    "golden images",
    "judge",
    "propose",
)
UNSEEN_NAME = ".unseen"
GOLDEN_IMAGES = 4
"""Of each category and label, at most."""

_EXPECTED = (ConfigError, ModelError, StorageError, DataError, TilingError, TrainingError)
"""What files, models and pictures may have wrong with them; a recipe among them."""

OnStep = Callable[[str, int, int], None]
"""Called with step, done, total; may take its time (a pause) or raise (the end of the window)."""


class _NothingToDoError(Exception):
    """There is nothing to learn; the message says why."""


class Night:
    """One run of the nightly job on one line."""

    def __init__(
        self,
        engine: Engine,
        config: Config,
        *,
        run_id: int,
        now: Callable[[], datetime],
        on_step: OnStep,
    ) -> None:
        """Args are kept; `config` has `frames` and `training`.

        Args:
            run_id: Of the row in `job_run`.
            now: Aware UTC.
        """
        assert config.training is not None, "the caller has looked"  # noqa: S101
        assert config.frames is not None, "checked with the configuration"  # noqa: S101
        self._engine, self._config, self._run_id, self._now = engine, config, run_id, now
        self._training: TrainingConfig = config.training
        self._categories = config.shared_categories
        self._frames_dir = config.frames.dir
        self._store = store_of(config)
        self._end = NightEnd(engine, config, self._store, run_id=run_id, now=now)
        self._on_step = on_step

    def run(self) -> Outcome:
        """All steps; what is wrong with files, models or the disk becomes the outcome.

        Raises:
            OperationalError: the database is away, so nobody can be told.
        """
        try:
            outcome = self._run()
        except _NothingToDoError as reason:
            outcome = Outcome(JobState.NOTHING, str(reason))
        except _EXPECTED as error:
            outcome = Outcome(JobState.FAILED, str(error))
        except (MemoryError, RuntimeError) as error:  # torch's class for out of memory
            logger.exception("night failed")
            limit = self._training.memory_bytes
            detail = f"{error}; if memory ran short: training.memory_bytes is {limit}"
            outcome = Outcome(JobState.FAILED, detail)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            outcome = Outcome(JobState.FAILED, f"{error.strerror or error}{where}")
        if outcome.state is not JobState.PROPOSED:  # noted with the proposal
            self._end.note(outcome)
        start_clean(self._training.models_dir)
        return outcome

    def _run(self) -> Outcome:
        self._tell("snapshot")
        snapshot = self._snapshot()
        active = self._active()
        predictor = open_model(active, self._config.model.device)
        use_precision(predictor, self._config.model.precision)  # the candidate shares its backbone
        recipe = recipe_for(predictor.detector, self._training.recipes)
        work = self._work_folder(snapshot, predictor.version, recipe)
        backbone, side = predictor.detector.backbone, predictor.detector.input_size
        folder = self._train(snapshot, active, backbone, side, recipe, work)
        candidate = open_model(folder, self._config.model.device, backbone=backbone)
        sets = self._unseen(side, is_shared=not isinstance(recipe, LinearProbeRecipe))
        of_active = self._answers(predictor, work / "active.json", snapshot, sets, STEPS[2])
        of_candidate = self._answers(
            candidate, work / "candidate.json", snapshot, sets, STEPS[3], of_active
        )
        losers = losses(
            measured_categories(
                _held_out(snapshot, self._config), of_active, of_candidate, self._categories
            ),
            margin=self._training.margin,
        )
        if self._may_withdraw(snapshot, candidate, losers):
            folder = self._without(losers, candidate, predictor, work / "reduced")
            candidate = open_model(folder, self._config.model.device, backbone=backbone)
            file = work / "reduced.json"
            of_candidate = self._answers(candidate, file, snapshot, sets, STEPS[4], of_active)
        else:
            losers = {}
        thresholds = self._thresholds(candidate, of_active, of_candidate, work)
        golden = self._golden(candidate, folder / GOLDEN_NAME, snapshot)
        self._tell("judge")
        evidence = evidence_of(
            _held_out(snapshot, self._config),
            sets,
            of_active,
            of_candidate,
            self._in_force(of_active),
            thresholds,
            self._categories,
            golden,
        )
        judgement = judge(evidence, margin=self._training.margin)
        categories = self._categories
        alike = same_scores(of_active, of_candidate, categories)
        remarks = [
            *unmeasured(evidence, categories, alike),
            *(f"{name} stays as it was, for {text}" for name, text in losers.items()),
            *self._only_drawn(recipe),
        ]
        report = report_of(judgement, snapshot, recipe, remarks)
        self._tell("propose")
        return self._end.propose(candidate, folder, judgement, thresholds, report)

    # -- steps ---------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        """What is learnt from tonight.

        Raises:
            _NothingToDoError: too few new labels, or none that teach.
        """
        line = self._config.line
        snapshot = take_snapshot(self._engine, line, self._now(), self._frames_dir)
        with write_transaction(self._engine) as connection:
            job_runs.use_snapshot(connection, self._run_id, snapshot.id)
            new = job_runs.new_labels(connection, line, snapshot.id)
        if new < self._training.min_new_labels:
            raise _NothingToDoError(
                f"{new} labels are new since the last training, {self._training.min_new_labels} "
                "are wanted (training.min_new_labels)"
            )
        if not learnable_products(_learnt(snapshot), self._categories):
            raise _NothingToDoError(
                "no category has frames labelled OK and NG to learn from: "
                f"{'; '.join(snapshot.problems) or 'label both kinds'}"
            )
        return snapshot

    def _active(self) -> Path:
        """Folder of the model that inspects."""
        with self._engine.connect() as connection:
            active = models.active(connection, self._config.line)
        return self._store.base if active is None else self._store.path_of(active.version)

    def _train(
        self,
        snapshot: Snapshot,
        active: Path,
        backbone: Backbone,
        side: int,
        recipe: NightRecipe,
        work: Path,
    ) -> Path:
        """The candidate's folder."""
        out = work / "model"
        if is_whole(out):
            return out
        self._tell("train")
        pictures = pictures_of(_learnt(snapshot), self._categories, side, recipe.synthetic)
        training = Training(
            active=active,
            backbone=backbone,
            pictures=pictures,
            auxiliary=self._training.auxiliary,
            recipe=recipe,
            work=work / "train",
            identity=f"snapshot {snapshot.id} {snapshot.sha256[:12]}, {work.name}",
            device=_device(self._config),
        )
        shutil.rmtree(out, ignore_errors=True)
        train_candidate(training, out, self._now(), self._counter("train"))
        shutil.rmtree(training.work, ignore_errors=True)
        return out

    def _unseen(self, side: int, *, is_shared: bool) -> list[UnseenSet]:
        cache = self._training.models_dir / UNSEEN_NAME
        progress = self._counter(STEPS[2])
        return unseen_sets(self._training.unseen, cache, side, progress, is_shared=is_shared)

    def _answers(
        self,
        predictor: Predictor,
        file: Path,
        snapshot: Snapshot,
        sets: list[UnseenSet],
        step: str,
        active: ModelAnswers | None = None,
    ) -> ModelAnswers:
        """What a model says; asked once. A candidate, beside `active`, gets its banks first."""
        if (kept := read_kept(file, ModelAnswers)) is not None:
            return kept
        self._tell(step)
        if active is not None:
            self._take_over_banks(predictor, active, sets[0])
        with self._loaded(predictor) as model:
            if active is not None:
                self._make_banks(model)
            items = _held_out(snapshot, self._config)
            found = ask(model, items, sets, self._categories, self._counter(step))
        keep(file, found)
        return found

    def _may_withdraw(
        self, snapshot: Snapshot, candidate: Predictor, losers: Collection[str]
    ) -> bool:
        """Whether some products can stay as they were while others change."""
        categories = self._categories
        taught = set(learnable_products(_learnt(snapshot), categories))
        lost = {categories[name].class_name for name in losers}
        return isinstance(candidate.detector, LinearProbe) and bool(lost) and bool(taught - lost)

    def _without(
        self, losers: Collection[str], candidate: Predictor, active: Predictor, out: Path
    ) -> Path:
        """The folder of a candidate that leaves these categories as they were."""
        if not is_whole(out):
            self._tell("leave out what lost")
            assert isinstance(candidate.detector, LinearProbe), "looked at before"  # noqa: S101
            assert candidate.card is not None, "a model from disk has a card"  # noqa: S101
            products = {self._categories[name].class_name for name in losers}
            withdraw(candidate.detector, candidate.card, active.detector, products, out)
        return out

    def _thresholds(
        self, predictor: Predictor, active: ModelAnswers, candidate: ModelAnswers, work: Path
    ) -> Thresholds:
        """The candidate's; made once."""
        file = work / "thresholds.json"
        if (kept := read_kept(file, Thresholds)) is not None:
            return kept
        self._tell("thresholds")
        categories = self._categories
        in_force = self._in_force(active)
        alike = same_scores(active, candidate, categories)
        unchanged = {name: made for name, made in in_force.items() if name in alike}
        good = {name: self._good(name) for name in categories if name not in unchanged}
        with self._loaded(predictor) as model:
            made = calibrate_candidate(
                model, categories, good, unchanged, self._now(), self._counter("thresholds")
            )
        keep(file, made)
        return made

    def _golden(self, predictor: Predictor, golden: Path, snapshot: Snapshot) -> str | None:
        """Make the candidate's golden images; why they do not reproduce."""
        self._tell("golden images")
        if not golden.exists():
            images = [
                (load_image(item.frame), self._categories[item.category].class_name)
                for item in _golden_items(_held_out(snapshot, self._config))
            ]
            half = golden.with_name(f".{GOLDEN_NAME}")
            shutil.rmtree(half, ignore_errors=True)
            write_golden(predictor, images, half)
            half.rename(golden)
        try:
            replay_golden(predictor, golden)
        except ModelError as error:
            return str(error)
        return None

    # -- parts ---------------------------------------------------------------------------------

    def _only_drawn(self, recipe: NightRecipe) -> list[str]:
        """That nothing but procedural pictures stood for products that nobody labelled."""
        if isinstance(recipe, LinearProbeRecipe) or self._training.unseen:
            return []
        return [
            f"{recipe.method} changes the scores of all products, and only procedural pictures "
            "stood for those without labels: name image sets of some under training.unseen"
        ]

    def _good(self, category: str) -> list[Path]:
        """Images for thresholds and banks."""
        line = self._config.line
        return good_sample(good_images(self._engine, line, category, self._frames_dir))

    def _take_over_banks(
        self, candidate: Predictor, active: ModelAnswers, pictures: UnseenSet
    ) -> None:
        """Those of categories that the candidate scores as the active model does."""
        folder = self._config.model.references_dir
        if folder is None:
            return
        with_bank = {name: each for name, each in self._categories.items() if each.references}
        found = fingerprints(candidate, pictures, with_bank)
        alike = {name for name in with_bank if found[name] == active.fingerprints[name]}
        take_over_banks(
            folder, with_bank, alike, active.version, candidate.version, candidate.device
        )

    def _make_banks(self, model: LoadedModel) -> None:
        """The others. One that cannot be made is told with the thresholds, which it also needs."""
        for name, category in self._categories.items():
            if category.references and model.references.bank_of(name) is None:
                with contextlib.suppress(BankError, TilingError):
                    make_bank(model, name, category, self._good(name))

    def _tell(self, step: str) -> None:
        logger.info("night step", extra={"step": step})
        self._on_step(step, 0, 0)

    def _counter(self, step: str) -> Callable[[int, int], None]:
        return lambda done, total: self._on_step(step, done, total)

    @contextlib.contextmanager
    def _loaded(self, predictor: Predictor) -> Iterator[LoadedModel]:
        model = LoadedModel(
            predictor,
            self._categories,
            self._config.model.references_dir,
            max_batch=self._config.batch.max_batch_size,
        )
        try:
            yield model
        finally:
            model.close()

    def _in_force(self, active: ModelAnswers) -> dict[str, Calibration]:
        """The active model's thresholds, for the current recipes."""
        with self._engine.connect() as connection:
            return {
                name: made
                for name, version in active.versions.items()
                for made in repository.current_calibrations(connection, version)
                if (made.category, made.recipe) == (name, self._categories[name].recipe)
            }

    def _work_folder(self, snapshot: Snapshot, active_version: str, recipe: NightRecipe) -> Path:
        """The folder of this very night."""
        identity = {
            "snapshot": snapshot.sha256,
            "active": active_version,
            "precision": self._config.model.precision,
            "categories": {
                name: category.model_dump(mode="json")
                for name, category in self._categories.items()
            },
            "recipe": recipe.model_dump(),
            "training": self._training.model_dump(mode="json", include={"auxiliary", "unseen"}),
        }
        return work_folder(self._training.models_dir, identity)


def _learnt(snapshot: Snapshot) -> list[SnapshotItem]:
    return [item for item in snapshot.items if not item.is_held_out]


def _held_out(snapshot: Snapshot, config: Config) -> list[SnapshotItem]:
    return [
        item
        for item in snapshot.items
        if item.is_held_out and item.category in config.shared_categories
    ]


def _golden_items(items: list[SnapshotItem]) -> list[SnapshotItem]:
    """The first few of each category and label."""
    chosen: dict[tuple[str, LabelVerdict], list[SnapshotItem]] = {}
    for item in items:
        of_kind = chosen.setdefault((item.category, item.verdict), [])
        if len(of_kind) < GOLDEN_IMAGES:
            of_kind.append(item)
    return [item for of_kind in chosen.values() for item in of_kind][:MAX_GOLDEN]


def _device(config: Config) -> torch.device:
    has_cuda = torch.cuda.is_available() and config.model.device != "cpu"
    return torch.device("cuda" if has_cuda else "cpu")
