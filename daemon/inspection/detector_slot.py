"""The model in use: frames in, scores and maps out. Owns the device."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import torch

from daemon.config.categories import CategoryConfig
from daemon.config.detector import ModelConfig
from daemon.core import Event, Image, ScoreMap
from daemon.inspection.references import References
from daemon.model import open_model
from zsad.predictor import Predictor
from zsad.tiled_prediction import plan, predict_tiled
from zsad.tiling import Tiling

logger = logging.getLogger(__name__)


class DetectorSlot:
    """One loaded model and the banks of its categories. Row i depends on image i alone.

    Attributes:
        version: Short id of the model version, the same for the same weights.
        method: Detection method and preset, for the record.
        backbone: Name of its backbone.
        card_json: What the checkpoint says about itself.
    """

    def __init__(
        self,
        config: ModelConfig,
        categories: Mapping[str, CategoryConfig],
        *,
        max_batch: int,
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        """Load the configured checkpoint and the banks.

        Args:
            max_batch: Most views, frames or tiles, in one pass of the network.
            on_batch: Called after each pass (a heartbeat: a frame of many tiles takes long).

        Raises:
            ModelError: it is missing, damaged or for another backbone, or the device is absent.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._predictor = open_model(config.checkpoint, config.device)
        card = self._predictor.card
        assert card is not None, "a model from disk has a card"  # noqa: S101
        self.version = self._predictor.version
        self.method: str = card.method.method
        self.backbone: str = card.backbone.name
        self.card_json: str = card.model_dump_json()
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._references = References(
            self._predictor,
            categories,
            config.references_dir,
            max_batch=max_batch,
            on_batch=on_batch,
            clock=time.monotonic,
            now=_utc_now,
        )

    def infer(
        self, images: Sequence[Image], products: Sequence[tuple[str, CategoryConfig]]
    ) -> list[tuple[float, ScoreMap]]:
        """Score and map of each image, by its category's noun, tiling and references.

        Args:
            images: Frames of any size, RGB uint8 [H, W, 3].
            products: The category of each, by name and as configured.

        Returns:
            For each image its score in [0, 1] and its map over the whole frame, in any
            resolution; NaN where the network failed.

        Raises:
            RuntimeError: the device failed, for example out of memory.
            TilingError: a frame needs too many tiles.
        """
        return predict_tiled(
            self._predictor,
            images,
            [category.class_name for _, category in products],
            [tiling_of(category) for _, category in products],
            [self._references.bank_of(name) for name, _ in products],
            max_batch=self._max_batch,
            on_batch=self._on_batch,
        )

    def version_of(self, category: str) -> str:
        """The model version that this category's scores are made with, its bank included."""
        return self._references.version_of(category)

    def take_over(self, categories: Mapping[str, CategoryConfig]) -> dict[str, str]:
        """Between batches: put new banks in force; new versions of the categories that changed."""
        return self._references.take_over(categories)

    def offer(self, name: str, category: CategoryConfig, image: Image) -> bool:
        """Show an OK frame; whether the category's bank still waits for such frames."""
        return self._references.offer(name, views_of(category, image, self._predictor))

    def learn(self, name: str, category: CategoryConfig, images: Iterable[Image]) -> None:
        """Make a bank of OK frames and use it from now on; `keep` writes it.

        Raises:
            BankError: no bank can be made of them.
            TilingError: a frame needs too many tiles.
        """
        self._references.learn(
            name, (views_of(category, image, self._predictor) for image in images)
        )

    def keep(self, name: str) -> None:
        """Write the bank in force; a running daemon takes it over. Raises OSError."""
        self._references.keep(name)

    def events(self) -> list[Event]:
        """What happened to the banks since the last call; for any thread."""
        return self._references.events()

    def close(self) -> None:
        """Wait for a bank that is being made."""
        self._references.close()

    def warm_up(self, batch_size: int, class_names: Sequence[str]) -> None:
        """Run each class name once, in full batches: the first frame pays for no lazy set-up."""
        side = self._predictor.detector.input_size
        blank: Image = np.full((side, side, 3), 127, dtype=np.uint8)
        count = max(batch_size, len(class_names))
        names = [class_names[i % len(class_names)] for i in range(count)]
        for start in range(0, count, batch_size):
            chunk = names[start : start + batch_size]
            self._predictor.predict([blank] * len(chunk), chunk)
        logger.info(
            "model ready", extra={"model": self.version, "device": str(self._predictor.device)}
        )


def tiling_of(category: CategoryConfig) -> Tiling | None:
    """How a category's frames are cut; None where they are looked at as a whole."""
    if category.tiling == "never" or category.min_defect_px is None:
        return None
    return Tiling(category.min_defect_px, category.max_tiles)


def views_of(category: CategoryConfig, image: Image, predictor: Predictor) -> list[Image]:
    """The tiles of a frame, or the frame itself.

    Raises:
        TilingError: it needs too many tiles.
    """
    tiles = plan(tiling_of(category), image, predictor.detector.input_size)
    return [tile.cut(image) for tile in tiles]


def _utc_now() -> datetime:
    return datetime.now(UTC)
