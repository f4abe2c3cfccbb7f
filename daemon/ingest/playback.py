"""Image files, folders and videos as a sequence of pictures. Knows no socket and no rate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from daemon.ingest.pixels import Pixels

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".mjpeg", ".mjpg"})

FileEncoding = Literal["jpeg", "png"]
_ENCODINGS: dict[str, FileEncoding] = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to send.

    Attributes:
        image: BGR uint8 [H, W, 3].
        file_bytes: The file as it is, and in which encoding; None for videos and other formats.
        name: Of the image file, without its suffix; None for videos.
    """

    image: Pixels
    file_bytes: bytes | None = None
    file_encoding: FileEncoding | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that gives no picture."""

    path: Path
    reason: str


def find_media(paths: Sequence[Path]) -> list[Path]:
    """Image and video files; folders are searched to any depth, in name order.

    Raises:
        FileNotFoundError: A path does not exist.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if _is_media(file))
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist")
    return found


def pictures_of(path: Path) -> Iterator[Picture | Unreadable]:
    """All pictures of one file."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        yield from _video_frames(path)
    else:
        yield _read_image(path)


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and path.is_file()


def _read_image(path: Path) -> Picture | Unreadable:
    try:
        data = path.read_bytes()
    except OSError as error:
        return Unreadable(path, str(error.strerror))
    if not data:
        return Unreadable(path, "the file is empty")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        return Unreadable(path, error.err)
    if image is None:
        return Unreadable(path, "not an image that OpenCV can decode")
    encoding = _ENCODINGS.get(path.suffix.lower())
    return Picture(
        np.asarray(image, dtype=np.uint8),
        None if encoding is None else data,
        encoding,
        path.stem,
    )


def _video_frames(path: Path) -> Iterator[Picture | Unreadable]:
    capture = cv2.VideoCapture(str(path))
    try:
        is_read, image = capture.read()
        if not is_read:
            yield Unreadable(path, "not a video that OpenCV can decode")
        while is_read:
            yield Picture(np.asarray(image, dtype=np.uint8))
            is_read, image = capture.read()
    finally:
        capture.release()
