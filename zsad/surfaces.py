"""Procedural defect-free surfaces: noise, weave, brushed metal, grain cells, regular parts.

Refuses to know about defects; they are added by `zsad.synthetic`.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Field = NDArray[np.float32]
Values = NDArray[Any]
"""Floating; OpenCV's types say only that it is a number."""


def draw_surface(rng: np.random.Generator, side: int) -> Image:
    """A random surface without defects, grey or coloured, unevenly lit, with camera noise.

    Args:
        rng: Source of all randomness.
        side: Side in pixels.

    Returns:
        uint8 RGB [side, side, 3].
    """
    kinds: tuple[Callable[[np.random.Generator, int], Field], ...] = (
        spectral_noise,
        spectral_noise,
        woven,
        brushed,
        grain_cells,
        regular_parts,
    )
    field = kinds[rng.integers(len(kinds))](rng, side)
    if rng.random() < 0.4:
        field = field + rng.uniform(0.1, 0.6) * spectral_noise(rng, side)
    image: Values = _coloured(rng, field) * _illumination(rng, side)[..., None]
    if rng.random() < 0.25:
        image = _framed(rng, image)
    image += rng.normal(0, rng.uniform(0.5, 8), image.shape).astype(np.float32)
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.5)))
    return np.asarray(np.clip(image, 0, 255), dtype=np.uint8)


def spectral_noise(rng: np.random.Generator, side: int) -> Field:
    """Gaussian field with a power-law, direction-dependent spectrum; mean 0, variance 1."""
    fy = np.fft.fftfreq(side)[:, None]
    fx = np.fft.rfftfreq(side)[None, :]
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1, 8)
    along = fx * np.cos(angle) + fy * np.sin(angle)
    across = -fx * np.sin(angle) + fy * np.cos(angle)
    radius = np.sqrt((along * stretch) ** 2 + across**2) + rng.uniform(0.003, 0.06)
    white = np.fft.rfft2(rng.normal(size=(side, side)))
    return _standardised(np.fft.irfft2(white * radius ** -rng.uniform(0.6, 2.2), s=(side, side)))


def woven(rng: np.random.Generator, side: int) -> Field:
    """Two crossed periodic thread systems with slightly uneven spacing."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    wobble = spectral_noise(rng, side) * rng.uniform(0, 2.5)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle) + wobble
    across = -x * np.sin(angle) + y * np.cos(angle) + wobble
    period = rng.uniform(4, 40)
    threads = np.sin(2 * np.pi * along / period)
    if rng.random() < 0.7:
        threads = threads * np.sin(2 * np.pi * across / (period * rng.uniform(0.5, 2)))
    if rng.random() < 0.4:
        threads = np.sign(threads)
    return _standardised(threads)


def brushed(rng: np.random.Generator, side: int) -> Field:
    """Straight streaks over the whole image, as on ground or drawn metal and sawn wood."""
    lines: Values = rng.normal(size=(1, side)).astype(np.float32)
    lines = cv2.GaussianBlur(lines, (0, 0), float(rng.uniform(0.5, 6)))
    streaks: Values = np.repeat(lines, side, axis=0) + 0.3 * rng.normal(size=(side, side))
    streaks = cv2.GaussianBlur(
        streaks.astype(np.float32), (0, 0), sigmaX=0.5, sigmaY=float(rng.uniform(2, 20))
    )
    if rng.random() < 0.5:
        streaks = streaks.T
    return _standardised(streaks)


def grain_cells(rng: np.random.Generator, side: int) -> Field:
    """Cells around random points: granite, leather, cast structure."""
    seeds = np.full((side, side), 255, np.uint8)
    n = int(rng.integers(60, 1500))
    seeds[rng.integers(0, side, n), rng.integers(0, side, n)] = 0
    distance, labels = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    levels = rng.normal(size=int(labels.max()) + 1).astype(np.float32)
    weight = rng.uniform(0, 1)
    return _standardised(
        weight * levels[labels] + (1 - weight) * distance / (distance.std() + 1e-6)
    )


def regular_parts(rng: np.random.Generator, side: int) -> Field:
    """The same disc, ring, bar or cross repeated on a grid, or one large part on a plain ground."""
    field: Values = np.zeros((side, side), np.float32)
    period = float(side * 1.2 if rng.random() < 0.3 else rng.uniform(side / 10, side / 2.5))
    size = period * rng.uniform(0.15, 0.42)
    kind, level = int(rng.integers(4)), float(rng.choice([-1.0, 1.0]))
    thickness = -1 if rng.random() < 0.6 else max(1, int(size / 4))
    for cy in np.arange(period / 2, side + period, period):
        for cx in np.arange(period / 2, side + period, period):
            centre, r = (int(cx), int(cy)), int(max(2, size))
            corners = ((centre[0] - r, centre[1] - r // 2), (centre[0] + r, centre[1] + r // 2))
            match kind:
                case 0:
                    cv2.circle(field, centre, r, level, thickness, cv2.LINE_AA)
                case 1:
                    cv2.rectangle(field, *corners, level, thickness)
                case 2:
                    cv2.circle(field, centre, r, level, -1, cv2.LINE_AA)
                    cv2.circle(field, centre, max(1, r // 2), -level / 2, -1, cv2.LINE_AA)
                case _:
                    cv2.drawMarker(field, centre, level, cv2.MARKER_CROSS, 2 * r, max(1, r // 5))
    if rng.random() < 0.5:
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-45, 45), 1.2)
        field = cv2.warpAffine(field, turn, (side, side), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(2 * field + 0.1 * spectral_noise(rng, side), dtype=np.float32)


def _standardised(field: Values) -> Field:
    centred = field - field.mean()
    return np.asarray(centred / (centred.std() + 1e-6), dtype=np.float32)


def _coloured(rng: np.random.Generator, field: Field) -> NDArray[np.float32]:
    """Map a field to grey levels or to a line between two colours, [H, W, 3] in 0..255."""
    middle = rng.uniform(40, 215, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(40, 215))
    span = rng.uniform(3, 45)
    tint = np.full(3, span) if rng.random() < 0.6 else span * rng.uniform(0.4, 1.2, 3)
    return (middle + field[..., None] * tint).astype(np.float32)


def _illumination(rng: np.random.Generator, side: int) -> Field:
    """A smooth factor around 1, [side, side]."""
    coarse = rng.uniform(1 - rng.uniform(0, 0.5), 1.0 + rng.uniform(0, 0.3), (3, 3))
    smooth = cv2.resize(coarse.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, dtype=np.float32)


def _framed(rng: np.random.Generator, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The surface ends before the image does: one to four plain margins."""
    side = image.shape[0]
    low = rng.integers(0, side // 6, 2) * (rng.random(2) < 0.6)
    high = side - rng.integers(0, side // 6, 2) * (rng.random(2) < 0.6)
    framed = np.full_like(
        image, rng.uniform(0, 60) if rng.random() < 0.7 else rng.uniform(180, 250)
    )
    framed[low[0] : high[0], low[1] : high[1]] = image[low[0] : high[0], low[1] : high[1]]
    return framed
