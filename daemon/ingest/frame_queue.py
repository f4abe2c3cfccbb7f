"""The bounded queue between sockets and detector, with a named policy for when it is full.

Fair under overload: a camera that floods the line loses its own frames, not those of others.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from daemon.config.sources import CameraConfig, Priority, QueueConfig
from daemon.core import Frame

WAIT_S = 0.1
_RANKS: dict[Priority, int] = {"low": 0, "normal": 1, "high": 2}


@dataclass(frozen=True, slots=True)
class _Waiting:
    number: int  # by arrival, over all cameras
    frame: Frame
    must_keep: bool


@dataclass(slots=True)
class _Camera:
    rank: int
    waiting: deque[_Waiting] = field(default_factory=deque)
    droppable: int = 0

    def oldest_droppable(self) -> int:
        """Its place in `waiting`."""
        return next(at for at, one in enumerate(self.waiting) if not one.must_keep)

    def newest_droppable(self) -> int:
        """Its place in `waiting`."""
        last = len(self.waiting) - 1
        return last - next(at for at, one in enumerate(reversed(self.waiting)) if not one.must_keep)


class FrameQueue:
    """Frames of all cameras, at most `max_frames` of those that may be dropped.

    They leave by their camera's priority, and of one priority in order of arrival. When it is
    full, a camera of the lowest priority there is loses a frame; of several, the one with the most
    waiting: `drop_oldest` drops the frame of it that has waited longest, `drop_newest` its newest,
    which may be the one that comes. `block` makes the sender wait. Whatever is dropped is
    returned, to be counted. Frames that must be kept are bounded by their senders' credit, and
    never dropped.
    """

    def __init__(self, config: QueueConfig, cameras: Mapping[str, CameraConfig]) -> None:
        self.max_frames = config.max_frames
        self._policy = config.drop_policy
        self._cameras: dict[str, _Camera] = {}
        self._ranks: dict[str, int] = {}
        self._arrived = 0
        self._size = 0
        self._droppable = 0
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self.follow(cameras)

    def follow(self, cameras: Mapping[str, CameraConfig]) -> None:
        """Go by other priorities from now on."""
        with self._lock:
            self._ranks = {name: _RANKS[camera.priority] for name, camera in cameras.items()}
            for name, camera in self._cameras.items():
                camera.rank = self._rank(name)

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
        """The next frame.

        Raises:
            queue.Empty: None came within `timeout_s`.
        """
        with self._lock:
            if not self._filled.wait_for(lambda: self._size > 0, timeout_s):
                raise queue.Empty
            camera = min(
                (camera for camera in self._cameras.values() if camera.waiting),
                key=lambda camera: (-camera.rank, camera.waiting[0].number),
            )
            return self._remove(camera, 0)

    def get_nowait(self) -> Frame:
        """The next frame.

        Raises:
            queue.Empty: There is none.
        """
        return self.get(0.0)

    def empty(self) -> bool:
        """Whether no frame waits."""
        return len(self) == 0

    def __len__(self) -> int:
        with self._lock:
            return self._size

    def _add(self, frame: Frame, *, must_keep: bool = False) -> None:
        name = frame.info.frame_id.camera
        camera = self._cameras.get(name)
        if camera is None:
            camera = self._cameras[name] = _Camera(self._rank(name))
        camera.waiting.append(_Waiting(self._arrived, frame, must_keep))
        camera.droppable += not must_keep
        self._arrived += 1
        self._size += 1
        self._droppable += not must_keep
        self._filled.notify()

    def _take_over_limit(self) -> tuple[Frame, ...]:
        """One that may be dropped, if there are too many of these."""
        if self._droppable <= self.max_frames:
            return ()
        among = [camera for camera in self._cameras.values() if camera.droppable]
        if self._policy == "drop_oldest":
            camera = min(
                among,
                key=lambda one: (
                    one.rank,
                    -one.droppable,
                    one.waiting[one.oldest_droppable()].number,
                ),
            )
            return (self._remove(camera, camera.oldest_droppable()),)
        camera = min(
            among,
            key=lambda one: (
                one.rank,
                -one.droppable,
                -one.waiting[one.newest_droppable()].number,
            ),
        )
        return (self._remove(camera, camera.newest_droppable()),)

    def _remove(self, camera: _Camera, at: int) -> Frame:
        taken = camera.waiting[at]
        del camera.waiting[at]
        self._size -= 1
        if not taken.must_keep:
            camera.droppable -= 1
            self._droppable -= 1
            self._drained.notify()
        return taken.frame

    def _rank(self, name: str) -> int:
        return self._ranks.get(name, _RANKS["normal"])
