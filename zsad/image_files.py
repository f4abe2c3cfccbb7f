"""Image and mask files read as arrays, with bounds.

Refuses to know how a data set is laid out and what a detector wants as input.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

MAX_PIXELS = 32_000_000
"""Default limit on width x height; a larger file is refused before it is decoded."""

LOSSY_MASK_FORMATS = ("JPEG", "WEBP", "MPO")


class DataError(Exception):
    """A data set or one of its files that cannot be used; names the file and what to do."""


def jpeg_reduction(height: int, width: int, least_side: int | None) -> Literal[1, 2, 4, 8]:
    """By how much a JPEG may be decoded smaller such that no side falls below `least_side`.

    The decoder then leaves out the high frequencies of each 8 x 8 block (libjpeg's scaled inverse
    DCT), which is most of its work but reading the bits.

    Args:
        least_side: In pixels; None decodes the whole.
    """
    if least_side is not None:
        for by in (8, 4, 2):
            if min(height, width) // by >= least_side:
                return by
    return 1


def load_image(
    path: Path, *, max_pixels: int = MAX_PIXELS, least_side: int | None = None
) -> NDArray[np.uint8]:
    """Read an image as RGB; grey is repeated, transparency dropped, 16 bits become 8.

    Orientation tags are ignored, as the released code of the methods does, so that an image
    and its mask stay aligned.

    Args:
        least_side: A JPEG may be decoded smaller by `jpeg_reduction`; None decodes the whole.

    Returns:
        uint8 [H, W, 3].

    Raises:
        DataError: the file is missing, damaged, truncated, no image, or over max_pixels.
    """
    with _opened(path, max_pixels) as image:
        if image.format == "JPEG":
            width, height = image.size
            by = jpeg_reduction(height, width, least_side)
            image.draft("RGB", (width // by, height // by))
        if image.mode.startswith("I;16") or image.mode == "I":
            # Pillow clips here instead of scaling; 16-bit cameras would come out white.
            grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        return np.array(image.convert("RGB"), dtype=np.uint8)


def load_mask(path: Path, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """Read a ground-truth mask: a pixel is anomalous where any colour channel is above 0.

    Lossy files (JPEG, WebP) carry compression noise around 0 and are cut at half range
    instead; `check_samples` warns of them.

    Returns:
        bool [H, W], True is anomalous.

    Raises:
        DataError: as `load_image`.
    """
    with _opened(path, max_pixels) as image:
        cut = 127 if image.format in LOSSY_MASK_FORMATS else 0
        if image.mode.startswith("I") or image.mode == "F":
            values = np.asarray(image)
        else:
            values = np.asarray(image.convert("RGB")).max(axis=2)
        return np.asarray(values > cut, dtype=np.bool_)


def is_lossy_mask(path: Path) -> bool:
    """Whether a mask file is in a format whose compression changes pixel values."""
    with _opened(path, MAX_PIXELS) as image:
        return image.format in LOSSY_MASK_FORMATS


def image_size(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) in pixels from the file's header, without decoding it.

    Raises:
        DataError: the file is missing, no image, or over max_pixels.
    """
    with _opened(path, max_pixels) as image:
        return image.size


def resize_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """A mask as coarse as a map: bilinear (antialiased), then over one half.

    The rule of the AnomalyCLIP family (zhou2024, arXiv 2310.18961, released code). A region
    much smaller than one output pixel can vanish.

    Args:
        mask: bool [H, W].
        height, width: Of the result.

    Returns:
        bool [height, width].
    """
    grey = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
    resized = np.asarray(grey.resize((width, height), PIL.Image.Resampling.BILINEAR))
    return np.asarray(resized >= 128, dtype=np.bool_)


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[PIL.Image.Image]:
    """Open lazily, check the size from the header, turn decoding failures into DataError."""
    try:
        with PIL.Image.open(path) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(
                    f"{path} has {width} x {height} = {width * height} pixels, limit "
                    f"{max_pixels}: shrink it or leave it out"
                )
            yield image
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: correct the path or restore the file") from error
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} is too large, limit {max_pixels} pixels: shrink it") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow reports damage as OSError, broken PNG chunks as SyntaxError, others as ValueError.
        raise DataError(f"{path} cannot be read as an image ({error}): restore the file") from error
