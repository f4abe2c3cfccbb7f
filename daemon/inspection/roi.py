"""What the region of interest leaves of a score and a map; the same for calibration and line."""

from functools import lru_cache

import numpy as np

from daemon.config.recipe import RoiConfig
from zsad.anomaly_map import AnomalyMap

CACHED = 64
"""Masks kept: one a category and map size, of a few hundred kB."""


class RoiMasks:
    """Masks of the regions of interest, drawn once for each size of map."""

    def __init__(self) -> None:
        self._mask = lru_cache(CACHED)(RoiConfig.mask)

    def apply(
        self, roi: RoiConfig, score: float, anomaly_map: AnomalyMap
    ) -> tuple[float, AnomalyMap]:
        """Score and map as the category sees them.

        For the whole frame these are the detector's own. With a region of interest the map is 0
        outside of it, and the score is the highest map value inside: the detector's own score was
        pooled over the whole frame and cannot be taken apart.

        Raises:
            ValueError: the map is so coarse that the region of interest has no pixel of it.
        """
        if roi.is_whole_frame:
            return score, anomaly_map
        pixels = anomaly_map.here()
        height, width = pixels.shape
        mask = self._mask(roi, height, width)
        if not mask.any():
            raise ValueError(f"the region of interest has no pixel of a {width}x{height} map")
        inside = AnomalyMap.of(np.where(mask, pixels, np.float32(0.0)))
        return inside.peak, inside
