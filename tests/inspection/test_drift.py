"""Drift of OK scores: silent on an unchanged line, one event when it changes, one when it ends."""

from datetime import UTC, datetime

import numpy as np
import pytest

from daemon.config.categories import CategoryConfig
from daemon.core import Calibration
from daemon.inspection.calibration import calibrate
from daemon.inspection.drift import WINDOW, DriftWatch

RNG = np.random.default_rng


def calibration(n: int, seed: int = 0, **policy: float) -> Calibration:
    scores = RNG(seed).beta(2, 8, n).tolist()
    return calibrate(
        category="tile",
        policy=CategoryConfig(class_name="tile", **policy),
        model_version="m1",
        scores=scores,
        map_peaks=scores,
        source="test",
        now=datetime(2026, 1, 31, tzinfo=UTC),
    )


def changes(watch: DriftWatch, made: Calibration, scores: np.ndarray) -> list[bool]:
    found = [watch.observe(made, float(score)) for score in scores]
    return [change.has_drifted for change in found if change is not None]


@pytest.mark.parametrize("n", [20, 100, 1000])
def test_an_unchanged_line_raises_no_event(n: int) -> None:
    watch = DriftWatch()

    found = [
        change
        for seed in range(10)
        for change in changes(watch, calibration(n, seed), RNG(99 + seed).beta(2, 8, 5 * WINDOW))
    ]

    assert found == []


@pytest.mark.parametrize("shift", [0.08, -0.08])
def test_a_shift_is_one_event_and_its_end_another(shift: float) -> None:
    watch, made, rng = DriftWatch(), calibration(1000), RNG(5)
    before, after = rng.beta(2, 8, 2 * WINDOW), rng.beta(2, 8, 2 * WINDOW)
    drifted = np.clip(rng.beta(2, 8, 4 * WINDOW) + shift, 0, 1)

    found = changes(watch, made, np.concatenate([before, drifted, after]))

    assert found == [True, False]


def test_more_reviews_are_an_event_although_the_median_stays() -> None:
    watch, made, rng = DriftWatch(), calibration(1000), RNG(6)
    scores = rng.beta(2, 8, 2 * WINDOW)
    between = (made.review_threshold + made.ng_threshold) / 2
    scores[::4] = between

    assert changes(watch, made, scores) == [True]


def test_ng_frames_and_a_new_calibration_do_not_count() -> None:
    watch, made = DriftWatch(), calibration(1000)

    assert changes(watch, made, np.full(3 * WINDOW, 0.99)) == []
    assert changes(watch, made, np.full(WINDOW - 1, made.review_threshold)) == []
    assert changes(watch, calibration(1000, 1), np.full(WINDOW - 1, 0.3)) == []
