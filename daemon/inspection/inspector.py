"""A batch of frames to inspections: detector, decision, regions, pictures."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from daemon.config.categories import CategoryConfig
from daemon.config.storage import StorageConfig
from daemon.core import Calibration, Frame, Image, Inspection, LossReason, Region, ScoreMap, Verdict
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.decision import decide
from daemon.inspection.pictures import draw_thumbnails
from daemon.inspection.regions import find_regions

logger = logging.getLogger(__name__)

Infer = Callable[[Sequence[Image], Sequence[str]], list[tuple[float, ScoreMap]]]


class Inspector:
    """Turns frames into results; every frame of a batch ends in exactly one Inspection."""

    def __init__(
        self,
        *,
        infer: Infer,
        model_version: str,
        categories: Mapping[str, CategoryConfig],
        storage: StorageConfig,
        book: CalibrationBook,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        on_batch: Callable[[int], None],
    ) -> None:
        """`clock` is monotonic seconds, `now` aware UTC; `on_batch` is told each batch's size."""
        self._infer = infer
        self._model_version = model_version
        self._categories = categories
        self._thumbnail_px = storage.thumbnail_px
        self._with_thumbnails = frozenset(storage.thumbnails)
        self._book = book
        self._clock = clock
        self._now = now
        self._on_batch = on_batch

    def inspect(self, batch: Sequence[Frame]) -> list[Inspection | Calibration]:
        """One Inspection a frame, in order; a Calibration after the frame that completed it."""
        self._on_batch(len(batch))
        results: list[Inspection | Calibration] = []
        for frame, outcome in zip(batch, self._infer_all(batch), strict=True):
            if isinstance(outcome, str):
                results.append(self._failed(frame, outcome))
                continue
            score, anomaly_map = outcome
            inspection = self._decide(frame, score, anomaly_map)
            results.append(inspection)
            if inspection.verdict is Verdict.LEARNING and inspection.map_peak is not None:
                learned = self._book.learn(frame.info.category, score, inspection.map_peak)
                if learned is not None:
                    results.append(learned)
        return results

    def _infer_all(self, batch: Sequence[Frame]) -> list[tuple[float, ScoreMap] | str]:
        """Score and map of each frame, or one sentence on why there is none."""
        try:
            return [*self._infer(*self._inputs(batch))]
        except RuntimeError as error:  # torch's class for out of memory and device faults
            if len(batch) == 1:
                return [f"inference failed: {error}"[:500]]
            logger.warning(
                "batch failed, trying its frames one by one",
                extra={"frames": len(batch), "error": str(error)},
            )
            return [outcome for frame in batch for outcome in self._infer_all([frame])]

    def _inputs(self, batch: Sequence[Frame]) -> tuple[list[Image], list[str]]:
        return (
            [frame.image for frame in batch],
            [self._categories[frame.info.category].class_name for frame in batch],
        )

    def _decide(self, frame: Frame, score: float, anomaly_map: ScoreMap) -> Inspection:
        peak = float(anomaly_map.max())
        if not (0.0 <= score <= 1.0 and 0.0 <= peak <= 1.0):
            return self._failed(frame, f"score {score}, map peak {peak}: not in [0, 1]")
        info = frame.info
        calibration = self._book.get(info.category)
        verdict = decide(score, calibration)
        elapsed_s = self._clock() - info.received_at  # before the pictures: a gate waits for this
        height_px, width_px = frame.image.shape[:2]
        regions: tuple[Region, ...] = ()
        if calibration is not None and verdict is not Verdict.OK:
            regions = find_regions(
                anomaly_map,
                threshold=calibration.map_threshold,
                frame_height_px=height_px,
                frame_width_px=width_px,
                min_area_px=self._categories[info.category].min_region_px,
            )
        thumbnails = None
        if verdict in self._with_thumbnails:
            thumbnails = draw_thumbnails(
                frame.image,
                anomaly_map,
                map_threshold=None if calibration is None else calibration.map_threshold,
                longer_side_px=self._thumbnail_px,
            )
        return Inspection(
            info=info,
            verdict=verdict,
            model_version=self._model_version,
            decided_utc=self._now(),
            frame_to_verdict_s=elapsed_s,
            width_px=width_px,
            height_px=height_px,
            pred_score=score,
            map_peak=peak,
            calibration=calibration,
            regions=regions,
            thumbnails=thumbnails,
        )

    def _failed(self, frame: Frame, detail: str) -> Inspection:
        height_px, width_px = frame.image.shape[:2]
        return Inspection(
            info=frame.info,
            verdict=Verdict.ERROR,
            model_version=self._model_version,
            decided_utc=self._now(),
            frame_to_verdict_s=self._clock() - frame.info.received_at,
            width_px=width_px,
            height_px=height_px,
            error_reason=LossReason.INFERENCE_FAILED,
            error_detail=detail,
        )
