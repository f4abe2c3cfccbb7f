"""An image and its facts to the header and payload of a version 1 frame. Opens no socket."""

import json
import time
from dataclasses import dataclass
from typing import Literal, TypedDict

import cv2
import numpy as np

from daemon.ingest.pixels import Pixels, shape_problem, to_encodable
from daemon.ingest.wire import (
    MAX_EPOCH,
    MAX_HEADER_BYTES,
    MAX_ID_CHARS,
    MAX_NAME_CHARS,
    VERSION,
    Encoding,
    PixelFormat,
)


class FrameFacts(TypedDict, total=False):
    """What a camera program may say of one frame; all of it may be left out.

    Attributes:
        category: Product category; by default the publisher's.
        captured_ns: Capture time, Unix nanoseconds; now by default.
    """

    category: str | None
    captured_ns: int | None
    part_id: str | None
    lot: str | None
    trigger_id: str | None


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A payload, and the header fields that describe it."""

    description: dict[str, object]
    payload: bytes


class Composer:
    """Makes the frames of one camera; keeps senders within the bounds of receivers."""

    def __init__(
        self,
        camera: str,
        *,
        line: str,
        category: str | None,
        encoding: Encoding,
        jpeg_quality: int,
        epoch: int,
    ) -> None:
        """See FramePublisher.

        Raises:
            ValueError: A name or the epoch is out of bounds.
        """
        _check_text("line", line, MAX_NAME_CHARS)
        _check_text("camera", camera, MAX_NAME_CHARS)
        _check_text("category", category, MAX_NAME_CHARS)
        if not 0 <= epoch <= MAX_EPOCH:
            raise ValueError(f"epoch {epoch} is not in 0..{MAX_EPOCH}")
        self.topic = f"{line}/{camera}".encode()
        self._camera = camera
        self._category = category
        self._encoding: Encoding = encoding
        self._jpeg_quality = jpeg_quality
        self._epoch = epoch

    def encode(self, image: Pixels, pixel_format: PixelFormat) -> EncodedImage:
        """Encode one image; the result shares no memory with it.

        Raises:
            ValueError: The image does not fit the pixel format.
        """
        if image.dtype != np.uint8:
            raise ValueError(f"dtype {image.dtype} is not supported; convert to uint8")
        if problem := shape_problem(image.shape, pixel_format):
            raise ValueError(problem)
        if self._encoding == "raw":
            return EncodedImage(
                {
                    "encoding": "raw",
                    "dtype": "uint8",
                    "shape": list(image.shape),
                    "pixel_format": pixel_format,
                },
                np.ascontiguousarray(image).tobytes(),
            )
        return EncodedImage(
            {"encoding": self._encoding}, self._compress(to_encodable(image, pixel_format))
        )

    def header(self, seq: int, description: dict[str, object], facts: FrameFacts) -> bytes:
        """The header of one frame.

        Raises:
            ValueError: A text is out of its bound.
        """
        category = facts.get("category")
        _check_text("category", category, MAX_NAME_CHARS)
        ids = {
            "part_id": facts.get("part_id"),
            "lot": facts.get("lot"),
            "trigger_id": facts.get("trigger_id"),
        }
        for name, value in ids.items():
            _check_text(name, value, MAX_ID_CHARS)
        captured_ns = facts.get("captured_ns")
        fields: dict[str, object | None] = {
            "v": VERSION,
            "camera": self._camera,
            "epoch": self._epoch,
            "seq": seq,
            "ts_ns": time.time_ns() if captured_ns is None else captured_ns,
            "category": category or self._category,
            **description,
            **ids,
        }
        header = json.dumps({name: value for name, value in fields.items() if value is not None})
        if len(header) > MAX_HEADER_BYTES:
            raise ValueError(f"header has {len(header)} bytes, limit {MAX_HEADER_BYTES}")
        return header.encode()

    def beat(self, last_seq: int) -> list[bytes]:
        """A message that says which number was the last, so that a lost tail is seen."""
        header = {
            "v": VERSION,
            "kind": "beat",
            "camera": self._camera,
            "epoch": self._epoch,
            "last": last_seq,
        }
        return [self.topic, json.dumps(header).encode(), b""]

    def _compress(self, image: Pixels) -> bytes:
        if self._encoding == "jpeg":
            options = [cv2.IMWRITE_JPEG_QUALITY, self._jpeg_quality]
            is_encoded, encoded = cv2.imencode(".jpg", image, options)
        else:
            is_encoded, encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not is_encoded:
            raise ValueError(f"image of shape {image.shape} cannot be encoded as {self._encoding}")
        return encoded.tobytes()


FileEncoding = Literal["jpeg", "png"]


def _check_text(name: str, value: str | None, max_chars: int) -> None:
    """The bounds that receivers hold senders to; better refused here than there."""
    if value is None:
        return
    if not 1 <= len(value) <= max_chars or not value.isprintable():
        raise ValueError(f"{name} {value[:80]!r} must have 1 to {max_chars} printable characters")
