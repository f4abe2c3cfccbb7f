"""Whether an image is fit to be inspected, and when a camera's images stop or start to be so.

A wrong image must not become OK: the detector scores a black picture low.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from daemon.config.sanity import SanityConfig
from daemon.core import Image, LossReason

SAMPLE_PX = 256
"""Brightness, contrast and sameness are taken from at most so many rows and columns."""
SAME_GREY = 0.05
"""Mean difference of two images, in grey levels, below which they are the same one: noise of a
live sensor gives 0.5 and more, and a JPEG of the same buffer is the same JPEG."""
GOOD_AGAIN_AFTER = 10
"""So many good images in a row end a spell of bad ones, so that a flicker is one event."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What an image measures, in grey levels 0 to 255.

    Attributes:
        sharpness: Variance of the Laplacian at the resolution it was decoded at; None where it was
            not asked for.
    """

    brightness: float
    contrast: float
    sharpness: float | None


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why an image is not inspected; `detail` has the value, the limit and what to look at."""

    reason: LossReason
    detail: str


@dataclass(frozen=True, slots=True)
class SpellChange:
    """A camera's images became unfit, or fit again."""

    is_bad: bool
    detail: str


def measure(image: Image, *, with_sharpness: bool) -> Measures:
    """Measure an image [H, W, 3]."""
    sample = _sample(image)
    sharpness = None
    if with_sharpness:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    return Measures(float(sample.mean()), float(sample.std()), sharpness)


def unfit(
    image: Image, limits: SanityConfig, *, taken_px: tuple[int, int] | None = None
) -> Unfit | None:
    """The first limit that an image breaks by itself; None if it may be inspected.

    Args:
        taken_px: Height and width as the camera took it; None: the image's own.
    """
    height, width = taken_px or image.shape[:2]
    for key, wanted, pixels in (
        ("width_px", limits.width_px, width),
        ("height_px", limits.height_px, height),
    ):
        if wanted is not None and pixels != wanted:
            text = f"{width}x{height} pixels, sanity.{key} is {wanted}: check the camera's setting"
            return Unfit(LossReason.WRONG_SIZE, text)
    found = measure(image, with_sharpness=limits.min_sharpness is not None)
    for reason, key, limit, value, look_at in (
        (LossReason.TOO_DARK, "min_brightness", limits.min_brightness, found.brightness, "light"),
        (LossReason.TOO_BRIGHT, "max_brightness", limits.max_brightness, found.brightness, "light"),
        (LossReason.FLAT, "min_contrast", limits.min_contrast, found.contrast, "lens and sensor"),
        (LossReason.BLURRED, "min_sharpness", limits.min_sharpness, found.sharpness, "focus"),
    ):
        if limit is None or value is None:
            continue
        if not (value <= limit if key.startswith("max") else value >= limit):
            _, _, name = key.partition("_")
            text = f"{name} {value:.1f}, sanity.{key} is {limit:g}: check the {look_at}"
            return Unfit(reason, text)
    return None


class SanityGate:
    """`unfit`, and what takes a memory of each camera: sameness, and spells of bad images.

    Memory: one sample of at most SAMPLE_PX x SAMPLE_PX bytes a configured camera.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[NDArray[np.uint8], int]] = {}
        self._good_in_a_row: dict[str, int] = {}
        """Of the cameras that are in a bad spell."""

    def check(
        self,
        camera: str,
        image: Image,
        limits: SanityConfig,
        *,
        taken_px: tuple[int, int] | None = None,
    ) -> Unfit | None:
        """Whether the next image of a camera may be inspected, as `unfit`; None if so."""
        problem = unfit(image, limits, taken_px=taken_px)
        if limits.frozen_after is None:
            self._last.pop(camera, None)
            return problem
        same = self._count_same(camera, _sample(image))
        if problem is None and same > limits.frozen_after:
            problem = Unfit(
                LossReason.FROZEN,
                f"the same image {same} times in a row, sanity.frozen_after is "
                f"{limits.frozen_after}: restart the camera or its program",
            )
        return problem

    def spell(self, camera: str, problem: Unfit | None) -> SpellChange | None:
        """Whether this image begins a spell of bad ones, or ends it."""
        if problem is not None:
            is_new = camera not in self._good_in_a_row
            self._good_in_a_row[camera] = 0
            return SpellChange(is_bad=True, detail=problem.detail) if is_new else None
        if camera not in self._good_in_a_row:
            return None
        self._good_in_a_row[camera] += 1
        if self._good_in_a_row[camera] < GOOD_AGAIN_AFTER:
            return None
        del self._good_in_a_row[camera]
        return SpellChange(is_bad=False, detail=f"{GOOD_AGAIN_AFTER} good images in a row")

    def _count_same(self, camera: str, sample: NDArray[np.uint8]) -> int:
        """How many images in a row, this one included, are the same as the first of them."""
        first, count = self._last.get(camera, (None, 0))
        if first is None or not _is_same(first, sample):
            first, count = sample, 0
        self._last[camera] = (first, count + 1)
        return count + 1


def _sample(image: Image) -> NDArray[np.uint8]:
    """Every n-th row and column of the green channel, which any sensor has most of."""
    height, width = image.shape[:2]
    step_y, step_x = -(-height // SAMPLE_PX), -(-width // SAMPLE_PX)
    return np.ascontiguousarray(image[::step_y, ::step_x, 1])


def _is_same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    return one.shape == other.shape and float(cv2.absdiff(one, other).mean()) < SAME_GREY
