"""The region of interest: which pixels count, and that nothing outside matters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from daemon.config.recipe import RoiConfig
from daemon.inspection.roi import RoiMasks
from zsad.anomaly_map import AnomalyMap

LEFT_HALF = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
MIDDLE = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))
MAPS = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).random((16, 24), dtype=np.float32)
)


def test_include_and_ignore_polygons_make_the_mask() -> None:
    mask = RoiConfig(include=(LEFT_HALF,), ignore=(MIDDLE,)).mask(4, 8)

    assert mask.astype(int).tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
    ]


@given(x=st.floats(0.1, 0.9), height=st.integers(8, 60), width=st.integers(8, 60))
def test_two_halves_cover_every_pixel_exactly_once(x: float, height: int, width: int) -> None:
    left = ((0.0, 0.0), (x, 0.0), (x, 1.0), (0.0, 1.0))
    right = ((x, 0.0), (1.0, 0.0), (1.0, 1.0), (x, 1.0))

    masks = [RoiConfig(include=(half,)).mask(height, width) for half in (left, right)]

    assert (masks[0] ^ masks[1]).all()


@given(anomaly_map=MAPS, other=MAPS, score=st.floats(0, 1))
@settings(max_examples=30)
def test_nothing_outside_changes_score_or_map(
    anomaly_map: np.ndarray, other: np.ndarray, score: float
) -> None:
    roi = RoiConfig(include=(LEFT_HALF,), ignore=(MIDDLE,))
    outside = ~roi.mask(*anomaly_map.shape)
    changed = np.where(outside, other, anomaly_map)

    (first, inside), (second, other_inside) = (
        RoiMasks().apply(roi, score, AnomalyMap.of(each)) for each in (anomaly_map, changed)
    )

    assert first == second == inside.peak == anomaly_map[~outside].max()
    assert (inside.here() == other_inside.here()).all()
    assert not inside.here()[outside].any()


def test_the_whole_frame_keeps_the_detectors_own_score() -> None:
    anomaly_map = AnomalyMap.of(np.full((4, 4), 0.9, dtype=np.float32))

    assert RoiMasks().apply(RoiConfig(), 0.25, anomaly_map) == (0.25, anomaly_map)


def test_a_map_too_coarse_for_the_region_is_refused() -> None:
    speck = ((0.01, 0.01), (0.04, 0.01), (0.04, 0.04), (0.01, 0.04))

    with pytest.raises(ValueError, match="no pixel of a 4x4 map"):
        RoiMasks().apply(
            RoiConfig(include=(speck,)), 0.5, AnomalyMap.of(np.zeros((4, 4), np.float32))
        )


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        (((0, 0), (1, 0)), "at least 3"),
        (((0, 0), (1, 1), (1, 0), (0, 1)), "sides 1 and 3 cross"),
        (((0, 0), (1, 0), (1, 0), (0, 1)), "stands twice"),
        (((0, 0), (0.5, 0.5), (1, 1)), "no area"),
        (((0, 0), (1.5, 0), (1, 1)), "less than or equal to 1"),
        (((0.001, 0), (0.002, 0), (0.002, 1)), "leaves nothing to inspect"),
    ],
)
def test_a_polygon_that_is_no_area_is_refused(polygon: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RoiConfig.model_validate({"include": [polygon]})


def test_ignoring_everything_is_refused() -> None:
    everything = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))

    with pytest.raises(ValidationError, match="leaves nothing"):
        RoiConfig(ignore=(everything,))
