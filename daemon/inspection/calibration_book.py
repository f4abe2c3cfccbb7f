"""The thresholds in force, and the scores of categories that are still learning.

The inspection thread reads and learns; the main thread replaces thresholds that a person made, and
the configuration.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from daemon.config.categories import CategoryConfig
from daemon.core import Calibration
from daemon.inspection.calibration import calibrate


class CalibrationBook:
    """Calibrations of the model versions in use, by category and recipe.

    A category with a reference bank or a model of its own has a version of its own.

    A recipe that was changed and changed back finds its thresholds again.
    """

    def __init__(
        self,
        *,
        model_version: str,
        categories: Mapping[str, CategoryConfig],
        calibrations: Iterable[Calibration],
        learned: Mapping[str, Sequence[tuple[float, float]]],
        now: Callable[[], datetime],
        variants: Mapping[str, str] | None = None,
    ) -> None:
        """`learned` holds (score, map peak) of LEARNING frames from before a restart.

        Args:
            variants: Model version of the categories that have one of their own.
        """
        self._model_version = model_version
        self._variants = dict(variants or {})
        self._categories = dict(categories)
        self._lock = threading.Lock()
        self._calibrations = {_key(made): made for made in calibrations}
        self._learned = {name: list(learned.get(name, ())) for name in categories}
        self._now = now

    def get(self, category: str, policy: CategoryConfig) -> Calibration | None:
        """Thresholds in force for a category inspected by `policy`; None while it is learning."""
        with self._lock:
            return self._get(category, policy)

    def version(self, category: str) -> str:
        """The model version that the category's scores are made with now."""
        with self._lock:
            return self._version(category)

    def begin(self, category: str, model_version: str) -> None:
        """Scores are made by another version from now on: nothing learnt before is worth a thing.

        Its calibrations, if there are any, came with a `replace` or come with the next.
        """
        with self._lock:
            self._variants[category] = model_version
            self._learned[category] = []
            self._forget_others(category)

    @property
    def model_version(self) -> str:
        """Of the weights alone."""
        with self._lock:
            return self._model_version

    @property
    def categories(self) -> Mapping[str, CategoryConfig]:
        """What is configured of each category."""
        with self._lock:
            return self._categories

    def change_model(
        self,
        model_version: str,
        variants: Mapping[str, str],
        calibrations: Iterable[Calibration],
        learned: Mapping[str, Sequence[tuple[float, float]]],
    ) -> None:
        """The line has another model from now on; arguments as of the construction.

        A category whose version stays the same keeps its thresholds and what it has learnt.
        """
        with self._lock:
            before = {name: self._version(name) for name in self._categories}
            self._model_version = model_version
            self._variants = dict(variants)
            self._calibrations |= {_key(made): made for made in calibrations}
            for name, version in before.items():
                if self._version(name) != version:
                    self._learned[name] = list(learned.get(name, ()))
                self._forget_others(name)

    def follow(self, categories: Mapping[str, CategoryConfig]) -> None:
        """Take over another configuration; scores of another recipe are forgotten."""
        with self._lock:
            for name, policy in categories.items():
                old = self._categories.get(name)
                if old is None or old.recipe != policy.recipe:
                    self._learned[name] = []
            self._categories = dict(categories)

    def replace(self, calibrations: Iterable[Calibration]) -> list[Calibration]:
        """Take over newer calibrations; returns those of them in force.

        The others wait for their version to `begin`.
        """
        changed = []
        with self._lock:
            for made in calibrations:
                key = _key(made)
                old = self._calibrations.get(key)
                if old is None or made.created_utc > old.created_utc:
                    self._calibrations[key] = made
                    if made.model_version == self._version(made.category):
                        changed.append(made)
                    policy = self._categories.get(made.category)
                    if policy is not None and self._get(made.category, policy) is made:
                        self._learned[made.category].clear()
        return changed

    def learn(
        self, category: str, policy: CategoryConfig, pred_score: float, map_peak: float
    ) -> Calibration | None:
        """Note one LEARNING frame; a calibration once the category has seen enough of them.

        A frame inspected by a recipe that the book no longer follows teaches nothing.
        """
        with self._lock:
            current = self._categories.get(category)
            if current is None or current.recipe != policy.recipe or current.learn_frames is None:
                return None
            seen = self._learned[category]
            seen.append((pred_score, map_peak))
            if self._get(category, current) is not None or len(seen) < current.learn_frames:
                return None
            calibration = calibrate(
                category=category,
                policy=current,
                model_version=self._version(category),
                scores=[score for score, _ in seen],
                map_peaks=[peak for _, peak in seen],
                source=f"first {len(seen)} frames",
                now=self._now(),
            )
            self._calibrations[_key(calibration)] = calibration
            seen.clear()
            return calibration

    def progress(self, category: str) -> tuple[int, int] | None:
        """(frames learned, frames wanted) of a category that calibrates itself, else None."""
        with self._lock:
            policy = self._categories[category]
            if policy.learn_frames is None or self._get(category, policy) is not None:
                return None
            return len(self._learned[category]), policy.learn_frames

    def _forget_others(self, category: str) -> None:
        """Of a category only the calibrations of its version are kept."""
        version = self._version(category)
        for key in [key for key in self._calibrations if key[0] == category and key[1] != version]:
            del self._calibrations[key]

    def _version(self, category: str) -> str:
        return self._variants.get(category, self._model_version)

    def _get(self, category: str, policy: CategoryConfig) -> Calibration | None:
        version = self._version(category)
        made = self._calibrations.get((category, version, policy.recipe))
        is_plain = policy.roi.is_whole_frame and policy.min_defect_px is None
        if made is None and is_plain and not policy.reduced_decode:
            # from before there were recipes
            made = self._calibrations.get((category, version, None))
        return made


def _key(made: Calibration) -> tuple[str, str, str | None]:
    return made.category, made.model_version, made.recipe
