"""Recipes on the line: each frame by the recipe in force, thresholds only for scores they fit."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import cv2
import numpy as np

from daemon.config.categories import CategoryConfig
from daemon.config.recipe import RoiConfig
from daemon.config.sanity import SanityConfig
from daemon.config.storage import StorageConfig
from daemon.core import (
    Calibration,
    Event,
    EventKind,
    Frame,
    FrameId,
    FrameInfo,
    Image,
    Inspection,
    LossReason,
    Verdict,
)
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.drift import WINDOW
from daemon.inspection.inspector import Infer, Inspector, Product
from daemon.inspection.pictures import Undrawn
from zsad.anomaly_map import AnomalyMap

NOW = datetime(2026, 1, 31, tzinfo=UTC)
PLAIN = CategoryConfig(class_name="floor tile")
LEFT = RoiConfig(include=(((0, 0), (0.5, 0), (0.5, 1), (0, 1)),))
LEFT_ONLY = PLAIN.model_copy(update={"roi": LEFT})


def brightness(
    images: Sequence[Image], products: Sequence[Product]
) -> list[tuple[float, AnomalyMap]]:
    maps = [image.max(axis=2).astype(np.float32) / 255 for image in images]
    return [(float(map_.max()), AnomalyMap.of(map_)) for map_ in maps]


def frame(level: int, seq: int = 0, *, x: int = 40, category: str = "tile") -> Frame:
    """A patch of a level, in the right half unless `x` says otherwise."""
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[10:20, x : x + 10] = level
    return Frame(FrameInfo(FrameId("cam", 1, seq), category, NOW, NOW, 1.0), image)


def calibration(policy: CategoryConfig, **changes: object) -> Calibration:
    made = Calibration(
        "tile", "m1", 0.4, 0.6, 0.5, 100, 0.05, 0.01, True, "test", NOW, recipe=policy.recipe
    )
    return Calibration(**{name: getattr(made, name) for name in made.__slots__} | changes)


def make(
    policy: CategoryConfig, *calibrations: Calibration, infer: Infer = brightness
) -> tuple[Inspector, CalibrationBook]:
    book = CalibrationBook(
        model_version="m1",
        categories={"tile": policy},
        calibrations=calibrations,
        learned={},
        now=lambda: NOW,
    )
    inspector = Inspector(
        infer=infer,
        categories={"tile": policy},
        storage=StorageConfig(url="sqlite://", thumbnails=("NG",)),
        book=book,
        clock=lambda: 1.25,
        now=lambda: NOW,
        on_batch=lambda frames: None,
        tell=lambda inspection: None,
    )
    return inspector, book


def inspections(results: Sequence[object]) -> list[Inspection]:
    drawn = [result.drawn() if isinstance(result, Undrawn) else result for result in results]
    return [result for result in drawn if isinstance(result, Inspection)]


def test_a_defect_outside_the_region_of_interest_is_ok_and_inside_it_is_ng() -> None:
    inspector, _ = make(LEFT_ONLY, calibration(LEFT_ONLY))

    outside, inside = inspections(inspector.inspect([frame(250), frame(250, 1, x=5)]))

    assert (outside.verdict, outside.pred_score, outside.regions) == (Verdict.OK, 0.0, ())
    assert inside.verdict is Verdict.NG
    assert inside.pred_score == inside.map_peak
    assert [region.x_px for region in inside.regions] == [5]


def test_a_frame_that_was_decoded_smaller_is_told_in_pixels_of_the_camera() -> None:
    sized = PLAIN.model_copy(
        update={"sanity": SanityConfig(width_px=240, height_px=160), "reduced_decode": True}
    )
    inspector, _ = make(sized, calibration(sized))

    taken, odd = frame(250, x=40), frame(250, 1, x=40)
    results = inspector.inspect([replace(taken, taken_px=(160, 240)), odd])
    ng, error = inspections(results)

    assert (ng.verdict, ng.width_px, ng.height_px) == (Verdict.NG, 240, 160)
    (region,) = ng.regions
    assert (region.x_px, region.y_px, region.width_px) == (160, 40, 40)
    assert error.error_reason is LossReason.WRONG_SIZE


def test_the_region_of_interest_is_outlined_on_the_overlay_and_black_outside_on_the_map() -> None:
    inspector, _ = make(LEFT_ONLY, calibration(LEFT_ONLY))

    (ng,) = inspections(inspector.inspect([frame(250, x=25)]))

    assert ng.thumbnails is not None
    grey = cv2.imdecode(np.frombuffer(ng.thumbnails.map_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert grey[15, 27] > 0
    assert not grey[:, 31:].any()
    overlay = cv2.imdecode(np.frombuffer(ng.thumbnails.overlay_jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert overlay[2:38, 29:31].min(axis=2).max() > 180


def test_thresholds_of_another_recipe_do_not_hold_and_come_back_with_it() -> None:
    inspector, book = make(PLAIN, calibration(PLAIN))
    verdicts = []
    for policy in (PLAIN, LEFT_ONLY, PLAIN):
        book.follow({"tile": policy})
        inspector.follow({"tile": policy}, StorageConfig(url="sqlite://"))
        verdicts += [result.verdict for result in inspections(inspector.inspect([frame(50)]))]

    assert verdicts == [Verdict.OK, Verdict.LEARNING, Verdict.OK]


def test_a_calibration_from_before_there_were_recipes_holds_for_the_whole_frame_only() -> None:
    old = calibration(PLAIN, recipe=None)
    _, book = make(PLAIN, old)

    assert book.get("tile", PLAIN) is old
    assert book.get("tile", LEFT_ONLY) is None


def test_scores_of_the_old_recipe_teach_the_new_one_nothing() -> None:
    learning = PLAIN.model_copy(update={"learn_frames": 10})
    changed = LEFT_ONLY.model_copy(update={"learn_frames": 10})
    _, book = make(learning)
    for _ in range(9):
        book.learn("tile", learning, 0.1, 0.1)

    book.follow({"tile": changed})
    late = book.learn("tile", learning, 0.1, 0.1)  # of a batch that had begun before

    assert late is None
    assert book.progress("tile") == (0, 10)


def test_a_frame_whose_category_left_the_configuration_is_an_error_and_the_next_goes_on() -> None:
    inspector, _ = make(PLAIN, calibration(PLAIN))

    results = inspections(inspector.inspect([frame(50, category="gone"), frame(50, 1)]))

    assert [result.verdict for result in results] == [Verdict.ERROR, Verdict.OK]
    assert results[0].error_reason is LossReason.UNKNOWN_CATEGORY


def test_dead_images_are_errors_with_one_event_and_the_detector_never_sees_them() -> None:
    seen = []

    def counting(
        images: Sequence[Image], products: Sequence[Product]
    ) -> list[tuple[float, AnomalyMap]]:
        seen.append(len(images))
        return brightness(images, products)

    inspector, _ = make(PLAIN, calibration(PLAIN), infer=counting)

    results = inspector.inspect([frame(50), frame(0, 1), frame(0, 2), frame(50, 3)])

    verdicts = [result.verdict for result in inspections(results)]
    assert verdicts == [Verdict.OK, Verdict.ERROR, Verdict.ERROR, Verdict.OK]
    assert inspections(results)[1].error_reason is LossReason.FLAT
    assert seen == [2]
    (event,) = [result for result in results if isinstance(result, Event)]
    assert (event.kind, event.camera) == (EventKind.IMAGES_BAD, "cam")


def test_drifted_scores_are_an_event_on_the_line() -> None:
    made = calibration(PLAIN, median_score=0.1, review_rank=96)
    inspector, _ = make(PLAIN, made)

    results = [item for seq in range(WINDOW) for item in inspector.inspect([frame(70, seq)])]

    (event,) = [result for result in results if isinstance(result, Event)]
    assert (event.kind, event.category) == (EventKind.SCORES_DRIFTED, "tile")
    assert "200 score above the calibration's median 0.1000 (expected 100)" in event.detail
