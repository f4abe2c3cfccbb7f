"""The bounded queue between sockets and detector, with a named policy for when it is full."""

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import assert_never

from daemon.config.sources import QueueConfig
from daemon.core import Frame

WAIT_S = 0.1


class FrameQueue:
    """Frames in order of arrival, at most `max_frames`.

    When it is full: `drop_oldest` drops the frame that has waited longest, `drop_newest` the one
    that comes, `block` makes the sender wait. Whatever is dropped is returned, to be counted.
    """

    def __init__(self, config: QueueConfig) -> None:
        self.max_frames = config.max_frames
        self._policy = config.drop_policy
        self._frames: deque[Frame] = deque()
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)

    def put(
        self,
        frame: Frame,
        *,
        stop: threading.Event,
        on_wait: Callable[[], None] = lambda: None,
    ) -> tuple[Frame, ...]:
        """Add a frame.

        Args:
            stop: Ends the waiting of `block`. The frame is then added over the limit: it has
                been received, the consumer drains the queue, and the caller takes no more.
            on_wait: Called about every WAIT_S while `block` waits, for the watchdog.

        Returns:
            What was dropped, `frame` itself included.
        """
        with self._lock:
            match self._policy:
                case "drop_newest" if len(self._frames) >= self.max_frames:
                    return (frame,)
                case "drop_oldest" | "drop_newest":
                    self._add(frame)
                    return self._take_over_limit()
                case "block":
                    while len(self._frames) >= self.max_frames and not stop.is_set():
                        self._drained.wait(WAIT_S)
                        on_wait()
                    self._add(frame)
                    return ()
                case _:
                    assert_never(self._policy)

    def get(self, timeout_s: float) -> Frame:
        """The oldest frame.

        Raises:
            queue.Empty: None came within `timeout_s`.
        """
        with self._lock:
            if not self._filled.wait_for(lambda: bool(self._frames), timeout_s):
                raise queue.Empty
            self._drained.notify()
            return self._frames.popleft()

    def get_nowait(self) -> Frame:
        """The oldest frame.

        Raises:
            queue.Empty: There is none.
        """
        return self.get(0.0)

    def empty(self) -> bool:
        """Whether no frame waits."""
        return len(self) == 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._frames)

    def _add(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._filled.notify()

    def _take_over_limit(self) -> tuple[Frame, ...]:
        over = len(self._frames) - self.max_frames
        return tuple(self._frames.popleft() for _ in range(over))
