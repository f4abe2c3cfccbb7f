"""Training views: reproducible, masks mark what changed, files are reused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsad.augment import random_light, random_view
from zsad.corpus import PartViews, RealViews, SurfaceViews, View
from zsad.datasets.layouts import read_dataset
from zsad.parts import draw_parts
from zsad.surfaces import draw_surface
from zsad.synthetic import add_defects
from zsad.view_store import CHUNK, build_store, source_of_view

SIDE = 64


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_synthetic_defect_changes_the_image_where_its_mask_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = draw_surface(rng, SIDE)

    changed, mask = add_defects(rng, image)

    difference = np.abs(changed.astype(int) - image).mean(axis=2)
    assert changed.shape == image.shape
    if mask.any():
        assert difference[mask].mean() > 3
        assert difference[~mask].mean() < difference[mask].mean()
    else:
        assert np.array_equal(changed, image)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_view_keeps_image_and_mask_aligned(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((50, 120), np.bool_)
    mask[20:40, 50:90] = True
    image = np.repeat((mask * 255).astype(np.uint8)[..., None], 3, axis=2)

    view, view_mask = random_view(rng, image, mask, SIDE)

    assert view.shape == (SIDE, SIDE, 3)
    assert np.mean((view[..., 0] > 127) == view_mask) > 0.93


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_light_keeps_shape_and_type(seed: int) -> None:
    rng = np.random.default_rng(seed)

    lit = random_light(rng, draw_surface(rng, SIDE))

    assert (lit.shape, lit.dtype) == ((SIDE, SIDE, 3), np.uint8)


def test_a_view_depends_on_its_number_alone(plates: Path) -> None:
    samples = read_dataset(plates, "mvtec")
    first = RealViews(samples, key=1, seed=7, side=SIDE, synthetic=True)
    second = RealViews(samples, key=1, seed=7, side=SIDE, synthetic=True)
    in_order = [first(index) for index in range(5)]

    for index in (4, 0, 2):
        assert np.array_equal(second(index).image, in_order[index].image)
        assert np.array_equal(second(index).mask, in_order[index].mask)


def test_without_synthetic_defects_normal_images_stay_normal(plates: Path) -> None:
    good = [sample for sample in read_dataset(plates, "mvtec") if not sample.is_anomalous]
    views = RealViews(good, key=1, seed=7, side=SIDE, synthetic=False)

    assert not any(views(index).mask.any() for index in range(20))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), may_differ=st.booleans())
def test_a_scene_of_parts_marks_only_what_differs(seed: int, may_differ: bool) -> None:
    scene = draw_parts(np.random.default_rng(seed), SIDE, may_differ=may_differ)

    assert (scene.image.shape, scene.image.dtype) == ((SIDE, SIDE, 3), np.uint8)
    assert scene.body.any()
    assert may_differ or not scene.fault.any()


def test_parts_have_defects_and_one_unlike_its_fellows() -> None:
    views = PartViews(key=0, seed=0, side=SIDE)

    shares = [views(index).mask.any() for index in range(40)]

    assert 0.3 < np.mean(shares) < 0.95


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((2, 1), [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (1, 1)]),
        ((1, 1, 1), [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]),
    ],
)
def test_sources_take_turns_and_count_their_views(
    shares: tuple[int, ...], expected: list[tuple[int, int]]
) -> None:
    assert [source_of_view(index, shares) for index in range(6)] == expected


def test_a_store_is_taken_up_again_and_not_drawn_twice(tmp_path: Path) -> None:
    drawn: list[int] = []
    surfaces = SurfaceViews(key=0, seed=0, side=16)

    def draw(index: int) -> View:
        drawn.append(index)
        return surfaces(index)

    def embed(images: list[np.ndarray]) -> np.ndarray:
        return np.stack(images).mean(axis=3).astype(np.float16)

    build_store(tmp_path, draw, CHUNK, embed, identity="a")
    store = build_store(tmp_path, draw, 2 * CHUNK, embed, identity="a")

    assert drawn == list(range(2 * CHUNK))
    last = 2 * CHUNK - 1
    view = surfaces(last)
    assert np.array_equal(store.masks_of([last])[0], view.mask)
    assert np.array_equal(store.embeddings([last]), embed([view.image]))
    assert store.labels[last] == view.mask.any()
