"""Thresholds from the scores of OK frames. Pure; where the scores come from is the caller's affair.

Without `confidence` the thresholds are split-conformal quantiles: if the OK frames seen and the OK
frames to come are exchangeable, a new OK frame exceeds the k-th smallest of n scores,
k = ceil((n + 1)(1 - rate)), with probability at most `rate` (Vovk et al. 2005; Angelopoulos and
Bates 2021, arXiv 2107.07511, section 1). That is an average over calibrations: about half of them
let through a few more. With `confidence` C the share of OK frames above the threshold is at most
`rate` in a share C of all calibrations (`exceedance.allowed_exceedances`).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from daemon.config.categories import CategoryConfig
from daemon.core import Calibration
from daemon.inspection.exceedance import allowed_exceedances, frames_for_confidence

MIN_FRAMES = 10


def frames_needed(rate: float, confidence: float | None = None) -> int:
    """Smallest number of OK frames for which `rate` can be promised."""
    if confidence is not None:
        return frames_for_confidence(rate, confidence)
    return math.ceil(1.0 / rate) - 1


def promise(rate: float, confidence: float | None) -> str:
    """What a rate says, for people: `at most 100 ppm with 95 % confidence`."""
    share = f"{rate * 1e6:g} ppm" if rate < 0.001 else f"{rate:.4g}"
    how = "on average" if confidence is None else f"with {100 * confidence:g} % confidence"
    return f"at most {share} {how}"


def calibrate(
    *,
    category: str,
    policy: CategoryConfig,
    model_version: str,
    scores: Sequence[float],
    map_peaks: Sequence[float],
    source: str,
    now: datetime,
) -> Calibration:
    """Thresholds for one category from OK frames alone.

    Args:
        policy: Its rates, its confidence, and the recipe that the scores were made with.
        scores: Raw image scores of OK frames, in [0, 1].
        map_peaks: Highest map value of the same frames.
        source: Where the frames came from, for the audit trail.

    Raises:
        ValueError: fewer than MIN_FRAMES scores, or one outside [0, 1].
    """
    if len(scores) != len(map_peaks):
        raise ValueError(f"{len(scores)} scores but {len(map_peaks)} map peaks")
    needed = frames_needed(policy.ng_rate, policy.confidence)
    if len(scores) < MIN_FRAMES:
        raise ValueError(
            f"category {category!r}: {len(scores)} OK frames, at least {MIN_FRAMES} are needed "
            f"({needed} for ng_rate {policy.ng_rate})"
        )
    for value in (*scores, *map_peaks):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"category {category!r}: score {value} is not in [0, 1]")
    review_threshold = _threshold(scores, policy.review_rate, policy.confidence)
    return Calibration(
        category=category,
        model_version=model_version,
        review_threshold=review_threshold,
        ng_threshold=_threshold(scores, policy.ng_rate, policy.confidence),
        map_threshold=_threshold(map_peaks, policy.ng_rate, policy.confidence),
        n_frames=len(scores),
        review_rate=policy.review_rate,
        ng_rate=policy.ng_rate,
        is_supported=len(scores) >= needed,  # ng_rate is the smaller one
        source=source,
        created_utc=now,
        confidence=policy.confidence,
        recipe=policy.recipe,
        median_score=_median(scores),
        review_rank=sum(score < review_threshold for score in scores),
    )


def caught_share(ng_scores: Sequence[float], threshold: float) -> float:
    """Share of defective parts that score `threshold` or more."""
    return sum(score >= threshold for score in ng_scores) / len(ng_scores)


def with_review_that_catches(
    made: Calibration, ok_scores: Sequence[float], ng_scores: Sequence[float], share: float
) -> Calibration:
    """Lower the REVIEW threshold until at least `share` of the NG examples reach it.

    The NG threshold stays, and so does what was promised about it; about REVIEW it holds no more.
    """
    caught = math.ceil(share * len(ng_scores) - 1e-9)
    lowest_caught = sorted(ng_scores, reverse=True)[max(caught, 1) - 1]
    threshold = min(made.review_threshold, lowest_caught)
    if threshold == made.review_threshold:
        return made
    return replace(
        made,
        review_threshold=threshold,
        source=f"{made.source}, REVIEW lowered for {share:.0%} of {len(ng_scores)} NG examples",
        review_rank=sum(score < threshold for score in ok_scores),
    )


def _median(values: Sequence[float]) -> float:
    """The middle one, of an even number the lower."""
    return float(np.sort(np.asarray(values, dtype=np.float64))[(len(values) - 1) // 2])


def _threshold(values: Sequence[float], rate: float, confidence: float | None) -> float:
    """Smallest float above the quantile; with too few values, above the largest."""
    n = len(values)
    if confidence is None:
        rank = min(math.ceil((n + 1) * (1.0 - rate)), n)
    else:
        rank = n - (allowed_exceedances(n, rate, confidence) or 0)
    return float(np.nextafter(np.sort(np.asarray(values, dtype=np.float64))[rank - 1], np.inf))
