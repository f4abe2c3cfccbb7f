"""Commissioning without a detector: every frame is received and stored, none is judged.

Needs no torch. Its verdict is LEARNING without a score, so nothing here can become OK or NG, and
no calibration can be made from it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from daemon.config.categories import CategoryConfig
from daemon.core import Event, Frame, Inspection, Verdict

logger = logging.getLogger(__name__)


class NoDetector:
    """Stands where the detector and the decision otherwise are.

    Attributes:
        version: Shown in the status, the report and every row.
        method, backbone, card_json, memory_shortages, compile_failures: As of a LoadedModel.
    """

    version = "none (commissioning)"
    method = "none"
    backbone = "none"
    card_json = "{}"
    memory_shortages = 0
    compile_failures = 0

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        on_batch: Callable[[int], None],
        tell: Callable[[Inspection], None],
    ) -> None:
        """Arguments as of Inspector."""
        self._clock = clock
        self._now = now
        self._on_batch = on_batch
        self._tell = tell

    @property
    def models(self) -> "tuple[NoDetector, ...]":
        """As of a DetectorSlot: what the database has to know of."""
        return (self,)

    def prepare(self, categories: Mapping[str, CategoryConfig]) -> None:
        """Nothing is loaded."""

    def warm_up(self, batch_size: int) -> None:  # noqa: ARG002
        """Say plainly that nothing will be judged."""
        logger.warning("commissioning: no detector is loaded, every verdict is LEARNING")

    def version_of(self, name: str, category: CategoryConfig) -> str:  # noqa: ARG002
        """The same for all."""
        return self.version

    def events(self) -> list[Event]:
        """Nothing happens here."""
        return []

    def close(self) -> None:
        """There is nothing to wait for."""

    def inspect(self, batch: Sequence[Frame]) -> list[Inspection]:
        """One LEARNING record a frame, in order."""
        self._on_batch(len(batch))
        inspections = [
            Inspection(
                info=frame.info,
                verdict=Verdict.LEARNING,
                model_version=self.version,
                decided_utc=self._now(),
                frame_to_verdict_s=self._clock() - frame.info.received_at,
                width_px=frame.size_px[1],
                height_px=frame.size_px[0],
            )
            for frame in batch
        ]
        for inspection in inspections:
            self._tell(inspection)
        return inspections
