"""Thresholds of a candidate, before it may score a live frame.

From good images that it has not learnt from; with a reference bank some of them make the bank
first. Where it scores a category exactly as the active model does, thresholds in force stay.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from daemon.config.categories import CategoryConfig
from daemon.core import Calibration
from daemon.inspection.calibration import MIN_FRAMES, calibrate
from daemon.inspection.loaded_model import LoadedModel, views_of
from daemon.training.answers import ModelAnswers, score_files
from zsad.image_files import load_image
from zsad.reference_bank import BankError
from zsad.tiling import TilingError

MOST_IMAGES = 500
"""Of a category, evenly spread: enough for an ng_rate of 0.2 %."""
CALIBRATION = TypeAdapter(Calibration)


class CategoryThresholds(BaseModel):
    """Of one category.

    Attributes:
        calibration: None where there can be none.
        problem: Why there is none.
        scores: Of the images that made it, by file.
    """

    model_config = ConfigDict(frozen=True)
    calibration: Calibration | None = None
    problem: str | None = None
    scores: dict[Path, float] = {}


class Thresholds(BaseModel):
    """Of all configured categories."""

    model_config = ConfigDict(frozen=True)
    categories: dict[str, CategoryThresholds]

    @property
    def problems(self) -> dict[str, str]:
        """Why categories have none."""
        return {name: made.problem for name, made in self.categories.items() if made.problem}


def calibrate_candidate(
    model: LoadedModel,
    categories: Mapping[str, CategoryConfig],
    good: Mapping[str, Sequence[Path]],
    unchanged: Mapping[str, Calibration],
    now: datetime,
    on_progress: Callable[[int, int], None],
) -> Thresholds:
    """Thresholds of every category, or why there are none.

    Args:
        good: Images of OK parts by category, never learnt from.
        unchanged: Calibrations in force of categories that the candidate scores as they are.

    Raises:
        DataError: an image is damaged.
        ModelError: an image cannot be scored as configured.
        OSError: a reference bank cannot be written.
    """
    chosen = {name: _spread(good.get(name, ())) for name in categories}
    total = sum(len(files) for name, files in chosen.items() if name not in unchanged)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_progress(done, total)

    made = {}
    for name, category in categories.items():
        if name in unchanged:
            made[name] = _taken_over(model, unchanged[name], now)
        else:
            made[name] = _calibrated(model, name, category, chosen[name], now, count)
    return Thresholds(categories=made)


def same_scores(
    active: ModelAnswers, candidate: ModelAnswers, categories: Mapping[str, CategoryConfig]
) -> set[str]:
    """Categories that both models score alike; one with a reference bank is never among them."""
    return {
        name
        for name, category in categories.items()
        if not category.references and active.fingerprints[name] == candidate.fingerprints[name]
    }


def rejects(
    made: CategoryThresholds, category: CategoryConfig, part: Collection[Path], score: float
) -> bool:
    """Whether the candidate calls a sound frame NG, by thresholds that its like did not make.

    Args:
        part: The held-out frames of its part, lot or hour, itself included: they are much alike,
            and some of them may have made thresholds.
    """
    calibration = made.calibration
    assert calibration is not None, "asked of categories with thresholds"  # noqa: S101
    others = [value for path, value in made.scores.items() if path not in part]
    if len(others) == len(made.scores) or len(others) < MIN_FRAMES:
        return score >= calibration.ng_threshold
    without = calibrate(
        category=calibration.category,
        policy=category,
        model_version=calibration.model_version,
        scores=others,
        map_peaks=others,  # only the score's threshold is asked for
        source="",
        now=calibration.created_utc,
    )
    return score >= without.ng_threshold


def _calibrated(
    model: LoadedModel,
    name: str,
    category: CategoryConfig,
    files: Sequence[Path],
    now: datetime,
    on_image: Callable[[], None],
) -> CategoryThresholds:
    wanted = category.references + MIN_FRAMES
    if len(files) < wanted:
        return CategoryThresholds(
            problem=f"{len(files)} images of good parts, {wanted} are needed: label OK frames, or "
            f"run `zsad calibrate --category {name}` with images"
        )
    bank_files = {files[i * len(files) // category.references] for i in range(category.references)}
    try:
        if bank_files:
            views = (
                views_of(category, load_image(file), model.predictor)
                for file in files
                if file in bank_files
            )
            model.references.learn(name, views)
            model.references.keep(name)
        rest = [file for file in files if file not in bank_files]
        answers = score_files(model, rest, name, category, on_image)
        calibration = calibrate(
            category=name,
            policy=category,
            model_version=model.references.version_of(name),
            scores=[answer.score for answer in answers.values()],
            map_peaks=[answer.peak for answer in answers.values()],
            source=f"{len(answers)} images of good parts, at night",
            now=now,
        )
    except (BankError, TilingError, ValueError) as error:
        return CategoryThresholds(problem=str(error))
    scores = {file: answer.score for file, answer in answers.items()}
    return CategoryThresholds(calibration=calibration, scores=scores)


def _taken_over(model: LoadedModel, in_force: Calibration, now: datetime) -> CategoryThresholds:
    source = f"as of {in_force.model_version}, whose scores are the same"
    version = model.references.version_of(in_force.category)
    made = replace(in_force, model_version=version, source=source, created_utc=now)
    return CategoryThresholds(calibration=made)


def _spread(files: Sequence[Path]) -> list[Path]:
    n = min(MOST_IMAGES, len(files))
    return [files[i * len(files) // n] for i in range(n)]
