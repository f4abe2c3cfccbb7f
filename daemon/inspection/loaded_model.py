"""One model with the reference banks of its categories: frames in, scores and maps out."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from daemon.config.categories import CategoryConfig
from daemon.core import Image
from daemon.inspection.references import References
from zsad.anomaly_map import AnomalyMap
from zsad.compile_check import CompileError, compile_blocks
from zsad.predictor import Predictor
from zsad.tiled_prediction import plan, predict_tiled
from zsad.tiling import Tiling

logger = logging.getLogger(__name__)

REDUCED_DECODE_MARGIN = 2
"""A frame is decoded at so many times the detector's input side at least; at once the side, scores
of fine textures moved by up to 0.06 instead of 0.007."""


class LoadedModel:
    """A model on its device. Row i depends on image i alone.

    Attributes:
        predictor: The detector, without banks.
        references: The banks of its categories.
        max_batch: Most views, frames or tiles, in one pass of the network; halved whenever the
            device had no memory for so many, until another model is loaded.
        memory_shortages: How often that was.
        compile_failures: How often its blocks were to be compiled and run as before.
        method: Detection method and preset, for the record.
        backbone: Name of its backbone.
        card_json: What the checkpoint says about itself.
    """

    def __init__(
        self,
        predictor: Predictor,
        categories: Mapping[str, CategoryConfig],
        references_dir: Path | None,
        *,
        max_batch: int,
        on_batch: Callable[[], None] = lambda: None,
        compiles: bool = False,
    ) -> None:
        """Loads the banks that `references_dir` has for this model.

        Args:
            on_batch: Called after each pass of the network.
            compiles: Whether `warm_up` has its blocks compiled.
        """
        card = predictor.card
        assert card is not None, "a model from disk has a card"  # noqa: S101
        self.predictor = predictor
        self.max_batch = max_batch
        self.memory_shortages = 0
        self.compile_failures = 0
        self._compiles = compiles
        self.method: str = card.method.method
        self.backbone: str = card.backbone.name
        self.card_json: str = card.model_dump_json()
        self._on_batch = on_batch
        # a model on a backbone whose blocks are compiled already fills its batches up too
        predictor.detector.compiled = predictor.detector.backbone.compiled
        self.references = References(
            predictor,
            categories,
            references_dir,
            max_batch=max_batch,
            on_batch=on_batch,
            clock=time.monotonic,
            now=lambda: datetime.now(UTC),
        )

    @property
    def version(self) -> str:
        """Short id of the model version, the same for the same weights."""
        return self.predictor.version

    def infer(
        self, images: Sequence[Image], products: Sequence[tuple[str, CategoryConfig]]
    ) -> list[tuple[float, AnomalyMap]]:
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
        while True:
            try:
                return self._infer(images, products)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                self.memory_shortages += 1
                if self.max_batch == 1:
                    raise
                self.max_batch //= 2
                logger.warning(
                    "out of memory, smaller batches from now on",
                    extra={"max_batch": self.max_batch, "error": str(error)[:200]},
                )
            torch.cuda.empty_cache()  # of no effect where there is no GPU

    def _infer(
        self, images: Sequence[Image], products: Sequence[tuple[str, CategoryConfig]]
    ) -> list[tuple[float, AnomalyMap]]:
        return predict_tiled(
            self.predictor,
            images,
            [category.class_name for _, category in products],
            [tiling_of(category) for _, category in products],
            [self.references.bank_of(name) for name, _ in products],
            max_batch=self.max_batch,
            on_batch=self._on_batch,
        )

    def least_side(self, category: CategoryConfig) -> int | None:
        """How small a category's JPEGs may be decoded (`jpeg_reduction`); None: not at all."""
        if not category.reduced_decode:
            return None
        return REDUCED_DECODE_MARGIN * self.predictor.detector.input_size

    def passes(self, image: Image, category: CategoryConfig) -> int:
        """How many passes of the network one frame needs.

        Raises:
            TilingError: it needs too many tiles.
        """
        tiles = plan(tiling_of(category), image, self.predictor.detector.input_size)
        return -(-len(tiles) // self.max_batch)

    def warm_up(self, batch_size: int, class_names: Sequence[str]) -> None:
        """Run each class name once, in full batches: the first frame pays for no lazy set-up."""
        if self._compiles:
            self._compile(batch_size, class_names[0])
        side = self.predictor.detector.input_size
        blank: Image = np.full((side, side, 3), 127, dtype=np.uint8)
        count = max(batch_size, len(class_names))
        names = [class_names[i % len(class_names)] for i in range(count)]
        for start in range(0, count, batch_size):
            chunk = names[start : start + batch_size]
            self.predictor.predict([blank] * len(chunk), chunk)
        logger.info(
            "model ready", extra={"model": self.version, "device": str(self.predictor.device)}
        )

    def _compile(self, batch_size: int, class_name: str) -> None:
        try:
            compile_blocks(self.predictor, batch_size, class_name, self._on_batch)
        except CompileError as error:
            self.compile_failures += 1
            logger.warning("blocks are not compiled", extra={"error": str(error)})

    def close(self) -> None:
        """Wait for a bank that is being made."""
        self.references.close()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Of a GPU it has a class of its own; torch's CPU allocator only has words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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
