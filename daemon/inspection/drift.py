"""Whether OK parts still score as they did at calibration. Pure: no clock, no thread.

Per category, windows of WINDOW frames that are not NG are compared with the OK frames of the
calibration: how many lie above its median, and how many reach its REVIEW threshold. Both counts
have exact distributions if nothing has changed (`exceedance.probability_of_more`), whatever the
distribution of the scores is and however few frames the calibration had.
"""

from dataclasses import dataclass, field

from daemon.core import Calibration
from daemon.inspection.exceedance import probability_of_more

WINDOW = 200
ALARM_BELOW = 1e-6
"""Three tests a window: one false alarm in about 300,000 windows of an unchanged line."""
SETTLED_FROM = 0.01
"""A window whose every test is this plausible ends the drift."""


@dataclass(frozen=True, slots=True)
class DriftChange:
    """A drift began or ended.

    Attributes:
        detail: One sentence with the counts, and what was expected.
    """

    has_drifted: bool
    detail: str


@dataclass(slots=True)
class _Watch:
    calibration: Calibration
    scores: list[float] = field(default_factory=list)
    has_drifted: bool = False


class DriftWatch:
    """The current window of each category; memory is WINDOW scores a category."""

    def __init__(self) -> None:
        self._watches: dict[str, _Watch] = {}

    def observe(self, calibration: Calibration, score: float) -> DriftChange | None:
        """Note one judged frame; a change once its window is full and shows one.

        NG frames are left out: they are not OK parts. A new calibration begins a new watch.
        """
        if calibration.median_score is None or not calibration.review_rank:
            return None  # made before there were these figures
        watch = self._watches.get(calibration.category)
        if watch is None or watch.calibration != calibration:
            watch = self._watches[calibration.category] = _Watch(calibration)
        if score >= calibration.ng_threshold:
            return None
        watch.scores.append(score)
        if len(watch.scores) < WINDOW:
            return None
        window, watch.scores = watch.scores, []
        least_plausible, detail = _compare(calibration, window)
        if not watch.has_drifted and least_plausible < ALARM_BELOW:
            watch.has_drifted = True
            return DriftChange(has_drifted=True, detail=detail)
        if watch.has_drifted and least_plausible >= SETTLED_FROM:
            watch.has_drifted = False
            return DriftChange(has_drifted=False, detail=detail)
        return None


def _compare(calibration: Calibration, window: list[float]) -> tuple[float, str]:
    """How plausible the least plausible count is, and both counts in words."""
    assert calibration.median_score is not None  # noqa: S101 - seen to by `observe`
    assert calibration.review_rank is not None  # noqa: S101
    n, size = calibration.n_frames, len(window)
    above = sum(score > calibration.median_score for score in window)
    at_or_below = sum(score <= calibration.median_score for score in window)
    reviews = sum(score >= calibration.review_threshold for score in window)
    rank = (n + 1) // 2
    least_plausible = min(
        probability_of_more(above, size, rank, n),
        # fewer above is more at or below: the same question seen from the other end
        probability_of_more(at_or_below, size, n - rank + 1, n),
        probability_of_more(reviews, size, calibration.review_rank, n),
    )
    expected = size * (n - calibration.review_rank + 1) / (n + 1)
    detail = (
        f"of the last {size} frames that are not NG, {above} score above the calibration's median "
        f"{calibration.median_score:.4f} (expected {size / 2:.0f}) and {reviews} reach REVIEW "
        f"(expected {expected:.0f})"
    )
    return least_plausible, detail
