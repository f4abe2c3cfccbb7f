"""Reference banks of the product categories: learnt from a line's first OK frames, kept as files.

A bank changes every score, so it is part of the model version that rows and calibrations name:
a category whose bank comes, goes or changes is back in LEARNING, and no threshold outlives the
bank that it was made with. Owned by the inspection thread, apart from `events`.
"""

import logging
import queue
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from daemon.config.categories import CategoryConfig
from daemon.core import Event, EventKind, Image, Severity, with_references
from zsad.predictor import Predictor
from zsad.reference_bank import BankError, ReferenceBank
from zsad.reference_file import bank_id, load_bank, save_bank
from zsad.reference_learning import ReferenceLearner

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
"""How soon a bank that `zsad calibrate` wrote is noticed."""

Stamp = tuple[int, int, int]
"""Modification time, size and inode of a file: another file has another."""


@dataclass(slots=True)
class _Shelf:
    """One category's bank, or what there is of it yet.

    Attributes:
        frames: Offered and taken.
        building: The bank, and what went wrong with its file if anything did.
    """

    category: str
    class_name: str
    path: Path
    version: str
    wanted: int = 0
    is_self_learning: bool = False
    bank: ReferenceBank | None = None
    stamp: Stamp | None = None
    learner: ReferenceLearner | None = None
    frames: int = 0
    building: "Future[tuple[ReferenceBank, str | None]] | None" = None


class References:
    """The banks in force, and those being learnt."""

    def __init__(
        self,
        predictor: Predictor,
        categories: Mapping[str, CategoryConfig],
        folder: Path | None,
        *,
        max_batch: int,
        on_batch: Callable[[], None],
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        """Loads what is in `folder`; what is damaged becomes an event, and is learnt again.

        Args:
            folder: Needed where a category wants references.
            max_batch: Most views in one pass of the network.
            on_batch: Called after each pass (a heartbeat).
        """
        self._predictor = predictor
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._clock = clock
        self._now = now
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="references")
        self._folder = folder
        self._look_at = clock() + LOOK_EVERY_S
        self._categories: Mapping[str, CategoryConfig] = {}
        self._shelves: dict[str, _Shelf] = {}
        self._follow(categories)

    def version_of(self, category: str) -> str:
        """The model version that this category's scores are made with, its bank included."""
        shelf = self._shelves.get(category)
        return self._predictor.version if shelf is None else shelf.version

    def bank_of(self, category: str) -> ReferenceBank | None:
        """The bank in force; None while it is being learnt, and where none is wanted."""
        shelf = self._shelves.get(category)
        return None if shelf is None else shelf.bank

    def take_over(self, categories: Mapping[str, CategoryConfig]) -> None:
        """Follow the configuration, put finished banks and new files in force."""
        if categories is not self._categories:
            self._follow(categories)
        is_time = self._clock() >= self._look_at
        if is_time:
            self._look_at = self._clock() + LOOK_EVERY_S
        for shelf in self._shelves.values():
            if shelf.building is not None:
                if shelf.building.done():
                    self._finish(shelf, shelf.building)
            elif is_time:
                self._look_for_file(shelf)

    def offer(self, category: str, views: Sequence[Image]) -> bool:
        """Show an OK frame of a category that is LEARNING.

        Args:
            views: The frame, or its tiles.

        Returns:
            Whether the category still waits for its bank: thresholds are not learnt before.
        """
        shelf = self._shelves.get(category)
        if shelf is None or shelf.bank is not None:
            return False
        if not shelf.is_self_learning or shelf.building is not None:
            return True
        if shelf.learner is None:
            shelf.learner = ReferenceLearner(self._predictor, shelf.class_name)
        is_full = not self._add(shelf, shelf.learner, views)
        if is_full or shelf.frames >= shelf.wanted:
            shelf.building = self._builder.submit(_build, shelf.learner, shelf.path, shelf.frames)
            shelf.learner = None
        return True

    def learn(self, category: str, frames: Iterable[Sequence[Image]]) -> None:
        """Make a bank of these frames and use it; `keep` writes it.

        Args:
            category: One that wants references.
            frames: OK frames, each as its views.

        Raises:
            BankError: too few or too many, or the model says NaN of one.
        """
        shelf = self._shelves[category]
        learner = ReferenceLearner(self._predictor, shelf.class_name)
        n_frames = 0
        for views in frames:
            self._show(learner, views)
            n_frames += 1
        self._put_in_force(shelf, learner.bank(n_frames=n_frames), f"learnt from {n_frames} images")

    def keep(self, category: str) -> None:
        """Write the bank in force; a running daemon takes it over.

        Raises:
            OSError: it cannot be written.
        """
        shelf = self._shelves[category]
        assert shelf.bank is not None, "there is no bank to keep"  # noqa: S101
        save_bank(shelf.path, shelf.bank)

    def events(self) -> list[Event]:
        """What happened since the last call; for any thread."""
        found = []
        while not self._events.empty():
            found.append(self._events.get())
        return found

    def close(self) -> None:
        """Wait for a bank that is being made."""
        self._builder.shutdown(cancel_futures=True)

    def _follow(self, categories: Mapping[str, CategoryConfig]) -> None:
        """A shelf for every category that wants references; one whose recipe stayed is kept."""
        self._categories = categories
        kept, self._shelves = self._shelves, {}
        for name, category in categories.items():
            if not category.references or self._folder is None:
                continue
            path = bank_path(self._folder, name, self._predictor.version, category.recipe)
            shelf = kept.get(name)
            if shelf is None or shelf.path != path:
                shelf = _Shelf(
                    category=name,
                    class_name=category.class_name,
                    path=path,
                    version=with_references(self._predictor.version, None),
                )
                self._look_for_file(shelf)
            shelf.wanted = category.references
            shelf.is_self_learning = category.learn_frames is not None
            self._shelves[name] = shelf

    def _add(self, shelf: _Shelf, learner: ReferenceLearner, views: Sequence[Image]) -> bool:
        """False where no more fit into memory; a frame that breaks the detector is passed over."""
        try:
            self._show(learner, views)
        except BankError as error:
            text = f"learns from {shelf.frames} of {shelf.wanted} frames: {error}"
            self._note(shelf, EventKind.REFERENCES_LEARNT, Severity.WARNING, text)
            return False
        except RuntimeError as error:  # torch's class for out of memory and device faults
            logger.warning(
                "frame not taken as reference",
                extra={"category": shelf.category, "error": str(error)},
            )
            return True
        shelf.frames += 1
        return True

    def _show(self, learner: ReferenceLearner, views: Sequence[Image]) -> None:
        for start in range(0, len(views), self._max_batch):
            chunk = views[start : start + self._max_batch]
            learner.add(torch.stack([self._predictor.prepare(view) for view in chunk]))
            self._on_batch()

    def _finish(self, shelf: _Shelf, building: "Future[tuple[ReferenceBank, str | None]]") -> None:
        """Put a bank in force, or begin again."""
        frames, shelf.frames, shelf.building = shelf.frames, 0, None
        try:
            bank, trouble = building.result()
        except BankError as error:
            text = f"no bank from {frames} frames, others are taken: {error}"
            self._note(shelf, EventKind.REFERENCES_BAD, Severity.ALARM, text)
            return
        self._put_in_force(shelf, bank, f"learnt from {frames} frames")
        if trouble is not None:
            text = f"{trouble}; after a restart the category has to learn again"
            self._note(shelf, EventKind.REFERENCES_BAD, Severity.ALARM, text)

    def _look_for_file(self, shelf: _Shelf) -> None:
        """Load the category's file if it is another one than before."""
        stamp = _stamp(shelf.path)
        if stamp is None or stamp == shelf.stamp:
            return  # a file that was removed is in memory still
        shelf.stamp = stamp
        try:
            bank = load_bank(
                shelf.path, version=self._predictor.version, device=self._predictor.device
            )
        except BankError as error:
            text = f"{error}. The category is LEARNING" if shelf.bank is None else str(error)
            self._note(shelf, EventKind.REFERENCES_BAD, Severity.ALARM, text)
            return
        shelf.learner, shelf.frames = None, 0
        self._put_in_force(shelf, bank, f"loaded from {shelf.path}")

    def _put_in_force(self, shelf: _Shelf, bank: ReferenceBank, how: str) -> None:
        shelf.bank = bank
        shelf.stamp = _stamp(shelf.path)
        shelf.version = with_references(self._predictor.version, bank_id(bank))
        text = f"{how}: {bank.n_references} views, {shelf.version}"
        self._note(shelf, EventKind.REFERENCES_LEARNT, Severity.INFO, text)

    def _note(self, shelf: _Shelf, kind: EventKind, severity: Severity, text: str) -> None:
        detail = f"references of {shelf.category}: {text}"
        logger.log(
            logging.INFO if severity is Severity.INFO else logging.WARNING,
            "references",
            extra={"category": shelf.category, "detail": text},
        )
        self._events.put(Event(kind, severity, self._now(), detail, category=shelf.category))


def bank_path(folder: Path, category: str, model_version: str, recipe: str) -> Path:
    """Where a category's bank is kept; another model or another tiling needs another bank."""
    return folder / f"{category}-{model_version}-{recipe}.safetensors"


def _build(
    learner: ReferenceLearner, path: Path, n_frames: int
) -> tuple[ReferenceBank, str | None]:
    """In the builder's thread: seconds of arithmetic, then the file. The bank serves without it."""
    bank = learner.bank(n_frames=n_frames)
    try:
        save_bank(path, bank)
    except OSError as error:
        return bank, f"{path} cannot be written: {error.strerror}"
    return bank, None


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
