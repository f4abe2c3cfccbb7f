"""Thresholds of a candidate, before it may score a live frame.

From good images that it has not learnt from, and that no gate measures on. Where it scores a
category exactly as the active model does, thresholds in force stay.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from daemon.config.categories import CategoryConfig
from daemon.core import Calibration
from daemon.inspection.calibration import MIN_FRAMES, calibrate
from daemon.inspection.loaded_model import LoadedModel
from daemon.training.answers import ModelAnswers, score_files
from daemon.training.banks import for_thresholds, make_bank
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
    """

    model_config = ConfigDict(frozen=True)
    calibration: Calibration | None = None
    problem: str | None = None


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
        good: Images of OK parts by category, as of `good_sample`.
        unchanged: Calibrations in force of categories that the candidate scores as they are.

    Raises:
        DataError: an image is damaged.
        ModelError: an image cannot be scored as configured.
        OSError: a reference bank cannot be written.
    """
    total = sum(len(files) for name, files in good.items() if name not in unchanged)
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
            files = good.get(name, ())
            made[name] = _calibrated(model, name, category, files, now, count)
    return Thresholds(categories=made)


def same_scores(
    active: ModelAnswers, candidate: ModelAnswers, categories: Mapping[str, CategoryConfig]
) -> set[str]:
    """Categories that both models score alike; their reference banks are then the same too."""
    return {
        name for name in categories if active.fingerprints[name] == candidate.fingerprints[name]
    }


def good_sample(files: Sequence[Path]) -> list[Path]:
    """MOST_IMAGES at most, evenly spread."""
    n = min(MOST_IMAGES, len(files))
    return [files[i * len(files) // n] for i in range(n)]


def _calibrated(
    model: LoadedModel,
    name: str,
    category: CategoryConfig,
    files: Sequence[Path],
    now: datetime,
    on_image: Callable[[], None],
) -> CategoryThresholds:
    rest = for_thresholds(category, files)
    if len(rest) < MIN_FRAMES:
        return CategoryThresholds(
            problem=f"{len(files)} images of good parts, {category.references + MIN_FRAMES} are "
            f"needed: run `zsad calibrate --category {name}` with images, or let it learn"
        )
    try:
        make_bank(model, name, category, files)
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
    return CategoryThresholds(calibration=calibration)


def _taken_over(model: LoadedModel, in_force: Calibration, now: datetime) -> CategoryThresholds:
    source = f"as of {in_force.model_version}, whose scores are the same"
    version = model.references.version_of(in_force.category)
    made = replace(in_force, model_version=version, source=source, created_utc=now)
    return CategoryThresholds(calibration=made)
