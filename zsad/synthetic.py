"""Synthetic defects on defect-free images, with their masks.

A shape (spot, blob, scratch, broken edge, wide zone, soft zone, crisp figure, thread) is filled in
one of many ways: stain, foreign texture (in the spirit of DRAEM, Zavrtanik et al. 2021, arXiv
2108.07610), moved piece of the same image (in the spirit of CutPaste, Li et al. 2021, arXiv
2104.04015), blur, noise, pit, warp. Refuses to know where the images come from.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from zsad.surfaces import draw_surface, spectral_noise

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MIN_CHANGE = 6.0
"""Grey levels by which a pixel must change on average over its surroundings to count as defect."""
MIN_AREA_PX = 12
N_SHAPES = 9
ON_BODY_SHARE = 0.85
"""Of the defects of a part; the others lie anywhere."""


def add_defects(
    rng: np.random.Generator,
    image: Image,
    foreign: Image | None = None,
    *,
    body: Mask | None = None,
) -> tuple[Image, Mask]:
    """Draw one to three defects of one kind.

    Args:
        rng: Source of all randomness.
        image: uint8 RGB [S, S, 3], defect-free.
        foreign: uint8 RGB [S, S, 3] whose texture may show up in the defect; a procedural one
            is drawn when it is None.
        body: bool [S, S], where the product is; most defects then lie there.

    Returns:
        The image with defects, and bool [S, S], true where it visibly changed. The mask is empty
        in the rare case that ten attempts stay invisible; the image is then unchanged.
    """
    side = image.shape[0]
    for _ in range(10):
        alpha = np.zeros((side, side), np.float32)
        shape = int(rng.integers(N_SHAPES))
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            alpha = np.maximum(alpha, _shape(rng, side, shape, _centre(rng, side, body)))
        softened = cv2.GaussianBlur(alpha, (0, 0), float(rng.uniform(0.4, 2.0)))
        fill = _fill(rng, image, alpha, foreign)
        opacity = rng.uniform(0.5, 1.0) * softened[..., None]
        changed = image * (1 - opacity) + fill * opacity
        result = np.clip(changed, 0, 255).astype(np.uint8)
        difference = np.abs(result.astype(np.float32) - image).mean(axis=2)
        visible = cv2.GaussianBlur(difference, (0, 0), 2.0) > MIN_CHANGE
        mask = visible & (softened > 0.25)
        if mask.sum() >= MIN_AREA_PX:
            return result, np.asarray(mask, dtype=np.bool_)
    return image, np.zeros((side, side), np.bool_)


def _centre(rng: np.random.Generator, side: int, body: Mask | None) -> NDArray[np.floating]:
    """x, y of a defect: anywhere, or with a body mostly on it."""
    if body is not None and body.any() and rng.random() < ON_BODY_SHARE:
        at = np.flatnonzero(body)
        row, column = divmod(int(at[rng.integers(len(at))]), side)
        return np.array([column, row], np.float64)
    return rng.uniform(0.04 * side, 0.96 * side, 2)


def _shape(
    rng: np.random.Generator, side: int, kind: int, centre: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Opacity of one defect's area, float [S, S] in [0, 1]."""
    alpha = np.zeros((side, side), np.float32)
    # Areas spread evenly over scales: most real defects are small.
    size = side * float(np.exp(rng.uniform(np.log(0.012), np.log(0.22))))
    match kind:
        case 0:  # spot
            axes = (max(1, int(size)), max(1, int(size * rng.uniform(0.3, 1.0))))
            turn = float(rng.uniform(0, 180))
            cv2.ellipse(alpha, _point(centre), axes, turn, 0, 360, 1.0, -1, cv2.LINE_AA)
        case 1:  # blob with a ragged outline
            y, x = np.mgrid[0:side, 0:side].astype(np.float32)
            distance = np.hypot(y - centre[1], x - centre[0]) / (1.2 * size + 2)
            alpha = (distance + 0.35 * spectral_noise(rng, side) < 1.0).astype(np.float32)
            alpha[distance > 2.5] = 0
        case 2 | 3:  # scratch, hair or crack
            _draw_curve(rng, alpha, centre, length=size * rng.uniform(2, 6))
        case 4:  # broken edge or corner
            border = centre.copy()
            border[rng.integers(2)] = rng.choice([0, side - 1])
            corners = border + rng.normal(0, 1.2 * size + 3, (int(rng.integers(4, 9)), 2))
            cv2.fillPoly(alpha, [cv2.convexHull(corners.astype(np.int32))], 1.0)
        case 5 | 6:  # crisp figure: label, drop, hole, chip
            _draw_figure(rng, alpha, centre, size)
        case 7:  # soft zone: its edge is nowhere
            y, x = np.mgrid[0:side, 0:side].astype(np.float32)
            reach = side * rng.uniform(0.05, 0.25) * np.array([1.0, rng.uniform(0.3, 1.0)])
            turn = rng.uniform(0, np.pi)
            along = (x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)
            across = (y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)
            alpha = np.exp(-((along / reach[0]) ** 2 + (across / reach[1]) ** 2))
            alpha = alpha.astype(np.float32)
        case _:  # wide zone: parts of a thresholded random field
            field = cv2.GaussianBlur(spectral_noise(rng, side), (0, 0), float(rng.uniform(2, 12)))
            alpha = (field > np.quantile(field, rng.uniform(0.86, 0.99))).astype(np.float32)
    return alpha


def _draw_figure(
    rng: np.random.Generator, alpha: NDArray[np.float32], centre: NDArray[np.floating], size: float
) -> None:
    """A disc, ring, rectangle or polygon with clean edges, drawn in place."""
    radius = max(2, int(0.8 * size))
    thickness = -1 if rng.random() < 0.75 else max(1, radius // 4)
    if rng.random() < 0.35:
        cv2.circle(alpha, _point(centre), radius, 1.0, thickness, cv2.LINE_AA)
        return
    corners = int(rng.integers(3, 7))
    angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, corners, endpoint=False)
    reach = radius * np.array([1.2, 1.2 * rng.uniform(0.25, 1.0)])
    points = (np.stack([np.cos(angles), np.sin(angles)], 1) * reach).astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    outline = (points @ rotation + centre).astype(np.int32)
    if thickness < 0:
        cv2.fillPoly(alpha, [outline], 1.0, cv2.LINE_AA)
    else:
        cv2.polylines(alpha, [outline], True, 1.0, thickness, cv2.LINE_AA)


def _point(xy: NDArray[np.floating]) -> tuple[int, int]:
    return int(xy[0]), int(xy[1])


def _draw_curve(
    rng: np.random.Generator, alpha: NDArray[np.float32], start: NDArray[np.floating], length: float
) -> None:
    """A line whose direction wanders, drawn in place."""
    position, heading = start.copy(), rng.uniform(0, 2 * np.pi)
    wander = rng.choice([0.0, 0.08, 0.3])
    thickness = int(rng.integers(1, 6))
    for _ in range(12):
        heading += rng.normal(0, wander)
        following = position + length / 12 * np.array([np.cos(heading), np.sin(heading)])
        cv2.line(alpha, _point(position), _point(following), 1.0, thickness, cv2.LINE_AA)
        position = following


def _fill(
    rng: np.random.Generator, image: Image, alpha: NDArray[np.float32], foreign: Image | None
) -> NDArray[np.float32]:
    """What shows inside the defect, float RGB [S, S, 3] in about 0..255."""
    side = image.shape[0]
    plain = image.astype(np.float32)
    match int(rng.integers(11)):
        case 0 | 1:  # stain: darker or lighter, grain still visible
            factor = rng.uniform(0.25, 0.8) if rng.random() < 0.6 else rng.uniform(1.2, 1.9)
            return plain * factor
        case 2:  # opaque dirt
            colour = rng.uniform(0, 90, 3) if rng.random() < 0.6 else rng.uniform(0, 255, 3)
            return np.full_like(plain, 0) + colour.astype(np.float32)
        case 3:  # foreign texture
            texture = draw_surface(rng, side) if foreign is None else foreign
            return texture.astype(np.float32)
        case 4:  # a piece of the same image from elsewhere, perhaps turned
            shifts = (int(rng.integers(side // 8, side)), int(rng.integers(side // 8, side)))
            moved = np.roll(plain, shifts, axis=(0, 1))
            return np.rot90(moved, int(rng.integers(4)))
        case 5:  # smeared
            return _blurred(plain, float(rng.uniform(3, 10)))
        case 6:  # broken texture: pixels swapped over short distances
            reach = int(rng.integers(3, 14))
            y, x = np.mgrid[0:side, 0:side]
            y = np.clip(y + rng.integers(-reach, reach + 1, y.shape), 0, side - 1)
            x = np.clip(x + rng.integers(-reach, reach + 1, x.shape), 0, side - 1)
            return np.asarray(plain[y, x], dtype=np.float32)
        case 7:  # coarse noise of the image's own contrast
            cell = int(rng.choice([1, 2, 3]))
            noise = rng.normal(0, 1, (side // cell + 1, side // cell + 1, 1))
            noise = noise.repeat(cell, 0).repeat(cell, 1)[:side, :side]
            contrast = plain.std() * rng.uniform(1, 3) + 5
            return np.asarray(plain.mean(axis=(0, 1)) + contrast * noise, dtype=np.float32)
        case 8:  # pit: dark ground, bright rim on one side
            slope = cv2.Sobel(_blurred(alpha, 2.0), cv2.CV_32F, 1, 1, ksize=3)
            pit = plain * rng.uniform(0.3, 0.8) + 400 * rng.uniform(-1, 1) * slope[..., None]
            return np.asarray(pit, dtype=np.float32)
        case 9:  # contrast raised or lost
            mean = _blurred(plain, 12.0)
            factor = rng.uniform(0, 0.4) if rng.random() < 0.5 else rng.uniform(1.8, 3.5)
            return mean + (plain - mean) * factor
        case _:  # warped
            push = spectral_noise(rng, side), spectral_noise(rng, side)
            strength = rng.uniform(4, 15)
            y, x = np.mgrid[0:side, 0:side].astype(np.float32)
            dy, dx = (_blurred(p, 4.0) * strength for p in push)
            warped = cv2.remap(
                plain, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )
            return np.asarray(warped, dtype=np.float32)


def _blurred(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), dtype=np.float32)
