"""Verdicts, thresholds and batching: the pure part of inspection."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.categories import CategoryConfig
from daemon.core import Calibration, Verdict
from daemon.inspection.calibration import (
    calibrate,
    caught_share,
    frames_needed,
    promise,
    with_review_that_catches,
)
from daemon.inspection.decision import decide, normalised_score

NOW = datetime(2026, 1, 31, tzinfo=UTC)
SCORES = st.floats(0, 1)


def calibration(review: float = 0.4, ng: float = 0.6) -> Calibration:
    return Calibration("tile", "m1", review, ng, 0.5, 100, 0.05, 0.01, True, "test", NOW)


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        (0.0, Verdict.OK),
        (0.39, Verdict.OK),
        (0.4, Verdict.REVIEW),
        (0.59, Verdict.REVIEW),
        (0.6, Verdict.NG),
        (1.0, Verdict.NG),
    ],
)
def test_thresholds_belong_to_the_stricter_verdict(score: float, verdict: Verdict) -> None:
    assert decide(score, calibration()) is verdict


@given(score=SCORES)
def test_without_calibration_nothing_is_ok_or_ng(score: float) -> None:
    assert decide(score, None) is Verdict.LEARNING


@pytest.mark.parametrize("score", [math.nan, -0.01, 1.01, math.inf])
def test_a_score_that_is_no_score_has_no_verdict(score: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        decide(score, calibration())


@given(score=SCORES, ng=st.floats(0.01, 1))
def test_normalised_score_is_half_at_the_threshold_and_keeps_order(score: float, ng: float) -> None:
    thresholds = calibration(review=0.0, ng=ng)

    shown = normalised_score(score, thresholds)

    assert 0.0 <= shown <= 1.0
    assert (shown >= 0.5) == (score >= ng)
    assert normalised_score(ng, thresholds) == 0.5


def run_calibrate(
    scores: list[float], review: float = 0.1, ng: float = 0.05, confidence: float | None = None
) -> Calibration:
    return calibrate(
        category="tile",
        policy=CategoryConfig(
            class_name="floor tile", review_rate=review, ng_rate=ng, confidence=confidence
        ),
        model_version="m1",
        scores=scores,
        map_peaks=scores,
        source="test",
        now=NOW,
    )


@given(scores=st.lists(SCORES, min_size=10, max_size=200), rate=st.floats(0.01, 0.5))
def test_no_more_ok_frames_than_allowed_reach_a_threshold(scores: list[float], rate: float) -> None:
    made = run_calibrate(scores, review=rate, ng=rate)

    reached = sum(decide(score, made) is Verdict.NG for score in scores)

    assert reached <= rate * (len(scores) + 1)


def test_false_reject_rate_on_new_frames_holds_on_average() -> None:
    rng = np.random.default_rng(7)
    rates = []
    for _ in range(300):
        made = run_calibrate(list(rng.beta(2, 5, 60)), ng=0.05)
        rates.append(np.mean(rng.beta(2, 5, 1000) >= made.ng_threshold))

    assert 0.02 < np.mean(rates) < 0.055


def test_too_few_frames_for_the_rate_are_admitted() -> None:
    assert frames_needed(0.01) == 99
    assert not run_calibrate([0.1] * 98, ng=0.01).is_supported
    assert run_calibrate([0.1] * 99, ng=0.01).is_supported


def test_with_too_few_frames_the_threshold_lies_just_above_the_largest_score() -> None:
    made = run_calibrate([0.1, 0.2, 0.3] * 4, ng=0.001)

    assert decide(0.3, made) is not Verdict.NG
    assert decide(0.3001, made) is Verdict.NG


@pytest.mark.parametrize(
    ("scores", "message"),
    [([0.1] * 9, "9 OK frames"), ([0.1] * 10 + [math.nan], "nan"), ([0.1] * 10 + [1.2], "1.2")],
)
def test_calibration_refuses_what_is_no_evidence(scores: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_calibrate(scores)


def test_with_confidence_the_rate_holds_in_that_share_of_calibrations() -> None:
    rng = np.random.default_rng(11)
    kept = []
    for _ in range(400):
        scores = rng.random(500).tolist()
        made = run_calibrate(scores, review=0.05, ng=0.02, confidence=0.9)
        kept.append(1 - made.ng_threshold <= 0.02)  # the true false-reject rate of U(0, 1)

    assert 0.87 < np.mean(kept) < 0.99


def test_with_confidence_too_few_frames_are_admitted_and_the_threshold_is_the_largest() -> None:
    scores = [index / 1000 for index in range(298)]

    made = run_calibrate(scores, ng=0.01, confidence=0.95)

    assert frames_needed(0.01, 0.95) == 299
    assert not made.is_supported
    assert decide(max(scores), made) is not Verdict.NG
    assert run_calibrate([*scores, 0.5], ng=0.01, confidence=0.95).is_supported


def test_a_promise_is_said_in_the_unit_that_fits() -> None:
    assert promise(0.01, None) == "at most 0.01 on average"
    assert promise(0.0001, 0.95) == "at most 100 ppm with 95 % confidence"


@pytest.mark.parametrize("between", [Verdict.REVIEW, Verdict.NG, Verdict.OK])
def test_the_verdict_between_the_thresholds_is_the_configured_one(between: Verdict) -> None:
    found = [decide(score, calibration(), between=between) for score in (0.39, 0.5, 0.6)]

    assert found == [Verdict.OK, between, Verdict.NG]


@given(ng_scores=st.lists(SCORES, min_size=1, max_size=50), share=st.floats(0.01, 1))
def test_review_is_lowered_just_enough_to_catch_the_wanted_share(
    ng_scores: list[float], share: float
) -> None:
    ok_scores = [index / 400 for index in range(200)]
    made = run_calibrate(ok_scores)

    lowered = with_review_that_catches(made, ok_scores, ng_scores, share)

    assert caught_share(ng_scores, lowered.review_threshold) >= share - 1e-9
    assert lowered.review_threshold <= made.review_threshold
    assert lowered.ng_threshold == made.ng_threshold
    assert lowered.review_rank == sum(score < lowered.review_threshold for score in ok_scores)
