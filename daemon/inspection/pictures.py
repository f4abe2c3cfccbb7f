"""The small pictures stored with an inspection."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from daemon.config.recipe import RoiConfig
from daemon.core import Image, Inspection, ScoreMap, Thumbnails
from zsad.anomaly_map import AnomalyMap
from zsad.heatmap import heat_overlay

JPEG_QUALITY = 80
"""Photo and overlay; 8 to 10 kB at 256 px. The map is PNG: JPEG would smear it."""
HOTTEST = 1.25
"""The hottest colour stands for this multiple of the map threshold: regions come out red."""

INSIDE_RGB, IGNORED_RGB = (255, 255, 255), (128, 128, 128)
"""Outlines of `roi.include` and `roi.ignore` on the overlay."""


@dataclass(frozen=True, slots=True)
class Undrawn:
    """An inspection whose pictures are still to be drawn; keeps its frame in memory until then.

    Attributes:
        inspection: Without thumbnails.
        anomaly_map: 0 outside the region of interest.
    """

    inspection: Inspection
    image: Image
    anomaly_map: AnomalyMap
    longer_side_px: int
    roi: RoiConfig

    def drawn(self) -> Inspection:
        """The inspection with its pictures."""
        calibration = self.inspection.calibration
        thumbnails = draw_thumbnails(
            self.image,
            self.anomaly_map.here(),
            map_threshold=None if calibration is None else calibration.map_threshold,
            longer_side_px=self.longer_side_px,
            roi=self.roi,
        )
        return replace(self.inspection, thumbnails=thumbnails)


def draw_thumbnails(
    image: Image,
    anomaly_map: ScoreMap,
    *,
    map_threshold: float | None,
    longer_side_px: int,
    roi: RoiConfig,
) -> Thumbnails:
    """Shrink the frame and its map to `longer_side_px` and encode both, alone and blended.

    Args:
        anomaly_map: 0 outside the region of interest.
        map_threshold: In force for the frame; None while learning, when colours span [0, 1].
        roi: Outlined on the overlay.
    """
    height, width = image.shape[:2]
    scale = min(1.0, longer_side_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    photo = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small_map = cv2.resize(anomaly_map, size, interpolation=cv2.INTER_LINEAR)
    grey = np.clip(small_map * 255.0 + 0.5, 0, 255).astype(np.uint8)
    # The median is the surface itself: it stays cold even where its level is far from 0.
    surface = np.asarray(small_map, dtype=np.float32)
    if not roi.is_whole_frame:
        surface = surface[roi.mask(size[1], size[0])]
    low = 0.0 if map_threshold is None else min(_median(surface), map_threshold)
    high = 1.0 if map_threshold is None else HOTTEST * map_threshold
    overlay = heat_overlay(np.asarray(photo), np.asarray(small_map), low=low, high=high)
    return Thumbnails(
        photo_jpeg=_encode_jpeg(np.asarray(photo)),
        overlay_jpeg=_encode_jpeg(_outlined(overlay, roi)),
        map_png=_encode_png(grey),
    )


def _median(values: NDArray[np.float32]) -> float:
    return float(np.median(values)) if values.size else 0.0


def _outlined(overlay: Image, roi: RoiConfig) -> Image:
    height, width = overlay.shape[:2]
    for polygons, colour in ((roi.include, INSIDE_RGB), (roi.ignore, IGNORED_RGB)):
        for polygon in polygons:
            corners = np.array([[x * (width - 1), y * (height - 1)] for x, y in polygon])
            cv2.polylines(overlay, [corners.round().astype(np.int32)], isClosed=True, color=colour)
    return overlay


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
