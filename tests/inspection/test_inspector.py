"""Every frame of a batch ends in exactly one inspection, whatever the detector does."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import cv2
import numpy as np
import pytest

from daemon.config.categories import CategoryConfig
from daemon.config.storage import StorageConfig
from daemon.core import (
    Calibration,
    Event,
    Frame,
    FrameId,
    FrameInfo,
    Image,
    Inspection,
    LossReason,
    Verdict,
)
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.inspector import Infer, Inspector
from daemon.inspection.loop import Result
from daemon.inspection.pictures import Undrawn
from daemon.inspection.regions import find_regions
from zsad.anomaly_map import AnomalyMap, Pixels

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def brightness(
    images: Sequence[Image], class_names: Sequence[str]
) -> list[tuple[float, AnomalyMap]]:
    """A detector of bright things: score is the brightest pixel, the map is brightness."""
    maps = [image.max(axis=2).astype(np.float32) / 255 for image in images]
    return [(float(map_.max()), AnomalyMap.of(map_)) for map_ in maps]


def frame(level: int, seq: int = 0, category: str = "tile") -> Frame:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[10:20, 30:45] = level
    return Frame(FrameInfo(FrameId("cam", 1, seq), category, NOW, NOW, 1.0), image)


def make(
    infer: Infer = brightness,
    learn_frames: int | None = None,
    calibrated: bool = True,
    tell: Callable[[Inspection], None] = lambda inspection: None,
) -> Inspector:
    categories = {
        "tile": CategoryConfig(class_name="floor tile", learn_frames=learn_frames),
        "mesh": CategoryConfig(class_name="wire mesh", learn_frames=learn_frames),
    }
    calibrations = {
        name: Calibration(name, "m1", 0.4, 0.6, 0.5, 100, 0.05, 0.01, True, "test", NOW)
        for name in categories
    }
    book = CalibrationBook(
        model_version="m1",
        categories=categories,
        calibrations=calibrations.values() if calibrated else (),
        learned={},
        now=lambda: NOW,
    )
    return Inspector(
        infer=infer,
        categories=categories,
        storage=StorageConfig(url="sqlite://", thumbnails=("NG", "REVIEW")),
        book=book,
        clock=lambda: 1.25,
        now=lambda: NOW,
        on_batch=lambda frames: None,
        tell=tell,
    )


def only_inspections(results: Sequence[Result]) -> list[Inspection]:
    """With their pictures."""
    drawn = [result.drawn() if isinstance(result, Undrawn) else result for result in results]
    return [result for result in drawn if isinstance(result, Inspection)]


def test_mixed_batch_gives_each_frame_its_own_verdict() -> None:
    results = only_inspections(make().inspect([frame(50, 0), frame(120, 1, "mesh"), frame(250, 2)]))

    assert [result.verdict for result in results] == [Verdict.OK, Verdict.REVIEW, Verdict.NG]
    assert [result.info.frame_id.seq for result in results] == [0, 1, 2]
    assert all(result.frame_to_verdict_s == 0.25 for result in results)


def test_only_maps_that_are_shown_or_searched_leave_the_device() -> None:
    looked_at = []

    class Seen(AnomalyMap):
        def here(self) -> Pixels:
            looked_at.append(self.peak)
            return super().here()

    def far_away(images: Sequence[Image], names: Sequence[str]) -> list[tuple[float, AnomalyMap]]:
        return [(score, Seen.of(map_.here())) for score, map_ in brightness(images, names)]

    only_inspections(make(infer=far_away).inspect([frame(50), frame(250, 1), frame(60, 2)]))

    assert set(looked_at) == {np.float32(250 / 255)}


def test_ng_frame_has_its_region_and_pictures_and_ok_frame_has_none() -> None:
    ok, ng = only_inspections(make().inspect([frame(50), frame(250, 1)]))

    assert ok.regions == ()
    assert ok.thumbnails is None
    (region,) = ng.regions
    assert (region.x_px, region.y_px, region.width_px, region.height_px) == (30, 10, 15, 10)
    assert region.area_px == 150
    assert ng.thumbnails is not None
    grey = cv2.imdecode(np.frombuffer(ng.thumbnails.map_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert grey.shape == (40, 60)
    assert grey.max() == 250


def test_each_verdict_is_told_once_before_a_picture_is_drawn() -> None:
    told: list[Inspection] = []
    broken = Frame(frame(0).info, np.zeros((4, 4, 3), dtype=np.uint8))

    results = make(tell=told.append).inspect([frame(250, 0), frame(50, 1), broken])

    assert [item.verdict for item in told] == [Verdict.NG, Verdict.OK, Verdict.ERROR]
    assert [item.thumbnails for item in told] == [None, None, None]
    assert [type(item) for item in results] == [Undrawn, Inspection, Inspection, Event]
    assert isinstance(results[0], Undrawn)
    assert results[0].inspection is told[0]


def test_category_without_calibration_is_learning_and_calibrates_itself_after_its_frames() -> None:
    inspector = make(learn_frames=12, calibrated=False)

    first = inspector.inspect([frame(50 + seq, seq) for seq in range(12)])
    after = inspector.inspect([frame(40, 12), frame(255, 13), frame(40, 14, "mesh")])

    assert [result.verdict for result in only_inspections(first)] == [Verdict.LEARNING] * 12
    (made,) = [result for result in first if isinstance(result, Calibration)]
    assert made.n_frames == 12
    assert not made.is_supported
    assert [result.verdict for result in only_inspections(after)] == [
        Verdict.OK,
        Verdict.NG,
        Verdict.LEARNING,
    ]


def test_a_frame_that_breaks_the_detector_costs_only_itself() -> None:
    def fails_on_bright(
        images: Sequence[Image], names: Sequence[str]
    ) -> list[tuple[float, AnomalyMap]]:
        if any(image.max() > 200 for image in images):
            raise RuntimeError("out of memory")
        return brightness(images, names)

    results = only_inspections(
        make(infer=fails_on_bright).inspect([frame(50, 0), frame(250, 1), frame(60, 2)])
    )

    assert [result.verdict for result in results] == [Verdict.OK, Verdict.ERROR, Verdict.OK]
    assert results[1].error_reason is LossReason.INFERENCE_FAILED
    assert "out of memory" in (results[1].error_detail or "")


@pytest.mark.parametrize("bad", [np.nan, 1.5, -1.0])
def test_a_score_that_is_no_score_is_an_error_never_ok(bad: float) -> None:
    def broken(images: Sequence[Image], names: Sequence[str]) -> list[tuple[float, AnomalyMap]]:
        return [(bad, map_) for _, map_ in brightness(images, names)]

    (result,) = only_inspections(make(infer=broken).inspect([frame(50)]))

    assert result.verdict is Verdict.ERROR


def test_regions_scale_to_the_frame_and_small_ones_are_left_out() -> None:
    anomaly_map = np.zeros((10, 10), dtype=np.float32)
    anomaly_map[2:4, 5:9] = 0.9
    anomaly_map[8, 1] = 0.95

    regions = find_regions(
        anomaly_map, threshold=0.5, frame_height_px=100, frame_width_px=200, min_area_px=300
    )

    (region,) = regions
    assert (region.x_px, region.y_px, region.width_px, region.height_px) == (100, 20, 80, 20)
    assert region.area_px == 1600
    assert region.peak == pytest.approx(0.9)
