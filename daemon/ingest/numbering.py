"""Numbers for senders that give none, as imagezmq. Pure, apart from the generator it is given."""

from collections.abc import Callable

from daemon.core import FrameId


class DaemonNumbering:
    """Gives each camera an epoch of this start and counts what arrives.

    A sender that numbers its frames without naming an epoch keeps its numbers; when they do not
    increase it has restarted, and a new epoch begins. Memory: one entry per configured camera.
    """

    def __init__(self, new_epoch: Callable[[], int]) -> None:
        """`new_epoch` draws a random integer in [0, wire.MAX_EPOCH]."""
        self._new_epoch = new_epoch
        self._current: dict[str, FrameId] = {}

    def number(self, camera: str, seq: int | None) -> tuple[FrameId, bool]:
        """Identify a frame.

        Args:
            seq: The sender's own number, or None to count here.

        Returns:
            The identity, and whether this begins an epoch in the middle: the first of a
            sender's own numbers says nothing about frames before it.
        """
        current = self._current.get(camera)
        if current is None or (seq is not None and seq <= current.seq):
            frame_id = FrameId(camera, self._new_epoch(), 0 if seq is None else seq)
            self._current[camera] = frame_id
            return frame_id, True
        frame_id = FrameId(camera, current.epoch, current.seq + 1 if seq is None else seq)
        self._current[camera] = frame_id
        return frame_id, False
