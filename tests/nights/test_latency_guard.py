from hypothesis import given
from hypothesis import strategies as st

from daemon.latency_guard import LOOK_BACK, MIN_FRAMES, QUIET_FEEDS, LatencyGuard

BEFORE = [0.1] * 50


def test_training_waits_while_inspection_is_slow_and_then_goes_on() -> None:
    guard = LatencyGuard(BEFORE, max_ratio=1.5)

    assert not guard.feed([0.12] * MIN_FRAMES)
    assert guard.feed([0.4] * LOOK_BACK)
    assert guard.feed([0.4] * MIN_FRAMES)
    assert not guard.feed([0.11] * LOOK_BACK)
    assert guard.before_p99_s == 0.1
    assert guard.during_p99_s == 0.4


def test_too_few_frames_decide_nothing() -> None:
    guard = LatencyGuard(BEFORE, max_ratio=1.5)

    assert not guard.feed([9.0] * (MIN_FRAMES - 1))
    assert guard.during_p99_s is None


@given(st.lists(st.floats(0, 10)), st.lists(st.floats(0, 10), max_size=MIN_FRAMES - 1))
def test_without_a_past_training_never_waits(now: list[float], before: list[float]) -> None:
    assert not LatencyGuard(before, max_ratio=1.5).feed(now)


def test_a_line_that_stands_still_keeps_nobody_waiting() -> None:
    guard = LatencyGuard(BEFORE, max_ratio=1.5)
    assert guard.feed([1.0] * 30)

    waits = [guard.feed([]) for _ in range(QUIET_FEEDS)]

    assert waits == [True] * (QUIET_FEEDS - 1) + [False]
