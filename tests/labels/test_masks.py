"""Masks, polygons and run lengths: exact, and refused before they take memory."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from daemon.labels import mask as masks
from zsad.image_files import DataError

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


@given(MASKS)
def test_png_and_run_lengths_give_the_same_mask_back(mask: masks.Mask) -> None:
    height, width = mask.shape

    assert np.array_equal(masks.decode_mask(masks.encode_mask(mask)), mask)
    assert np.array_equal(masks.from_runs(masks.to_runs(mask), width, height), mask)


def test_run_lengths_go_down_the_columns_and_begin_with_zeros() -> None:
    mask = np.array([[1, 0, 1], [1, 1, 0]], dtype=np.bool_)

    assert masks.to_runs(mask) == [0, 2, 1, 2, 1]


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_polygon_along_pixel_edges_fills_exactly_these_pixels(
    x: int, y: int, width: int, height: int
) -> None:
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]

    mask = masks.fill_polygon(corners, 12, 12)

    expected = np.zeros((12, 12), dtype=np.bool_)
    expected[y : y + height, x : x + width] = True
    assert np.array_equal(mask, expected)


@given(st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 25)), min_size=3, max_size=7))
def test_a_polygon_holds_the_pixels_whose_centre_is_inside(
    points: list[tuple[float, float]],
) -> None:
    filled = masks.fill_polygon(points, 20, 16)

    y, x = np.mgrid[:16, :20] + 0.5
    crossings = np.zeros((16, 20), dtype=int)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        crosses = (y0 <= y) != (y1 <= y)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
        crossings += crosses & (at <= x)
    assert np.array_equal(filled, crossings % 2 == 1)


def test_any_png_that_is_not_black_marks() -> None:
    grey = np.array([[0, 1, 255]], dtype=np.uint8)
    coloured = np.zeros((1, 3, 4), dtype=np.uint8)
    coloured[0, 1:, 2] = 7
    coloured[:, :, 3] = 255  # opaque everywhere
    wide = np.array([[0, 1, 65535]], dtype=np.uint16)

    for image in (grey, coloured, wide):
        found = masks.decode_mask(cv2.imencode(".png", image)[1].tobytes())
        assert found.tolist() == [[False, True, True]]


def _png_that_claims(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GIF89a", "not a PNG"),
        (b"\x89PNG\r\n\x1a\n", "not a PNG"),
        (_png_that_claims(100_000, 100_000), "100000 x 100000 pixels"),
        (_png_that_claims(0, 5), "0 x 5 pixels"),
        (_png_that_claims(5, 5), "damaged"),
        (bytes(masks.MAX_MASK_BYTES + 1), "limit 8388608"),
    ],
)
def test_a_bad_mask_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        masks.decode_mask(content)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([1, 2], "sum up to 3, 2 x 2 = 4"),
        ([-1, 5], "sum up to 4"),
        ([2**70], "expected"),
        ([0] * (masks.MAX_RUNS + 1), "limit 4000000"),
    ],
)
def test_bad_run_lengths_are_refused(runs: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        masks.from_runs(runs, 2, 2)


def test_a_polygon_out_of_bounds_is_refused() -> None:
    with pytest.raises(DataError, match="polygon of 2 points"):
        masks.fill_polygon([(0, 0), (1, 1)], 4, 4)
    with pytest.raises(DataError, match="3 to 100000 are allowed"):
        masks.fill_polygon([(0, 0)] * (masks.MAX_POINTS + 1), 4, 4)
    with pytest.raises(DataError, match="32000000 are allowed"):
        masks.fill_polygon([(0, 0), (1, 0), (1, 1)], 10**6, 10**6)
