"""What the database knows of a model that is to inspect: its thresholds, and what it has learnt."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from daemon.config.categories import CategoryConfig
from daemon.core import Calibration
from daemon.storage import config_history, repository


class Described(Protocol):
    """A model that inspects, or what stands in its place: a `LoadedModel` or `NoDetector`."""

    @property
    def version(self) -> str:
        """Short id, the same for the same weights."""

    method: str
    backbone: str
    card_json: str


@dataclass(frozen=True, slots=True)
class Known:
    """What a model need not learn again.

    Attributes:
        calibrations: Of all its versions: a category with a reference bank has its own.
        learned: (score, map peak) of its LEARNING frames by category, oldest first.
    """

    calibrations: tuple[Calibration, ...]
    learned: Mapping[str, list[tuple[float, float]]]


def register(connection: Connection, model: Described, now: datetime) -> None:
    """Results and calibrations can name a model's version from now on."""
    repository.ensure_model_version(
        connection,
        name=model.version,
        method=model.method,
        backbone=model.backbone,
        card_json=model.card_json,
        now=now,
    )


def known_of(
    connection: Connection,
    line: str,
    categories: Mapping[str, CategoryConfig],
    versions: Mapping[str, str],
) -> Known:
    """Thresholds and learning of a model, as of now.

    Args:
        versions: Its version in each category, the bank included.
    """
    learned = {}
    for name, version in versions.items():
        since = config_history.recipe_since(connection, line, name, categories[name].recipe)
        stored = repository.learning_scores(connection, name, version, since)
        learned[name] = list(zip(stored.pred_scores, stored.map_peaks, strict=True))
    return Known(current_calibrations(connection, versions.values()), learned)


def current_calibrations(
    connection: Connection, versions: Iterable[str]
) -> tuple[Calibration, ...]:
    """The thresholds in force of several model versions."""
    return tuple(
        made
        for version in sorted(set(versions))
        for made in repository.current_calibrations(connection, version)
    )


def review_rates(categories: Mapping[str, CategoryConfig]) -> dict[str, float]:
    """Share of sound parts that each category's thresholds were made to flag."""
    return {name: policy.review_rate for name, policy in categories.items()}


def judged_only_by(
    connection: Connection,
    categories: Mapping[str, CategoryConfig],
    running: str,
    versions: Mapping[str, str],
) -> list[str]:
    """Categories that have thresholds under the model in use and none under another one.

    Args:
        running: Version of the model in use, without banks; its thresholds with any bank count.
        versions: The other one's version in each category, the bank included.
    """
    missing = _without_thresholds(connection, categories, versions)
    judged = repository.calibrated_recipes(connection, running)
    return [name for name in missing if (name, categories[name].recipe) in judged]


def _without_thresholds(
    connection: Connection,
    categories: Mapping[str, CategoryConfig],
    versions: Mapping[str, str],
) -> list[str]:
    """Categories that a model, in these versions, could only be LEARNING in."""
    made = {
        (found.category, found.recipe)
        for found in current_calibrations(connection, versions.values())
        if found.model_version == versions.get(found.category)
    }
    return [name for name, policy in categories.items() if (name, policy.recipe) not in made]
