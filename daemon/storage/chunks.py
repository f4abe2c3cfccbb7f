"""Upkeep a chunk at a time: the writer's thread does one between two batches."""

from collections.abc import Callable, Iterator, Sequence

from daemon.core import Event

Work = Iterator[Event | None]
"""A chunk is done for each item; an event is what the diary should say of it."""


class Chunks:
    """Takes up work when it is due and does a chunk of it at each call.

    Args:
        due: Asked while there is no work; None if nothing is due yet. It sees to it that work
            is due again only at its next time.
        first: Work to begin with.
    """

    def __init__(self, due: Callable[[], Work | None], *, first: Work | None = None) -> None:
        self._due = due
        self._work = first

    def step(self) -> Sequence[Event]:
        """One chunk, if there is work; what the diary should say.

        Raises:
            DBAPIError: The database refused; the rest of the work waits for its next time.
        """
        work = self._due() if self._work is None else self._work
        self._work = None  # given up, should it raise
        if work is None:
            return ()
        for event in work:
            self._work = work
            return () if event is None else (event,)
        return ()
