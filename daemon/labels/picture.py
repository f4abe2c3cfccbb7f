"""What is written of one labelled frame: its label, its size, and an image if one is stored."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from daemon.core import ImageFile
from daemon.labels.files import write_file
from daemon.labels.found import LabelFound
from daemon.labels.mask import Mask, decode_mask, encode_mask, resized

JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A label with what a format needs beside it.

    Attributes:
        found: Its `image` is the name of the frame's files.
        width_px, height_px: Of the frame; picture and mask are written in this size, so that what
            people draw on them is in pixels of the frame.
        photo_jpeg: The frame, shrunk; None where no picture is stored.
        frame: The whole frame as the camera sent it; None where it was not kept.
    """

    found: LabelFound
    category: str
    width_px: int
    height_px: int
    photo_jpeg: bytes | None
    frame: ImageFile | None = None


def mask_of(picture: LabelledPicture) -> Mask | None:
    """The mask in the size of the frame."""
    if picture.found.mask_png is None:
        return None
    return resized(decode_mask(picture.found.mask_png), picture.width_px, picture.height_px)


def mask_png(picture: LabelledPicture, mask: Mask | None) -> bytes:
    """A mask as PNG; all black for None."""
    empty = np.zeros((picture.height_px, picture.width_px), dtype=np.bool_)
    return encode_mask(empty if mask is None else mask)


def image_of(picture: LabelledPicture) -> ImageFile | None:
    """The whole frame, else the photo in its size as JPEG; None where nothing can be shown."""
    if picture.frame is not None:
        return picture.frame
    if picture.photo_jpeg is None:
        return None
    shown = cv2.imdecode(np.frombuffer(picture.photo_jpeg, np.uint8), cv2.IMREAD_COLOR)
    if shown is None:
        return None
    size = (picture.width_px, picture.height_px)
    if (shown.shape[1], shown.shape[0]) == size:
        return ImageFile("jpg", picture.photo_jpeg)
    enlarged = cv2.resize(shown, size, interpolation=cv2.INTER_LINEAR)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return ImageFile("jpg", cv2.imencode(".jpg", enlarged, quality)[1].tobytes())


def image_name(picture: LabelledPicture, image: ImageFile | None) -> str:
    """The name of the image's file, which is also the frame's where there is no image."""
    return f"{picture.found.image}.{'jpg' if image is None else image.suffix}"


def write_image(folder: Path, picture: LabelledPicture) -> str:
    """Write the image of a frame if there is one; its name.

    Raises:
        DataError: The file cannot be written.
    """
    image = image_of(picture)
    name = image_name(picture, image)
    if image is not None:
        write_file(folder / name, image.data)
    return name
