"""The small pictures stored with an inspection."""

import cv2
import numpy as np
from numpy.typing import NDArray

from daemon.core import Image, ScoreMap, Thumbnails
from zsad.heatmap import heat_overlay

JPEG_QUALITY = 80
"""Photo and overlay; 8 to 10 kB at 256 px. The map is PNG: JPEG would smear it."""
HOTTEST = 1.25
"""The hottest colour stands for this multiple of the map threshold: regions come out red."""


def draw_thumbnails(
    image: Image, anomaly_map: ScoreMap, *, map_threshold: float | None, longer_side_px: int
) -> Thumbnails:
    """Shrink the frame and its map to `longer_side_px` and encode both, alone and blended.

    Args:
        map_threshold: In force for the frame; None while learning, when colours span [0, 1].
    """
    height, width = image.shape[:2]
    scale = min(1.0, longer_side_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    photo = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small_map = cv2.resize(anomaly_map, size, interpolation=cv2.INTER_LINEAR)
    grey = np.clip(small_map * 255.0 + 0.5, 0, 255).astype(np.uint8)
    # The median is the surface itself: it stays cold even where its level is far from 0.
    low = 0.0 if map_threshold is None else min(float(np.median(small_map)), map_threshold)
    high = 1.0 if map_threshold is None else HOTTEST * map_threshold
    overlay = heat_overlay(np.asarray(photo), np.asarray(small_map), low=low, high=high)
    return Thumbnails(
        photo_jpeg=_encode_jpeg(np.asarray(photo)),
        overlay_jpeg=_encode_jpeg(overlay),
        map_png=_encode_png(grey),
    )


def _encode_jpeg(image: Image) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return _bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]))


def _encode_png(grey: NDArray[np.uint8]) -> bytes:
    return _bytes(cv2.imencode(".png", grey))


def _bytes(encoded: "tuple[bool, NDArray[np.uint8]]") -> bytes:
    done, data = encoded
    if not done:
        raise RuntimeError("OpenCV could not encode a thumbnail")
    return data.tobytes()
