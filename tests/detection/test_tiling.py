"""Tiles cover a frame, show small defects, and join into one map that adds nothing of its own."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zsad.detector import Detector, Prediction
from zsad.methods.aa_clip import AAClip
from zsad.predictor import Predictor
from zsad.reference_learning import learn_references
from zsad.tiled_prediction import predict_tiled
from zsad.tiling import OVERLAP, VISIBLE_PX, Tile, Tiling, TilingError, join_maps

S = 32
SIDES = st.integers(1, 900)
DEFECTS = st.integers(4, 60)


class Brightest(Detector):
    """Scores the brightest pixel; the map is brightness. Notes how many images it was given."""

    input_size = S

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        self.batches.append(len(images))
        brightness = images.mean(dim=1).clamp(0, 1)
        return Prediction(image_score=brightness.amax(dim=(1, 2)), anomaly_map=brightness)


def predictor_of(detector: Detector) -> Predictor:
    return Predictor(detector, (0, 0, 0), (1, 1, 1), torch.device("cpu"), "m")


def grey(height: int, width: int, level: int = 50) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


@given(height=SIDES, width=SIDES, min_defect_px=DEFECTS)
def test_tiles_cover_every_pixel_of_any_frame_and_keep_inside(
    height: int, width: int, min_defect_px: int
) -> None:
    seen = np.zeros((height, width), np.int64)

    for tile in Tiling(min_defect_px, max_tiles=100_000).plan(height, width, S):
        assert tile.top >= 0
        assert tile.left >= 0
        assert tile.top + tile.height <= height
        assert tile.left + tile.width <= width
        seen[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1

    assert seen.min() >= 1


@given(height=SIDES, width=SIDES, min_defect_px=DEFECTS)
def test_the_smallest_defect_stays_visible_and_whole_in_some_tile(
    height: int, width: int, min_defect_px: int
) -> None:
    tiles = Tiling(min_defect_px, max_tiles=100_000).plan(height, width, S)

    assert all(min_defect_px * S / max(tile.height, tile.width) >= VISIBLE_PX for tile in tiles)
    lefts = sorted({tile.left for tile in tiles})
    overlaps = [tiles[0].width - (b - a) for a, b in pairwise(lefts)]
    assert all(overlap >= OVERLAP * tiles[0].width - 1 for overlap in overlaps)  # whole pixels


def test_a_frame_that_fits_into_one_tile_is_not_cut() -> None:
    assert Tiling(10).plan(40, 30, S) == (Tile(0, 0, 40, 30),)


def test_a_frame_that_needs_too_many_tiles_is_refused_with_all_numbers() -> None:
    with pytest.raises(TilingError, match=r"900 x 800 px needs 195 tiles.*20 px.*max_tiles is 64"):
        Tiling(20, max_tiles=64).plan(800, 900, S)


@given(
    height=st.integers(30, 300),
    width=st.integers(30, 300),
    level=st.floats(0, 1, width=32),
    shuffler=st.randoms(use_true_random=False),
)
def test_a_constant_map_stays_constant_in_any_order_of_the_tiles(
    height: int,
    width: int,
    level: float,
    shuffler: Random,
) -> None:
    tiles = list(Tiling(20, max_tiles=1000).plan(height, width, S))
    shuffler.shuffle(tiles)

    joined = join_maps(
        [(tile, np.full((S, S), level, np.float32)) for tile in tiles], height, width, S
    )

    np.testing.assert_allclose(joined, level, atol=1e-5)


@given(seed=st.integers(0, 1000))
def test_a_joined_map_does_not_depend_on_the_order_of_its_tiles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [(tile, rng.random((S, S), dtype=np.float32)) for tile in Tiling(20).plan(200, 300, S)]

    one = join_maps(parts, 200, 300, S)
    other = join_maps(reversed(parts), 200, 300, S)

    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_joined_map_lies_where_the_frame_is() -> None:
    image = grey(300, 500)
    image[200:220, 400:420] = 255

    ((score, found),) = predict_tiled(
        predictor_of(Brightest()), [image], ["part"], [Tiling(20)], max_batch=8
    )
    joined = found.here()

    y, x = np.unravel_index(joined.argmax(), joined.shape)
    assert score > 0.9
    assert joined.shape[1] / joined.shape[0] == pytest.approx(500 / 300, rel=0.02)
    assert 200 <= (y + 0.5) * 300 / joined.shape[0] <= 220
    assert 400 <= (x + 0.5) * 500 / joined.shape[1] <= 420


def test_a_small_defect_that_the_whole_frame_hides_shows_in_its_tile() -> None:
    image = grey(600, 600)
    image[300:304, 200:204] = 255
    predictor = predictor_of(Brightest())

    ((whole, _),) = predict_tiled(predictor, [image], ["part"], [None], max_batch=8)
    ((tiled, _),) = predict_tiled(predictor, [image], ["part"], [Tiling(8, 1000)], max_batch=8)

    assert whole < 0.35
    assert tiled > 0.6


def test_tiles_of_several_frames_share_batches_and_no_batch_exceeds_the_limit() -> None:
    detector, beats = Brightest(), []
    images = [grey(200, 200, 60), grey(20, 20, 90), grey(200, 200, 120)]

    results = predict_tiled(
        predictor_of(detector),
        images,
        ["a", "b", "c"],
        [Tiling(20), None, Tiling(20)],
        max_batch=8,
        on_batch=lambda: beats.append(1),
    )

    assert max(detector.batches) == 8
    assert sum(detector.batches) == 2 * len(Tiling(20).plan(200, 200, S)) + 1
    assert len(beats) == len(detector.batches)
    assert [score for score, _ in results] == pytest.approx([60 / 255, 90 / 255, 120 / 255])
    assert results[1][1].here().shape == (S, S)


def test_an_untiled_frame_is_predicted_as_without_tiling() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    predictor = predictor_of(Brightest())

    scores, maps = predictor.predict([image], ["part"])
    ((score, map_),) = predict_tiled(predictor, [image], ["part"], [None], max_batch=8)

    assert score == scores[0]
    np.testing.assert_array_equal(map_.here(), maps[0])
    assert map_.peak == maps[0].max()


def test_a_network_that_fails_on_one_tile_fails_the_frame() -> None:
    class FailsOnBright(Brightest):
        def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
            found = super().predict(images, class_names)
            bright = found.image_score > 0.9
            return Prediction(
                found.image_score.masked_fill(bright, float("nan")), found.anomaly_map
            )

    image = grey(200, 200)
    image[150:160, 150:160] = 255

    ((score, _),) = predict_tiled(
        predictor_of(FailsOnBright()), [image], ["part"], [Tiling(20)], max_batch=4
    )

    assert np.isnan(score)


def test_every_tile_of_a_frame_is_compared_with_the_same_bank(
    make_detector: Callable[..., AAClip],
) -> None:
    detector = make_detector()
    backbone = detector.backbone
    predictor = Predictor(detector, backbone.mean, backbone.std, torch.device("cpu"), "m")
    rng = np.random.default_rng(0)
    frames = [rng.integers(90, 130, (90, 90, 3)).astype(np.uint8) for _ in range(5)]
    bad = frames[-1].copy()
    bad[60:72, 60:72] = 250
    tiling = Tiling(8)
    tiles = tiling.plan(90, 90, detector.input_size)
    crops = (predictor.prepare(tile.cut(image)) for image in frames[:3] for tile in tiles)
    bank = learn_references(predictor, crops, "part")

    (good, _), (found, joined_map) = predict_tiled(
        predictor, [frames[3], bad], ["part"] * 2, [tiling] * 2, [bank] * 2, max_batch=8
    )
    joined = joined_map.here()

    assert len(tiles) > 1
    assert found > good
    y, x = np.unravel_index(joined.argmax(), joined.shape)
    assert 55 <= y * 90 / joined.shape[0] <= 77
    assert 55 <= x * 90 / joined.shape[1] <= 77
