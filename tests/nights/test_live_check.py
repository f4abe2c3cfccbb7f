"""A rate leaves its band when that is credible, and only then; what is no number is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from daemon.core import Verdict
from daemon.training.live_check import (
    Counts,
    Shadowed,
    at_least,
    at_most,
    compared,
    outside_band,
    reasons_to_reject,
)

RATES = {"fabric": 0.05}
counts = st.integers(0, 400).flatmap(
    lambda frames: st.integers(0, frames).flatmap(
        lambda ng: st.builds(Counts, st.just(frames), st.just(ng), st.integers(0, frames - ng))
    )
)


def band(before: Counts, after: Counts) -> list[str]:
    return outside_band({"fabric": before}, {"fabric": after}, RATES)


def test_three_ng_frames_prove_nothing() -> None:
    assert band(Counts(10_000, 0, 0), Counts(100, 3, 0)) == []


def test_a_doubled_ng_rate_leaves_the_band() -> None:
    (reason,) = band(Counts(10_000, 300, 0), Counts(3_000, 180, 0))

    assert "NG 6.00% (180 of 3000 frames), before 3.00%" in reason
    assert "1.25 times" in reason


def test_a_doubled_review_rate_leaves_the_band() -> None:
    (reason,) = band(Counts(10_000, 100, 500), Counts(3_000, 30, 300))

    assert "REVIEW 10.00%" in reason


def test_fewer_false_rejects_are_welcome() -> None:
    assert band(Counts(5_000, 1_500, 500), Counts(5_000, 50, 200)) == []


def test_a_model_that_flags_nothing_any_more_has_gone_blind() -> None:
    (reason,) = band(Counts(5_000, 50, 200), Counts(1_000, 0, 0))

    assert "begins at a third" in reason


def test_a_category_that_is_not_known_from_before_is_not_judged() -> None:
    assert band(Counts(20, 0, 0), Counts(1_000, 500, 0)) == []
    assert outside_band({}, {"fabric": Counts(1_000, 500, 0)}, RATES) == []


def test_one_frame_without_a_score_rejects_a_candidate() -> None:
    fine = Counts(500, 5, 20)

    (reason,) = reasons_to_reject({"fabric": Shadowed(fine, Counts(499, 5, 20), 1)}, RATES)
    assert "no number" in reason
    assert reasons_to_reject({"fabric": Shadowed(fine, fine, 0)}, RATES) == []


def test_frames_without_thresholds_are_not_counted() -> None:
    verdicts = {Verdict.OK: 5, Verdict.NG: 2, Verdict.REVIEW: 1, Verdict.LEARNING: 9}

    assert Counts.of(verdicts) == Counts(8, 2, 1)
    assert "NG 25.00%, REVIEW 12.50% of 8 frames" in compared({}, {"fabric": Counts.of(verdicts)})


@given(before=counts)
def test_a_line_that_stays_as_it_was_is_in_its_band(before: Counts) -> None:
    assert band(before, before) == []


@given(before=counts, after=counts, more=st.integers(1, 50))
def test_more_ng_never_brings_a_rate_back_into_its_band(
    before: Counts, after: Counts, more: int
) -> None:
    worse = Counts(after.frames + more, after.ng + more, after.review)

    if any("NG " in reason and "1.25" in reason for reason in band(before, after)):
        assert any("NG " in reason and "1.25" in reason for reason in band(before, worse))


@given(n=st.integers(1, 300), p=st.floats(0.001, 0.999), data=st.data())
def test_tails_agree_with_an_independent_implementation(
    n: int, p: float, data: st.DataObject
) -> None:
    k = data.draw(st.integers(0, n))

    assert at_least(k, n, p) == pytest.approx(float(binom.sf(k - 1, n, p)), rel=1e-6, abs=1e-12)
    assert at_most(k, n, p) == pytest.approx(float(binom.cdf(k, n, p)), rel=1e-6, abs=1e-12)


def test_tails_at_the_ends_are_numbers() -> None:
    assert at_least(0, 10, 0.0) == 1.0
    assert at_least(1, 10, 0.0) == 0.0
    assert at_most(3, 10, 1.0) == 0.0
    assert math.isfinite(at_least(25_000, 50_000, 0.4))
