"""Defect regions: connected components of the map over a threshold, in pixels of the frame."""

import cv2
import numpy as np

from daemon.core import Region, ScoreMap

MAX_REGIONS = 64
"""A noisy map can break into thousands; the highest peaks tell the story."""


def find_regions(
    anomaly_map: ScoreMap,
    *,
    threshold: float,
    frame_height_px: int,
    frame_width_px: int,
    min_area_px: int,
) -> tuple[Region, ...]:
    """8-connected components of `anomaly_map >= threshold`, highest peak first.

    Args:
        anomaly_map: [H, W] in [0, 1] over the whole frame at any resolution.
        threshold: Map value from which a pixel belongs to a region.
        min_area_px: Components of a smaller area, in frame pixels, are left out.

    Returns:
        At most MAX_REGIONS regions, boxes and areas scaled to the frame.
    """
    mask = (anomaly_map >= threshold).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count == 1:
        return ()
    scale_y = frame_height_px / anomaly_map.shape[0]
    scale_x = frame_width_px / anomaly_map.shape[1]
    regions = []
    for label in range(1, count):  # 0 is the background
        left, top, width, height, area = (int(value) for value in stats[label])
        area_px = round(area * scale_x * scale_y)
        if area_px < min_area_px:
            continue
        x_px, y_px = int(left * scale_x), int(top * scale_y)
        regions.append(
            Region(
                x_px=x_px,
                y_px=y_px,
                width_px=max(1, min(round(width * scale_x), frame_width_px - x_px)),
                height_px=max(1, min(round(height * scale_y), frame_height_px - y_px)),
                area_px=max(1, area_px),
                peak=float(
                    anomaly_map[top : top + height, left : left + width][
                        labels[top : top + height, left : left + width] == label
                    ].max()
                ),
            )
        )
    regions.sort(key=lambda region: (-region.peak, region.y_px, region.x_px))
    return tuple(regions[:MAX_REGIONS])
