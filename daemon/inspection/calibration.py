"""Thresholds from the scores of OK frames. Pure; where the scores come from is the caller's affair.

The thresholds are split-conformal quantiles: if the OK frames seen and the OK frames to come are
exchangeable, a new OK frame exceeds the k-th smallest of n scores, k = ceil((n + 1)(1 - rate)),
with probability at most `rate` (Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv 2107.07511,
section 1).
"""

import math
from collections.abc import Sequence
from datetime import datetime

import numpy as np

from daemon.core import Calibration

MIN_FRAMES = 10


def frames_needed(rate: float) -> int:
    """Smallest number of OK frames for which `rate` can be promised."""
    return math.ceil(1.0 / rate) - 1


def calibrate(
    *,
    category: str,
    model_version: str,
    scores: Sequence[float],
    map_peaks: Sequence[float],
    review_rate: float,
    ng_rate: float,
    source: str,
    now: datetime,
) -> Calibration:
    """Thresholds for one category from OK frames alone.

    Args:
        scores: Raw image scores of OK frames, in [0, 1].
        map_peaks: Highest map value of the same frames.
        review_rate: Share of OK frames that may score REVIEW or NG.
        ng_rate: Share of OK frames that may score NG, at most `review_rate`.
        source: Where the frames came from, for the audit trail.

    Raises:
        ValueError: fewer than MIN_FRAMES scores, or one outside [0, 1].
    """
    if len(scores) != len(map_peaks):
        raise ValueError(f"{len(scores)} scores but {len(map_peaks)} map peaks")
    if len(scores) < MIN_FRAMES:
        raise ValueError(
            f"category {category!r}: {len(scores)} OK frames, at least {MIN_FRAMES} are needed "
            f"({frames_needed(ng_rate)} for ng_rate {ng_rate})"
        )
    for value in (*scores, *map_peaks):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"category {category!r}: score {value} is not in [0, 1]")
    return Calibration(
        category=category,
        model_version=model_version,
        review_threshold=_threshold(scores, review_rate),
        ng_threshold=_threshold(scores, ng_rate),
        map_threshold=_threshold(map_peaks, ng_rate),
        n_frames=len(scores),
        review_rate=review_rate,
        ng_rate=ng_rate,
        is_supported=len(scores) >= frames_needed(min(ng_rate, review_rate)),
        source=source,
        created_utc=now,
    )


def _threshold(values: Sequence[float], rate: float) -> float:
    """Smallest float above the conformal quantile; with too few values, above the largest."""
    rank = min(math.ceil((len(values) + 1) * (1.0 - rate)), len(values))
    return float(np.nextafter(np.sort(np.asarray(values, dtype=np.float64))[rank - 1], np.inf))
