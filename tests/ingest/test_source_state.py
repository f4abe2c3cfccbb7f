import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.ingest.source_state import SourceEvent, next_source_state
from daemon.status import SourceState

EVENTS: list[SourceEvent] = ["message", "silence", "stop"]


@pytest.mark.parametrize(
    ("before", "event", "after"),
    [
        ("connecting", "message", "fresh"),
        ("connecting", "silence", "connecting"),
        ("fresh", "message", "fresh"),
        ("fresh", "silence", "stale"),
        ("stale", "message", "fresh"),
        ("stale", "silence", "stale"),
    ],
)
def test_a_source_is_what_was_heard_of_it(before: str, event: SourceEvent, after: str) -> None:
    assert next_source_state(SourceState(before), event) == after


@pytest.mark.parametrize("state", list(SourceState))
def test_stop_is_legal_in_every_state(state: SourceState) -> None:
    assert next_source_state(state, "stop") is SourceState.STOPPED


@given(events=st.lists(st.sampled_from(EVENTS)))
def test_a_stopped_source_stays_stopped(events: list[SourceEvent]) -> None:
    state = SourceState.STOPPED

    for event in events:
        state = next_source_state(state, event)

    assert state is SourceState.STOPPED
