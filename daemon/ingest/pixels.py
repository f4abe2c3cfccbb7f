"""Pixel formats by their GenICam names, to and from colour images. Knows no message."""

from typing import assert_never

import cv2
import numpy as np
from numpy.typing import NDArray

from daemon.ingest.wire import PixelFormat

Pixels = NDArray[np.uint8]

CHANNELS: dict[PixelFormat, int] = {"Mono8": 1, "RGB8": 3, "BGR8": 3, "BayerRG8": 1}
MIN_BAYER_PX = 2  # a mosaic's smallest repeat


def shape_problem(shape: tuple[int, ...], pixel_format: PixelFormat) -> str | None:
    """What is wrong with an array shape for a pixel format, as a sentence; None if it fits.

    Args:
        shape: [H, W] or [H, W, 1] for one channel, [H, W, 3] for three.
    """
    channels = CHANNELS[pixel_format]
    wanted = "[H, W]" if channels == 1 else "[H, W, 3]"
    has_fitting_rank = len(shape) == 3 or (len(shape) == 2 and channels == 1)
    if not has_fitting_rank or (len(shape) == 3 and shape[2] != channels):
        return f"shape {list(shape)} does not fit {pixel_format}, which needs {wanted}"
    least = MIN_BAYER_PX if pixel_format == "BayerRG8" else 1
    if min(shape[:2]) < least:
        return f"shape {list(shape)} is smaller than {least} x {least} pixels"
    return None


def to_rgb(pixels: Pixels, pixel_format: PixelFormat) -> Pixels:
    """Colour image of its own memory.

    Args:
        pixels: uint8 of a shape without `shape_problem`.

    Returns:
        RGB uint8 [H, W, 3].
    """
    match pixel_format:
        case "Mono8":
            return _cvt(pixels, cv2.COLOR_GRAY2RGB)
        case "RGB8":
            return pixels.copy()
        case "BGR8":
            return _cvt(pixels, cv2.COLOR_BGR2RGB)
        case "BayerRG8":
            # OpenCV names a mosaic by the 2 x 2 block that starts at pixel (1, 1), GenICam by
            # the one at (0, 0): BayerRG there is BayerBG here.
            return _cvt(pixels, cv2.COLOR_BayerBG2RGB)
        case _:
            assert_never(pixel_format)


def to_encodable(pixels: Pixels, pixel_format: PixelFormat) -> Pixels:
    """The image as OpenCV's encoders take it: grey [H, W] stays grey, colour becomes BGR."""
    if pixel_format == "Mono8":
        return pixels.reshape(pixels.shape[:2])
    if pixel_format == "BGR8":
        return pixels
    return _cvt(to_rgb(pixels, pixel_format), cv2.COLOR_RGB2BGR)


def _cvt(pixels: Pixels, code: int) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, code), dtype=np.uint8)
