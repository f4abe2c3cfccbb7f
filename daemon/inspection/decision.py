"""From score and calibration to a verdict: the one rule that daemon, commands and tests share."""

import math

from daemon.core import Calibration, Verdict


def decide(
    pred_score: float, calibration: Calibration | None, *, between: Verdict = Verdict.REVIEW
) -> Verdict:
    """The verdict for one inspected frame.

    Args:
        pred_score: Raw image score in [0, 1].
        calibration: Thresholds in force for its category and model version; None while the
            category is not calibrated.
        between: The verdict between the two thresholds.

    Raises:
        ValueError: the score is not a number in [0, 1]; such a frame has no verdict.
    """
    if not 0.0 <= pred_score <= 1.0:  # NaN fails this too
        raise ValueError(f"score {pred_score} is not in [0, 1]")
    if calibration is None:
        return Verdict.LEARNING
    if pred_score >= calibration.ng_threshold:
        return Verdict.NG
    if pred_score >= calibration.review_threshold:
        return between
    return Verdict.OK


def normalised_score(pred_score: float, calibration: Calibration) -> float:
    """Score for people: in [0, 1], 0.5 exactly at the NG threshold, linear on either side."""
    threshold = calibration.ng_threshold
    if pred_score < threshold:
        return 0.5 * pred_score / threshold
    span = 1.0 - threshold
    excess = pred_score - threshold
    return 0.5 + 0.5 * excess / span if span > 0 and math.isfinite(excess) else 0.5
