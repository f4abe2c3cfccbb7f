"""Random views of labelled images: crop, flip, turn, light, colour, blur, noise, mosaics.

Refuses to know about networks; images and masks stay aligned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageEnhance

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def random_view(
    rng: np.random.Generator, image: Image, mask: Mask, side: int, *, min_zoom: float = 0.35
) -> tuple[Image, Mask]:
    """A random crop turned, flipped and resized to side x side; geometry only.

    Args:
        rng: Source of all randomness.
        image: uint8 RGB [H, W, 3].
        mask: bool [H, W], true on defects.
        side: Side in pixels of the result.
        min_zoom: Smallest share of each side that the crop keeps, in (0, 1].
    """
    height, width = mask.shape
    share = rng.uniform(min_zoom, 1.0) if rng.random() < 0.7 else 1.0
    shape = np.exp(rng.uniform(-0.2, 0.2)) if share < 1 else 1.0
    h = int(np.clip(height * share * shape, 8, height))
    w = int(np.clip(width * share / shape, 8, width))
    if width > 1.6 * height and rng.random() < 0.6:  # long images: also square pieces
        w = min(w, h)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    piece: NDArray[Any] = image[top : top + h, left : left + w]
    grey: NDArray[Any] = mask[top : top + h, left : left + w].astype(np.uint8) * 255
    shrinks = h > side
    piece = cv2.resize(
        piece, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    grey = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    turns, flip = int(rng.integers(4)), rng.random() < 0.5
    piece, grey = np.rot90(piece, turns), np.rot90(grey, turns)
    if flip:
        piece, grey = piece[:, ::-1], grey[:, ::-1]
    return np.ascontiguousarray(piece), np.ascontiguousarray(grey > 90)


def mosaic(images: Sequence[Image]) -> Image:
    """Four pictures of one size, uint8 [S, S, 3], as the quarters of one of that size.

    Chen et al. 2023 (arXiv 2305.17382) and Cao et al. 2024 (arXiv 2407.15795), released code;
    rows first.
    """
    side = images[0].shape[0]
    whole = np.vstack([np.hstack(images[:2]), np.hstack(images[2:])])
    return np.asarray(cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def mosaic_mask(masks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The mask of a mosaic: four [S, S] in {0, 1} -> the same; a single pixel can vanish."""
    side = masks[0].shape[0]
    whole = np.vstack([np.hstack(masks[:2]), np.hstack(masks[2:])])
    share = cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)
    return (np.asarray(share) >= 0.5).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes of a whole training picture and its mask, each with its probability.

    Attributes:
        turn_deg, turn_p: Rotation by up to so many degrees either way.
        shift, shift_p: Translation by up to this share of the side, on each axis.
        flip_p: Of a horizontal and, independently, of a vertical flip.
        colour, colour_p: Brightness, contrast and saturation, each by a factor of 1 - colour to
            1 + colour, each with its own draw.
    """

    turn_deg: float
    turn_p: float
    shift: float
    shift_p: float
    flip_p: float
    colour: float = 0.0
    colour_p: float = 0.0


def augmented(
    rng: np.random.Generator,
    image: Image,
    mask: NDArray[np.float32],
    plan: Augmentation,
    fill: tuple[int, int, int],
) -> tuple[Image, NDArray[np.float32]]:
    """A picture uint8 [S, S, 3] and its mask [S, S] in {0, 1}, changed together.

    Geometry takes the nearest pixel; what comes into view is `fill`, and normal in the mask.
    """
    picture, labels = PILImage.fromarray(image), PILImage.fromarray(mask.astype(np.uint8))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        if rng.random() < plan.colour_p:
            picture = enhance(picture).enhance(rng.uniform(1 - plan.colour, 1 + plan.colour))
    if rng.random() < plan.turn_p:
        angle = rng.uniform(-plan.turn_deg, plan.turn_deg)
        picture, labels = picture.rotate(angle, fillcolor=fill), labels.rotate(angle, fillcolor=0)
    if rng.random() < plan.shift_p:
        x, y = (round(share * image.shape[0]) for share in rng.uniform(-plan.shift, plan.shift, 2))
        moved = (0, 0)
        picture = picture.rotate(0, translate=(x, y), fillcolor=fill, center=moved)
        labels = labels.rotate(0, translate=(x, y), fillcolor=0, center=moved)
    for flip in (PILImage.Transpose.FLIP_LEFT_RIGHT, PILImage.Transpose.FLIP_TOP_BOTTOM):
        if rng.random() < plan.flip_p:
            picture, labels = picture.transpose(flip), labels.transpose(flip)
    return np.asarray(picture), np.asarray(labels, dtype=np.float32)


def random_light(rng: np.random.Generator, image: Image) -> Image:
    """Brightness, contrast, gamma, colour, inversion, blur, noise and JPEG at random strength."""
    changed: NDArray[Any] = image.astype(np.float32)
    if rng.random() < 0.3:
        changed = np.repeat(changed.mean(axis=2, keepdims=True), 3, axis=2)
    elif rng.random() < 0.4:
        changed = changed[..., rng.permutation(3)]
    if rng.random() < 0.15:
        changed = 255 - changed
    if rng.random() < 0.7:
        changed = 255 * (np.clip(changed, 0, 255) / 255) ** np.exp(rng.uniform(-0.5, 0.5))
        mean = changed.mean()
        changed = mean + (changed - mean) * rng.uniform(0.6, 1.4)
        changed = changed * rng.uniform(0.7, 1.3) + rng.uniform(-15, 15)
    if rng.random() < 0.3:
        slope = cv2.resize(rng.uniform(0.6, 1.2, (2, 2)).astype(np.float32), image.shape[1::-1])
        changed = changed * slope[..., None]
    if rng.random() < 0.2:
        changed = cv2.GaussianBlur(changed, (0, 0), float(rng.uniform(0.4, 1.6)))
    if rng.random() < 0.4:
        changed = changed + rng.normal(0, rng.uniform(1, 10), image.shape)
    result = np.clip(changed, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(40, 95))
        _, code = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), dtype=np.uint8)
    return np.asarray(result, dtype=np.uint8)
