"""Measures how long frames spend in the stages of inspection. Decides nothing."""

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from daemon.core import Frame, Stage

P = ParamSpec("P")
R = TypeVar("R")


class StageClock:
    """For the inspection thread; wraps the callables that do the work."""

    def __init__(self, observe: Callable[[Stage, float], None], clock: Callable[[], float]) -> None:
        """`observe` takes a stage and seconds; `clock` is monotonic seconds."""
        self._observe = observe
        self._clock = clock
        self._infer_s = 0.0

    def around_infer(self, infer: Callable[P, R]) -> Callable[P, R]:
        """`infer`, measured; what of it fails counts too."""

        def measured(*args: P.args, **kwargs: P.kwargs) -> R:
            began_at = self._clock()
            try:
                return infer(*args, **kwargs)
            finally:
                self._infer_s += self._clock() - began_at

        return measured

    def around_inspect(
        self, inspect: Callable[[Sequence[Frame]], R]
    ) -> Callable[[Sequence[Frame]], R]:
        """`inspect`, measured: each frame's wait before it, and the batch's time by stage."""

        def measured(batch: Sequence[Frame]) -> R:
            began_at = self._clock()
            for frame in batch:
                if frame.decoded_at is not None:
                    self._observe("queue", began_at - frame.decoded_at)
            self._infer_s = 0.0
            result = inspect(batch)
            self._observe("infer", self._infer_s)
            self._observe("post", self._clock() - began_at - self._infer_s)
            return result

        return measured
