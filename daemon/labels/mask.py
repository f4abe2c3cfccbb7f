"""Masks as one-bit PNG, polygons and run lengths; exact, and bounded before memory is taken.

A pixel belongs to a polygon where its centre lies inside. Refuses to know any file format.
"""

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from zsad.image_files import MAX_PIXELS, DataError, load_mask

MAX_MASK_BYTES = 8 << 20
MAX_POINTS = 100_000
MAX_RUNS = 4_000_000

Mask = NDArray[np.bool_]
"""bool [H, W], True is defective."""

_PNG = b"\x89PNG\r\n\x1a\n"
_IHDR_END = 33


def encode_mask(mask: Mask) -> bytes:
    """A one-bit PNG; white is defective."""
    grey = mask.astype(np.uint8) * 255
    return cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()


def decode_mask(png: bytes) -> Mask:
    """A PNG as a mask: a pixel is defective where any colour is above 0; transparency is left out.

    Raises:
        DataError: No PNG, damaged, or over MAX_MASK_BYTES or MAX_PIXELS.
    """
    if len(png) > MAX_MASK_BYTES:
        raise DataError(f"mask of {len(png)} bytes, limit {MAX_MASK_BYTES}: save it with one bit")
    if not png.startswith(_PNG) or len(png) < _IHDR_END:
        raise DataError("the mask is not a PNG: save it as one")
    width, height = struct.unpack(">II", png[16:24])
    check_size(width, height)
    values = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise DataError("the mask is a damaged PNG: save it again")
    if values.ndim == 3:
        values = values[:, :, :3].max(axis=2)
    return np.asarray(values > 0, dtype=np.bool_)


def read_mask_file(path: Path) -> Mask:
    """An image file as a mask (`zsad.image_files.load_mask`).

    Raises:
        DataError: As there, or over MAX_MASK_BYTES.
    """
    check_file(path, MAX_MASK_BYTES)
    return load_mask(path)


def check_file(path: Path, max_bytes: int) -> None:
    """Refuse what is not a file, or too large to be read at once.

    Raises:
        DataError: Says so.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file: correct the path")
    if (size := path.stat().st_size) > max_bytes:
        raise DataError(f"{path} has {size} bytes, limit {max_bytes}: split or shrink it")


def check_size(width: int, height: int) -> None:
    """Refuse a mask without pixels, or with more than MAX_PIXELS.

    Raises:
        DataError: Says so.
    """
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise DataError(f"mask of {width} x {height} pixels: 1 to {MAX_PIXELS} are allowed")


def fill_polygon(points: Sequence[tuple[float, float]], width: int, height: int) -> Mask:
    """The pixels whose centre (x + 0.5, y + 0.5) lies inside, by the even-odd rule.

    Each edge toggles, in every row it crosses, all pixels to its right.

    Args:
        points: (x, y) in pixels, finite; the last is joined to the first.

    Raises:
        DataError: Fewer than 3 points or more than MAX_POINTS, or the size is out of bounds.
    """
    check_size(width, height)
    if not 3 <= len(points) <= MAX_POINTS:
        raise DataError(f"polygon of {len(points)} points: 3 to {MAX_POINTS} are allowed")
    corners = np.asarray(points, dtype=np.float64).clip(-1e7, 1e7)
    toggles = np.zeros((height, width + 1), dtype=np.bool_)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        top, bottom = np.ceil(np.clip(sorted((y0, y1)), 0.0, height) - 0.5).astype(int)
        rows = np.arange(max(top, 0), bottom)
        if len(rows) == 0:
            continue
        x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        toggles[rows, np.ceil(x - 0.5).clip(0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(toggles, axis=1)[:, :width]


def fill_ellipse(
    centre: tuple[float, float],
    radius_x: float,
    radius_y: float,
    angle_deg: float,
    width: int,
    height: int,
) -> Mask:
    """The pixels whose centre lies inside an ellipse, turned clockwise about its own centre.

    Args:
        centre: (x, y) in pixels; all values finite.

    Raises:
        DataError: The size is out of bounds.
    """
    check_size(width, height)
    if not (radius_x > 0 and radius_y > 0):
        return np.zeros((height, width), dtype=np.bool_)
    y, x = np.ogrid[:height, :width]
    dx, dy = x + 0.5 - centre[0], y + 0.5 - centre[1]
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    inside = ((dx * cos + dy * sin) / radius_x) ** 2 + ((dy * cos - dx * sin) / radius_y) ** 2 <= 1
    return np.asarray(inside, dtype=np.bool_)


def turned(
    corners: Sequence[tuple[float, float]], pivot: tuple[float, float], angle_deg: float
) -> list[tuple[float, float]]:
    """Points turned clockwise, as seen on the image, about another."""
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    px, py = pivot
    return [
        (px + (x - px) * cos - (y - py) * sin, py + (x - px) * sin + (y - py) * cos)
        for x, y in corners
    ]


def pasted(part: Mask, left: int, top: int, width: int, height: int) -> Mask:
    """A mask of a part of the image, in the size of the image.

    Raises:
        DataError: It does not lie inside.
    """
    check_size(width, height)
    rows, columns = part.shape
    if left < 0 or top < 0 or left + columns > width or top + rows > height:
        raise DataError(
            f"a mask of {columns} x {rows} pixels at {left},{top} does not lie inside the image "
            f"of {width} x {height}"
        )
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[top : top + rows, left : left + columns] = part
    return mask


def cut_out(mask: Mask) -> tuple[Mask, int, int]:
    """The smallest part that holds everything, with its left and top; `pasted` is the inverse.

    Args:
        mask: With at least one defective pixel.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
    return mask[top : bottom + 1, left : right + 1], left, top


def to_runs(mask: Mask) -> list[int]:
    """Lengths of runs down the columns, one column after the other, the first of 0 (COCO)."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    ends = np.concatenate([[0], changes, [mask.size]])
    runs: list[int] = np.diff(ends).tolist()
    return runs


def from_runs(runs: Sequence[int], width: int, height: int) -> Mask:
    """The inverse of `to_runs`.

    Raises:
        DataError: More than MAX_RUNS, a negative one, or a sum that is not width x height.
    """
    check_size(width, height)
    if len(runs) > MAX_RUNS:
        raise DataError(f"{len(runs)} run lengths, limit {MAX_RUNS}")
    if any(not 0 <= run <= MAX_PIXELS for run in runs) or sum(runs) != width * height:
        raise DataError(
            f"run lengths sum up to {sum(runs)}, {width} x {height} = {width * height} expected"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def resized(mask: Mask, width: int, height: int) -> Mask:
    """The mask in another size: each pixel takes the value of the nearest one."""
    if mask.shape == (height, width):
        return mask
    grey = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(grey > 0, dtype=np.bool_)
