"""Exact distributions, against an independent implementation and against what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from daemon.inspection.exceedance import (
    allowed_exceedances,
    frames_for_confidence,
    probability_of_more,
)

RATES = st.sampled_from([0.0001, 0.001, 0.01, 0.05, 0.3])
CONFIDENCES = st.sampled_from([0.5, 0.9, 0.95, 0.999])


@given(n=st.integers(1, 2000), rate=RATES, confidence=CONFIDENCES)
@settings(max_examples=50, deadline=None)
def test_allowed_exceedances_are_the_largest_that_the_binomial_allows(
    n: int, rate: float, confidence: float
) -> None:
    tail = binom.cdf(np.arange(n), n, rate)
    allowed = np.flatnonzero(tail <= 1 - confidence)

    found = allowed_exceedances(n, rate, confidence)

    assert found == (int(allowed[-1]) if len(allowed) else None)


@pytest.mark.parametrize(
    ("rate", "confidence", "frames"), [(0.01, 0.95, 299), (0.001, 0.95, 2995), (0.01, 0.9, 230)]
)
def test_frames_needed_are_those_of_the_tables_of_tolerance_limits(
    rate: float, confidence: float, frames: int
) -> None:
    assert frames_for_confidence(rate, confidence) == frames


@given(rate=RATES, confidence=CONFIDENCES)
def test_one_frame_fewer_than_needed_is_too_few(rate: float, confidence: float) -> None:
    n = frames_for_confidence(rate, confidence)

    assert allowed_exceedances(n, rate, confidence) == 0
    assert allowed_exceedances(n - 1, rate, confidence) is None


@given(data=st.data(), n=st.integers(1, 500), window=st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_probability_of_more_is_the_beta_binomial_tail(
    data: st.DataObject, n: int, window: int
) -> None:
    rank, count = data.draw(st.integers(1, n)), data.draw(st.integers(0, window))

    expected = betabinom.sf(count - 1, window, n - rank + 1, rank)

    assert probability_of_more(count, window, rank, n) == pytest.approx(expected, abs=1e-8)
