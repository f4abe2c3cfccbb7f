"""What the region of interest leaves of a score and a map; the same for calibration and line."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from daemon.config.recipe import RoiConfig
from daemon.core import ScoreMap

CACHED = 64
"""Masks kept: one a category and map size, of a few hundred kB."""


class RoiMasks:
    """Masks of the regions of interest, drawn once for each size of map."""

    def __init__(self) -> None:
        self._mask = lru_cache(CACHED)(RoiConfig.mask)

    def apply(
        self, roi: RoiConfig, score: float, anomaly_map: ScoreMap
    ) -> tuple[float, ScoreMap, NDArray[np.bool_] | None]:
        """Score, map and mask as the category sees them.

        For the whole frame these are the detector's own score and map, and no mask. With a region
        of interest the map is 0 outside of it, and the score is the highest map value inside:
        the detector's own score was pooled over the whole frame and cannot be taken apart.

        Raises:
            ValueError: the map is so coarse that the region of interest has no pixel of it.
        """
        if roi.is_whole_frame:
            return score, anomaly_map, None
        height, width = anomaly_map.shape
        mask = self._mask(roi, height, width)
        if not mask.any():
            raise ValueError(f"the region of interest has no pixel of a {width}x{height} map")
        inside = np.where(mask, anomaly_map, np.float32(0.0))
        return float(anomaly_map[mask].max()), inside, mask
