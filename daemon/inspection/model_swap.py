"""Hands the inspection thread its next model: model, banks and thresholds change together.

The main thread puts, the inspection thread takes between two batches. A frame is inspected, judged
and recorded under one model, whichever of the two that is.
"""

import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daemon.core import Calibration
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.detector_slot import DetectorSlot
from daemon.inspection.loaded_model import LoadedModel


@dataclass(frozen=True, slots=True)
class NextModel:
    """A model that is ready, and what is known of its thresholds.

    Attributes:
        calibrations: Of the versions that its categories have.
        learned: (score, map peak) of LEARNING frames that it saw earlier, by category.
    """

    model: LoadedModel
    calibrations: Sequence[Calibration]
    learned: Mapping[str, Sequence[tuple[float, float]]]


class ModelSwap:
    """At most one model waits; it is in force at the inspection thread's next turn.

    Attributes:
        asked_for: Version of the model that was put and not collected yet; for the main thread.
    """

    def __init__(self, slot: DetectorSlot, book: CalibrationBook) -> None:
        self.asked_for: str | None = None
        self._slot = slot
        self._book = book
        self._next: queue.SimpleQueue[NextModel] = queue.SimpleQueue()
        self._replaced: queue.SimpleQueue[LoadedModel] = queue.SimpleQueue()

    def put(self, coming: NextModel) -> None:
        """Ask for another model; one at a time. For the main thread."""
        assert self.asked_for is None, "the last one was not collected"  # noqa: S101
        self.asked_for = coming.model.version
        self._next.put(coming)

    def take_over(self) -> None:
        """Between batches: put the model that waits in force. For the inspection thread."""
        if self._next.empty():
            return
        coming = self._next.get()
        old = self._slot.swap(coming.model)
        categories = self._book.categories
        versions = {name: self._slot.version_of(name, each) for name, each in categories.items()}
        self._book.change_model(coming.model.version, versions, coming.calibrations, coming.learned)
        self._replaced.put(old)

    def collect(self) -> LoadedModel | None:
        """The model that was replaced since the last call, to be closed. For the main thread."""
        if self._replaced.empty():
            return None
        self.asked_for = None
        return self._replaced.get()
