"""How long stages take: from a histogram's buckets to the status that an operator reads."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from daemon.cli.status_tables import status_tables
from daemon.health import Health
from daemon.histogram import Histogram

BOUNDS = (0.001, 0.01, 0.1, 1.0, 10.0)


@given(
    values=st.lists(st.floats(0, 10), min_size=1, max_size=60),
    share=st.floats(0.01, 1),
)
def test_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)

    found = histogram.counted().quantile(share)

    true = float(np.quantile(values, share, method="inverted_cdf"))
    bucket = int(np.searchsorted(BOUNDS, true))
    assert found is not None
    assert (0.0, *BOUNDS)[bucket] <= found <= BOUNDS[bucket]


def test_quantile_of_nothing_is_none_and_beyond_all_bounds_is_the_last() -> None:
    histogram = Histogram(BOUNDS)
    assert histogram.counted().quantile(0.5) is None

    histogram.observe(99.0)

    assert histogram.counted().quantile(0.5) == 10.0


def test_status_shows_the_stages_that_frames_went_through() -> None:
    health = Health(
        line="L1", cameras=["cam1"], categories=["fabric"], database="", queue_limit=64,
        clock=lambda: 100.0,
    )  # fmt: skip
    for _ in range(10):
        health.observe_stage("infer", 0.2)
    health.observe_stage("store", 0.002)
    console = Console(width=120)

    status = health.snapshot(101.0, datetime.now(UTC))
    with console.capture() as printed:
        console.print(status_tables(status))

    assert list(status.stages) == ["infer", "store"]
    assert status.stages["infer"].p50_s == pytest.approx(0.175)
    shown = printed.get()
    assert "stages p50/p99 ms" in shown
    assert "infer 175/24" in shown
    assert ", store 2/2" in shown
