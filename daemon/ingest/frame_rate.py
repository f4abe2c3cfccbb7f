"""How many frames a second a camera may bring. Pure: the caller gives the time."""


class FrameRate:
    """A token bucket for each camera: it holds one second's worth of frames, at least one."""

    def __init__(self, max_per_second: float | None) -> None:
        """None sets no bound."""
        self._max_per_second = max_per_second
        self._left: dict[str, tuple[float, float]] = {}  # camera: frames it may still bring, when

    def takes(self, camera: str, now: float) -> bool:
        """Whether one more frame is within the bound; if so, it is counted.

        Args:
            camera: A configured one, which bounds the memory.
            now: Monotonic seconds.
        """
        if self._max_per_second is None:
            return True
        full = max(1.0, self._max_per_second)
        left, at = self._left.get(camera, (full, now))
        left = min(full, left + (now - at) * self._max_per_second)
        is_within = left >= 1
        self._left[camera] = (left - is_within, now)
        return is_within
