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
    """Frames in order of arrival, at most `max_frames` of those that may be dropped.

    When it is full: `drop_oldest` drops the frame that has waited longest, `drop_newest` the one
    that comes, `block` makes the sender wait. Whatever is dropped is returned, to be counted.
    Frames that must be kept are bounded by their senders' credit, and never dropped.
    """

    def __init__(self, config: QueueConfig) -> None:
        self.max_frames = config.max_frames
        self._policy = config.drop_policy
        self._frames: deque[tuple[Frame, bool]] = deque()  # and whether it must be kept
        self._droppable = 0
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)

    def put(
        self,
        frame: Frame,
        *,
        stop: threading.Event,
        on_wait: Callable[[], None] = lambda: None,
        must_keep: bool = False,
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
            if must_keep:
                self._add(frame, must_keep=True)
                return ()
            match self._policy:
                case "drop_newest" if self._droppable >= self.max_frames:
                    return (frame,)
                case "drop_oldest" | "drop_newest":
                    self._add(frame)
                    return self._take_over_limit()
                case "block":
                    while self._droppable >= self.max_frames and not stop.is_set():
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
            frame, must_keep = self._frames.popleft()
            if not must_keep:
                self._droppable -= 1
                self._drained.notify()
            return frame

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

    def _add(self, frame: Frame, *, must_keep: bool = False) -> None:
        self._frames.append((frame, must_keep))
        self._droppable += not must_keep
        self._filled.notify()

    def _take_over_limit(self) -> tuple[Frame, ...]:
        """The oldest that may be dropped, if there are too many of these."""
        if self._droppable <= self.max_frames:
            return ()
        at = next(i for i, (_, must_keep) in enumerate(self._frames) if not must_keep)
        frame, _ = self._frames[at]
        del self._frames[at]
        self._droppable -= 1
        return (frame,)
