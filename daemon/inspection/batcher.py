"""Groups frames into batches by size and deadline. Pure: the clock is an argument."""

from collections import deque

from daemon.core import Frame


class Batcher:
    """A batch leaves when it is full, or when its oldest frame has waited `max_wait_s`.

    Waiting is counted from the frame's receipt, so a backlog leaves at once.
    """

    def __init__(self, *, max_size: int, max_wait_s: float) -> None:
        self._max_size = max_size
        self._max_wait_s = max_wait_s
        self._waiting: deque[Frame] = deque()

    def add(self, frame: Frame) -> None:
        """Append a frame; order is kept."""
        self._waiting.append(frame)

    def is_full(self) -> bool:
        """Whether a full batch waits."""
        return len(self._waiting) >= self._max_size

    def due_at(self) -> float | None:
        """Monotonic second at which the next batch is due; None while nothing waits."""
        if not self._waiting:
            return None
        oldest = min(frame.info.received_at for frame in self._waiting)  # priorities reorder
        return oldest + self._max_wait_s

    def take(self, *, now: float) -> list[Frame]:
        """The batch that is due at `now`, at most `max_size` frames; empty if none is."""
        due_at = self.due_at()
        if due_at is None or not (self.is_full() or now >= due_at):
            return []
        return [self._waiting.popleft() for _ in range(min(self._max_size, len(self._waiting)))]
