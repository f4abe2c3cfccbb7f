"""Procedural defect-free parts: shaded objects with holes, ribs, print and threads on a ground.

A part is a height field on a silhouette, lit from one side, so that edges, highlights, shadows and
repeated features belong to what is normal. Refuses to know about defects of the surface; the only
fault drawn here is one of several equal things that differs from the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from zsad.surfaces import draw_surface, spectral_noise

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]
Values = NDArray[Any]
"""Floating; OpenCV's types say only that it is a number."""

FEATURE_DEPTH = 0.35
"""Height of a hole, boss or rib over the part's own height."""
_LETTERS = "ABCDEFGHKLMNPRSTUVXYZ0123456789"


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture of one or more parts.

    Attributes:
        image: uint8 RGB [S, S, 3].
        body: bool [S, S], true on a part.
        ground: uint8 RGB [S, S, 3], what shows where a part is missing.
        fault: bool [S, S], true where one of several equal parts differs from the others.
    """

    image: Image
    body: Mask
    ground: Image
    fault: Mask


@dataclass(frozen=True, slots=True)
class _Sprite:
    """One part before it is placed: colour [s, s, 3] in about 0..255, opacity and height [s, s]."""

    colour: Plane
    opacity: Plane


def draw_parts(rng: np.random.Generator, side: int, *, may_differ: bool = False) -> Scene:
    """One large part, or several equal ones, on a plain or structured ground.

    Args:
        rng: Source of all randomness.
        side: Side in pixels.
        may_differ: Whether one of several parts may be another part, or one of another colour.
    """
    ground = _ground(rng, side)
    places = _places(rng, side)
    size = int(places[0][2])
    design = _draw_sprite(rng, size)
    odd = int(rng.integers(len(places))) if may_differ and len(places) > 3 else -1
    other = _differing(rng, design, size) if odd >= 0 else design
    picture: Values = ground.astype(np.float32)
    body = np.zeros((side, side), np.float32)
    fault = np.zeros((side, side), np.bool_)
    tilt, jitter = rng.uniform(0, 360), rng.choice([0.0, 4.0, 180.0])
    shade, shift = rng.uniform(0, 0.6), rng.normal(0, 0.02 * side, 2)
    for number, (x, y, _) in enumerate(places):
        sprite = other if number == odd else design
        turn = tilt + rng.uniform(-jitter, jitter)
        colour, opacity = _placed(sprite, side, x, y, turn)
        picture = _shadowed(picture, opacity, shift, shade)
        picture = picture * (1 - opacity[..., None]) + colour * opacity[..., None]
        body = np.maximum(body, opacity)
        if number == odd:
            fault |= _placed(design, side, x, y, turn)[1] > 0.5
            fault |= opacity > 0.5
    picture = picture * rng.uniform(0.85, 1.1)
    picture += rng.normal(0, rng.uniform(0.5, 5), picture.shape)
    picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.1)))
    image = np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)
    return Scene(image=image, body=body > 0.5, ground=ground, fault=fault)


def _ground(rng: np.random.Generator, side: int) -> Image:
    """Plain with a soft gradient, or any procedural surface."""
    if rng.random() < 0.3:
        return draw_surface(rng, side)
    level = rng.choice([rng.uniform(5, 60), rng.uniform(60, 190), rng.uniform(190, 250)])
    tint = rng.normal(0, rng.choice([0, 4, 25]), 3)
    slope = cv2.resize(
        rng.uniform(-20, 20, (2, 2)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
    )
    grain = rng.uniform(0, 4) * spectral_noise(rng, side)
    return np.asarray(np.clip(level + tint + (slope + grain)[..., None], 0, 255), dtype=np.uint8)


def _places(rng: np.random.Generator, side: int) -> list[tuple[float, float, float]]:
    """Centre x, y and size in pixels of every part."""
    kind = rng.random()
    if kind < 0.6:  # one, perhaps cut by the border
        size = side * rng.uniform(0.45, 1.15)
        return [(*(side / 2 + rng.normal(0, 0.05 * side, 2)), size)]
    if kind < 0.85:  # rows and columns
        n = int(rng.integers(2, 5))
        pitch = side / n
        centres = (np.arange(n) + 0.5) * pitch
        size = pitch * rng.uniform(0.6, 0.95)
        shift = rng.normal(0, 0.03 * pitch, 2)
        return [(x + shift[0], y + shift[1], size) for x in centres for y in centres]
    size = side * rng.uniform(0.18, 0.35)  # poured out
    return [(*rng.uniform(0.1 * side, 0.9 * side, 2), size) for _ in range(rng.integers(4, 12))]


def _placed(sprite: _Sprite, side: int, x: float, y: float, turn: float) -> tuple[Plane, Plane]:
    """Colour [S, S, 3] and opacity [S, S] of a sprite turned and moved into the picture."""
    size = len(sprite.opacity)
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), turn, 1.0)
    matrix[:, 2] += np.array([x - size / 2, y - size / 2])
    colour = cv2.warpAffine(sprite.colour, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    opacity = cv2.warpAffine(sprite.opacity, matrix, (side, side))
    return np.asarray(colour, np.float32), np.asarray(opacity, np.float32)


def _shadowed(
    picture: Values, opacity: Plane, shift: NDArray[np.floating], strength: float
) -> Values:
    """Darkened beside the part, on the side away from the light."""
    moved = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    shadow = cv2.warpAffine(opacity, moved, opacity.shape[::-1])
    shadow = cv2.GaussianBlur(shadow, (0, 0), 2 + float(np.abs(shift).sum()) / 2)
    return np.asarray(picture * (1 - strength * shadow[..., None]))


def _differing(rng: np.random.Generator, design: _Sprite, size: int) -> _Sprite:
    """Missing, another part, or the same in another colour."""
    match int(rng.integers(4)):
        case 0:
            return _Sprite(colour=design.colour, opacity=np.zeros_like(design.opacity))
        case 1:
            return _draw_sprite(rng, size)
        case 2:
            grey = design.colour * rng.choice([0.45, 0.6, 1.6]) + rng.normal(0, 25, 3)
            return _Sprite(colour=grey.astype(np.float32), opacity=design.opacity)
        case _:
            cut = design.opacity.copy()
            cut[:, : int(size * rng.uniform(0.3, 0.6))] = 0
            return _Sprite(colour=design.colour, opacity=cut)


def _draw_sprite(rng: np.random.Generator, size: int) -> _Sprite:
    """A random part that fills a square of `size` pixels."""
    outlines: tuple[Callable[[np.random.Generator, int], Plane], ...] = (
        _disc_or_ring,
        _box,
        _turned_profile,
        _gear_or_polygon,
        _bracket,
        _blob,
    )
    outline = outlines[rng.integers(len(outlines))](rng, size)
    height = _bevelled(rng, outline)
    paint = _paint(rng, size)
    for _ in range(int(rng.integers(0, 4))):
        _add_feature(rng, outline, height, paint)
    light = _lit(rng, height)
    opacity = cv2.GaussianBlur(outline, (0, 0), 0.8)
    return _Sprite(
        colour=np.asarray(paint * light[..., None] + _gloss(rng, height)[..., None], np.float32),
        opacity=np.asarray(opacity, np.float32),
    )


def _disc_or_ring(rng: np.random.Generator, size: int) -> Plane:
    plane, c = np.zeros((size, size), np.float32), size // 2
    axes = (int(0.47 * size), int(0.47 * size * rng.choice([1.0, 1.0, rng.uniform(0.4, 0.9)])))
    cv2.ellipse(plane, (c, c), axes, 0, 0, 360, 1.0, -1, cv2.LINE_AA)
    if rng.random() < 0.4:
        hole = rng.uniform(0.2, 0.75)
        inner = (int(axes[0] * hole), int(axes[1] * hole))
        cv2.ellipse(plane, (c, c), inner, 0, 0, 360, 0.0, -1, cv2.LINE_AA)
    return plane


def _box(rng: np.random.Generator, size: int) -> Plane:
    """A rectangle, its corners round to any degree: plates, chips, capsules, tablets."""
    half = 0.47 * size * np.array([1.0, rng.uniform(0.25, 1.0)])
    radius = rng.choice([0.03, 0.15, 1.0]) * half.min()
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) - size / 2
    beyond = np.maximum(np.abs(np.stack([x, y])) - (half - radius)[:, None, None], 0)
    return np.asarray(np.hypot(*beyond) <= radius, np.float32)


def _turned_profile(rng: np.random.Generator, size: int) -> Plane:
    """Mirror-symmetric about an axis, as what a lathe or a blow mould makes: bottles, screws."""
    knots = rng.uniform(0.1, 0.46, int(rng.integers(3, 8)))
    steps = rng.random() < 0.5
    at = np.linspace(0, len(knots) - 1, size)
    width = knots[at.round().astype(int)] if steps else np.interp(at, range(len(knots)), knots)
    if not steps:
        width = cv2.GaussianBlur(width[None].astype(np.float32), (0, 0), size / 25)[0]
    if rng.random() < 0.3:  # thread on a part of the length
        y = np.arange(size)
        start, end = np.sort(rng.uniform(0, size, 2))
        pitch = size * rng.uniform(0.02, 0.06)
        width = width + 0.02 * np.sin(2 * np.pi * y / pitch) * ((y > start) & (y < end))
    x = np.abs(np.arange(size) - size / 2) / size
    plane = np.asarray(x[None, :] <= width[:, None], np.float32)
    margin = int(0.04 * size)
    plane[:margin] = plane[size - margin :] = 0
    return plane


def _gear_or_polygon(rng: np.random.Generator, size: int) -> Plane:
    n, depth = int(rng.integers(3, 24)), rng.uniform(0, 0.35)
    angles = np.linspace(0, 2 * np.pi, 2 * n, endpoint=False)
    radii = 0.48 * size * (1 - depth * (np.arange(2 * n) % 2))
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None] + size / 2
    plane = np.zeros((size, size), np.float32)
    cv2.fillPoly(plane, [points.astype(np.int32)], 1.0, cv2.LINE_AA)
    return plane


def _bracket(rng: np.random.Generator, size: int) -> Plane:
    """Overlapping bars and discs, all on one axis or at right angles."""
    plane = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(2, 5))):
        centre = rng.uniform(0.25, 0.75, 2) * size
        if rng.random() < 0.35:
            radius = int(size * rng.uniform(0.1, 0.24))
            cv2.circle(plane, (int(centre[0]), int(centre[1])), radius, 1.0, -1, cv2.LINE_AA)
            continue
        half = size * np.array([rng.uniform(0.06, 0.13), rng.uniform(0.2, 0.46)])
        if rng.random() < 0.5:
            half = half[::-1]
        low, high = np.maximum(centre - half, 2), np.minimum(centre + half, size - 3)
        corners = (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))
        cv2.rectangle(plane, *corners, 1.0, -1)
    return plane


def _blob(rng: np.random.Generator, size: int) -> Plane:
    """A round thing grown, not made: nuts, pasta, candy."""
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    radius = np.full(90, 0.38)
    for order in range(1, 6):
        radius += rng.normal(0, 0.06 / order) * np.cos(order * angles + rng.uniform(0, 6.3))
    radius = np.clip(radius, 0.1, 0.49) * size
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] + size / 2
    plane = np.zeros((size, size), np.float32)
    cv2.fillPoly(plane, [points.astype(np.int32)], 1.0, cv2.LINE_AA)
    return plane


def _bevelled(rng: np.random.Generator, outline: Plane) -> Plane:
    """Height over the ground: flat with a rim, or a dome."""
    inside = (outline > 0.5).astype(np.uint8)
    distance = np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 5), np.float32)
    largest = max(float(distance.max()), 1.0)
    bevel = max(1.0, largest * float(rng.choice([0.05, 0.15, 0.4, 1.0])))
    ramp = np.minimum(distance / bevel, 1.0)
    return np.asarray(bevel * np.sqrt(1 - (1 - ramp) ** 2), np.float32)


def _paint(rng: np.random.Generator, size: int) -> Plane:
    """The part's own colour without light, [s, s, 3]: plain, or a procedural surface."""
    colour = rng.uniform(40, 235) + rng.normal(0, rng.choice([2, 30, 60]), 3)
    plain = np.zeros((size, size, 3), np.float32) + np.clip(colour, 10, 250)
    if rng.random() < 0.55:
        texture = draw_surface(rng, size).astype(np.float32)
        weight = rng.choice([0.15, 0.5, 1.0])
        plain = plain * (1 - weight) + texture * weight
    if rng.random() < 0.2:  # two-coloured
        cut = int(size * rng.uniform(0.3, 0.7))
        plain[:cut] = np.clip(rng.uniform(20, 240, 3), 0, 255)
    return np.asarray(plain, np.float32)


def _add_feature(rng: np.random.Generator, outline: Plane, height: Plane, paint: Plane) -> None:
    """Holes, bosses, ribs, print or a label; changes its arguments in place."""
    size = len(outline)
    drawn = np.zeros((size, size), np.float32)
    kind = int(rng.integers(6))
    match kind:
        case 0 | 1:  # holes or bosses, on a circle or a grid
            _draw_dots(rng, drawn)
        case 2:  # ribs or grooves
            pitch = max(4, int(size * rng.uniform(0.03, 0.15)))
            start, end = np.sort(rng.uniform(0.1, 0.9, 2)) * size
            for row in range(int(start), int(end), pitch):
                cv2.line(drawn, (0, row), (size, row), 1.0, max(1, pitch // 3), cv2.LINE_AA)
        case 3:  # print
            word = "".join(rng.choice(list(_LETTERS), int(rng.integers(1, 7))))
            scale, thick = size / 220 * rng.uniform(0.6, 2), max(1, int(size / 90))
            at = (int(size * rng.uniform(0.1, 0.4)), int(size * rng.uniform(0.3, 0.8)))
            ink = np.zeros((size, size), np.uint8)
            cv2.putText(ink, word, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
            drawn += ink / np.float32(255)
        case 4:  # a rim or slot
            c, r = size // 2, int(size * rng.uniform(0.08, 0.42))
            cv2.circle(drawn, (c, c), r, 1.0, max(1, int(size * 0.02)), cv2.LINE_AA)
        case _:  # a label
            low, high = rng.uniform(0.15, 0.4, 2) * size, rng.uniform(0.6, 0.85, 2) * size
            corners = (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))
            cv2.rectangle(drawn, *corners, 1.0, -1)
    if kind in (3, 5):
        colour = np.clip(rng.uniform(0, 255) + rng.normal(0, 30, 3), 0, 255)
        paint += rng.uniform(0.5, 1.0) * drawn[..., None] * (colour - paint)
    elif kind == 0:
        outline *= 1 - drawn
        height *= 1 - drawn
    else:
        soft = cv2.GaussianBlur(drawn, (0, 0), max(0.6, size / 150))
        depth = FEATURE_DEPTH * rng.choice([-1.0, 1.0]) * min(float(height.max()), 0.08 * size)
        height += soft * depth * (outline > 0.5)


def _draw_dots(rng: np.random.Generator, plane: Plane) -> None:
    """Equal discs on a circle, a grid or at the centre, in place."""
    size, n = len(plane), int(rng.integers(1, 9))
    radius = max(2, int(size * rng.uniform(0.02, 0.1)))
    if n == 1:
        points = np.full((1, 2), size / 2)
    elif rng.random() < 0.5:
        angles = np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.uniform(0, 6.3)
        reach = size * rng.uniform(0.15, 0.38)
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * reach + size / 2
    else:
        line = np.linspace(0.2, 0.8, max(2, n // 2)) * size
        points = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    for x, y in points:
        cv2.circle(plane, (int(x), int(y)), radius, 1.0, -1, cv2.LINE_AA)


def _lit(rng: np.random.Generator, height: Plane) -> Plane:
    """Diffuse light from one side, about 1 on level ground."""
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3) / 8
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3) / 8
    angle, slant = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.9)
    toward = (dx * np.cos(angle) + dy * np.sin(angle)) * slant
    return np.asarray(np.clip((1 + toward) / np.sqrt(1 + dx**2 + dy**2), 0.15, 1.6), np.float32)


def _gloss(rng: np.random.Generator, height: Plane) -> Plane:
    """Highlights added to the colour; none on a matt part."""
    if rng.random() < 0.5:
        return np.zeros_like(height)
    smooth = cv2.GaussianBlur(height, (0, 0), 1.5)
    dx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3) / 8
    dy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3) / 8
    aim = rng.normal(0, 0.35, 2)
    off = (dx - aim[0]) ** 2 + (dy - aim[1]) ** 2
    return np.asarray(rng.uniform(20, 140) * np.exp(-off / rng.uniform(0.01, 0.15)), np.float32)
