"""A batch of frames to inspections: sanity, detector, decision, regions. Draws no picture."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from daemon.config.categories import CategoryConfig
from daemon.config.storage import StorageConfig
from daemon.core import (
    Calibration,
    Event,
    EventKind,
    Frame,
    Image,
    Inspection,
    LossReason,
    Region,
    Severity,
    Verdict,
    base_version,
)
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.decision import decide
from daemon.inspection.drift import DriftWatch
from daemon.inspection.loop import Result
from daemon.inspection.pictures import Undrawn
from daemon.inspection.regions import find_regions
from daemon.inspection.roi import RoiMasks
from daemon.inspection.sanity import SanityGate, Unfit
from zsad.anomaly_map import AnomalyMap
from zsad.tiling import TilingError

logger = logging.getLogger(__name__)

Product = tuple[str, CategoryConfig]
"""A category's name, and what is configured for it."""

Infer = Callable[[Sequence[Image], Sequence[Product]], list[tuple[float, AnomalyMap]]]


class Banks(Protocol):
    """Who keeps the reference banks of the categories; the detector slot in the daemon."""

    def take_over(self, categories: Mapping[str, CategoryConfig]) -> Mapping[str, str]:
        """Put new banks in force; the new model version of each category that got one."""
        ...

    def offer(self, name: str, category: CategoryConfig, image: Image) -> bool:
        """Show a LEARNING frame; True while it serves the bank and not yet the thresholds."""
        ...


@dataclass(frozen=True, slots=True)
class _Recipes:
    """What the configuration says on inspection; replaced as a whole, read once a batch."""

    categories: Mapping[str, CategoryConfig]
    storage: StorageConfig


class Inspector:
    """Turns frames into results; every frame of a batch ends in exactly one inspection."""

    def __init__(
        self,
        *,
        infer: Infer,
        categories: Mapping[str, CategoryConfig],
        storage: StorageConfig,
        book: CalibrationBook,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        on_batch: Callable[[int], None],
        tell: Callable[[Inspection], None],
        banks: Banks | None = None,
    ) -> None:
        """Args are kept.

        Args:
            clock: Monotonic seconds.
            now: Aware UTC.
            on_batch: Told each batch's size.
            tell: Hears each verdict when it is made; must not wait.
        """
        self._banks = banks
        self._infer = infer
        self._recipes = _Recipes(categories, storage)
        self._book = book
        self._clock = clock
        self._now = now
        self._on_batch = on_batch
        self._tell = tell
        self._masks = RoiMasks()
        self._gate = SanityGate()
        self._drift = DriftWatch()

    def follow(self, categories: Mapping[str, CategoryConfig], storage: StorageConfig) -> None:
        """Inspect by another configuration from the next batch on. Callable from any thread."""
        self._recipes = _Recipes(categories, storage)

    def inspect(self, batch: Sequence[Frame]) -> list[Result]:
        """One inspection a frame, drawn or not yet, in order; what it gave rise to follows it."""
        self._on_batch(len(batch))
        recipes = self._recipes
        if self._banks is not None:
            for category, version in self._banks.take_over(recipes.categories).items():
                self._book.begin(category, version)
        results: list[Result] = []
        problems = [self._problem(frame, recipes) for frame in batch]
        fit = [frame for frame, problem in zip(batch, problems, strict=True) if problem is None]
        outcomes = iter(self._infer_all(fit, recipes) if fit else [])
        for frame, problem in zip(batch, problems, strict=True):
            outcome = next(outcomes) if problem is None else problem
            if isinstance(outcome, Unfit):
                results.append(self._failed(frame, outcome))
            else:
                results += self._judge(frame, *outcome, recipes)
            results += self._spell(frame, problem)
        return results

    def _problem(self, frame: Frame, recipes: _Recipes) -> Unfit | None:
        """Why the detector does not get to see a frame."""
        category = frame.info.category
        policy = recipes.categories.get(category)
        if policy is None:
            text = (
                f"category {category!r} was taken out of the configuration while the frame waited"
            )
            return Unfit(LossReason.UNKNOWN_CATEGORY, text)
        camera = frame.info.frame_id.camera
        return self._gate.check(camera, frame.image, policy.sanity, taken_px=frame.taken_px)

    def _infer_all(
        self, batch: Sequence[Frame], recipes: _Recipes
    ) -> list[tuple[float, AnomalyMap] | Unfit]:
        """Score and map of each frame, or why there is none."""
        try:
            names = [frame.info.category for frame in batch]
            products = [(name, recipes.categories[name]) for name in names]
            return [*self._infer([frame.image for frame in batch], products)]
        # RuntimeError is torch's class for out of memory and device faults
        except (RuntimeError, TilingError) as error:
            if len(batch) == 1:
                return [Unfit(LossReason.INFERENCE_FAILED, f"inference failed: {error}"[:500])]
            logger.warning(
                "batch failed, trying its frames one by one",
                extra={"frames": len(batch), "error": str(error)},
            )
            return [outcome for frame in batch for outcome in self._infer_all([frame], recipes)]

    def _judge(
        self, frame: Frame, score: float, anomaly_map: AnomalyMap, recipes: _Recipes
    ) -> list[Result]:
        category = frame.info.category
        policy = recipes.categories[category]
        if not (0.0 <= score <= 1.0 and 0.0 <= anomaly_map.peak <= 1.0):
            text = f"score {score}, map peak {anomaly_map.peak}: not in [0, 1]"
            return [self._failed(frame, Unfit(LossReason.INFERENCE_FAILED, text))]
        try:
            score, anomaly_map = self._masks.apply(policy.roi, score, anomaly_map)
        except ValueError as error:
            return [self._failed(frame, Unfit(LossReason.INFERENCE_FAILED, str(error)))]
        calibration = self._book.get(category, policy)
        inspection = self._decide(frame, score, anomaly_map, policy, calibration)
        self._tell(inspection)
        results: list[Result] = [_to_draw(inspection, frame, anomaly_map, policy, recipes.storage)]
        if calibration is not None:
            results += self._watch_drift(category, calibration, score)
        elif self._banks is None or not self._banks.offer(category, policy, frame.image):
            assert inspection.map_peak is not None, "it was inspected"  # noqa: S101
            learned = self._book.learn(category, policy, score, inspection.map_peak)
            results += [] if learned is None else [learned]
        return results

    def _decide(
        self,
        frame: Frame,
        score: float,
        anomaly_map: AnomalyMap,
        policy: CategoryConfig,
        calibration: Calibration | None,
    ) -> Inspection:
        info = frame.info
        verdict = decide(score, calibration, between=Verdict(policy.review_as))
        height_px, width_px = frame.size_px
        regions: tuple[Region, ...] = ()
        if calibration is not None and verdict is not Verdict.OK:
            regions = find_regions(
                anomaly_map.here(),
                threshold=calibration.map_threshold,
                frame_height_px=height_px,
                frame_width_px=width_px,
                min_area_px=policy.min_region_px,
            )
        return Inspection(
            info=info,
            verdict=verdict,
            model_version=self._book.version(info.category),
            decided_utc=self._now(),
            frame_to_verdict_s=self._clock() - info.received_at,
            width_px=width_px,
            height_px=height_px,
            pred_score=score,
            map_peak=anomaly_map.peak,
            calibration=calibration,
            regions=regions,
        )

    def _failed(self, frame: Frame, problem: Unfit) -> Inspection:
        height_px, width_px = frame.size_px
        inspection = Inspection(
            info=frame.info,
            verdict=Verdict.ERROR,
            model_version=base_version(self._book.version(frame.info.category)),
            decided_utc=self._now(),
            frame_to_verdict_s=self._clock() - frame.info.received_at,
            width_px=width_px,
            height_px=height_px,
            error_reason=problem.reason,
            error_detail=problem.detail,
        )
        self._tell(inspection)
        return inspection

    def _spell(self, frame: Frame, problem: Unfit | None) -> list[Event]:
        """An entry in the diary when a camera's images become unfit, or fit again."""
        if problem is not None and problem.reason is LossReason.UNKNOWN_CATEGORY:
            return []  # nothing is wrong with the image
        camera = frame.info.frame_id.camera
        change = self._gate.spell(camera, problem)
        if change is None:
            return []
        kind = EventKind.IMAGES_BAD if change.is_bad else EventKind.IMAGES_GOOD
        severity = Severity.ALARM if change.is_bad else Severity.INFO
        facts = {"camera": camera, "kind": kind, "detail": change.detail}
        logger.warning("images", extra=facts)
        category = frame.info.category
        return [Event(kind, severity, self._now(), change.detail, camera, category)]

    def _watch_drift(self, category: str, calibration: Calibration, score: float) -> list[Event]:
        change = self._drift.observe(calibration, score)
        if change is None:
            return []
        kind = EventKind.SCORES_DRIFTED if change.has_drifted else EventKind.SCORES_SETTLED
        severity = Severity.WARNING if change.has_drifted else Severity.INFO
        logger.warning(
            "scores", extra={"category": category, "kind": kind, "detail": change.detail}
        )
        return [Event(kind, severity, self._now(), change.detail, category=category)]


def _to_draw(
    inspection: Inspection,
    frame: Frame,
    anomaly_map: AnomalyMap,
    policy: CategoryConfig,
    storage: StorageConfig,
) -> Inspection | Undrawn:
    if inspection.verdict not in storage.thumbnails:
        return inspection
    return Undrawn(inspection, frame.image, anomaly_map, storage.thumbnail_px, policy.roi)
