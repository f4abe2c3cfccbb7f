"""The thresholds in force, and the scores of categories that are still learning.

The inspection thread reads and learns; the main thread replaces thresholds that a person made.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from daemon.config.categories import CategoryConfig
from daemon.core import Calibration
from daemon.inspection.calibration import calibrate


class CalibrationBook:
    """Calibrations of one model version, by category."""

    def __init__(
        self,
        *,
        model_version: str,
        categories: Mapping[str, CategoryConfig],
        calibrations: Mapping[str, Calibration],
        learned: Mapping[str, Sequence[tuple[float, float]]],
        now: Callable[[], datetime],
    ) -> None:
        """`learned` holds (score, map peak) of LEARNING frames from before a restart."""
        self._model_version = model_version
        self._categories = categories
        self._lock = threading.Lock()
        self._calibrations = dict(calibrations)
        self._learned = {name: list(learned.get(name, ())) for name in categories}
        self._now = now

    def get(self, category: str) -> Calibration | None:
        """Thresholds in force, None while the category is learning."""
        with self._lock:
            return self._calibrations.get(category)

    def replace(self, calibrations: Mapping[str, Calibration]) -> list[str]:
        """Take over newer calibrations; returns the categories that changed."""
        with self._lock:
            changed = [
                name
                for name, new in calibrations.items()
                if (old := self._calibrations.get(name)) is None
                or new.created_utc > old.created_utc
            ]
            for name in changed:
                self._calibrations[name] = calibrations[name]
                self._learned.get(name, []).clear()
        return changed

    def learn(self, category: str, pred_score: float, map_peak: float) -> Calibration | None:
        """Note one LEARNING frame; a calibration once the category has seen enough of them."""
        wanted = self._categories[category].learn_frames
        if wanted is None:
            return None
        with self._lock:
            seen = self._learned[category]
            seen.append((pred_score, map_peak))
            if category in self._calibrations or len(seen) < wanted:
                return None
            policy = self._categories[category]
            calibration = calibrate(
                category=category,
                model_version=self._model_version,
                scores=[score for score, _ in seen],
                map_peaks=[peak for _, peak in seen],
                review_rate=policy.review_rate,
                ng_rate=policy.ng_rate,
                source=f"first {len(seen)} frames",
                now=self._now(),
            )
            self._calibrations[category] = calibration
            seen.clear()
            return calibration

    def progress(self, category: str) -> tuple[int, int] | None:
        """(frames learned, frames wanted) of a category that calibrates itself, else None."""
        wanted = self._categories[category].learn_frames
        with self._lock:
            if wanted is None or category in self._calibrations:
                return None
            return len(self._learned[category]), wanted
