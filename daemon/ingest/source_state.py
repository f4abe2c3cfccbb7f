"""Whether a source is alive, from what was heard of it. Pure: no clock, no socket."""

from typing import Literal, assert_never

from daemon.status import SourceState

SourceEvent = Literal["message", "silence", "stop"]


def next_source_state(state: SourceState, event: SourceEvent) -> SourceState:
    """The state after an event; every event is legal in every state.

    Args:
        event: `message` when anything came, `silence` when nothing has for too long, `stop` when
            the socket was closed, for good.
    """
    match state, event:
        case (SourceState.STOPPED, _) | (_, "stop"):
            return SourceState.STOPPED
        case (_, "message"):
            return SourceState.FRESH
        case (SourceState.CONNECTING, "silence"):
            return SourceState.CONNECTING  # never heard of: it may not have been started yet
        case ((SourceState.FRESH | SourceState.STALE), "silence"):
            return SourceState.STALE
        case _:
            assert_never(event)
