"""The model in use: frames in, scores and maps out. Owns the device."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from daemon.config.detector import ModelConfig
from daemon.core import Image, ScoreMap
from daemon.model import open_model

logger = logging.getLogger(__name__)


class DetectorSlot:
    """One loaded model. Row i of every answer depends on image i alone.

    Attributes:
        version: Short id of the model version, the same for the same weights.
        method: Detection method and preset, for the record.
        backbone: Name of its backbone.
        card_json: What the checkpoint says about itself.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Load the configured checkpoint.

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

    def infer(
        self, images: Sequence[Image], class_names: Sequence[str]
    ) -> list[tuple[float, ScoreMap]]:
        """Score and map of each image.

        Args:
            images: Frames of any size, RGB uint8 [H, W, 3].
            class_names: The noun of each frame's category.

        Returns:
            For each image its score in [0, 1] and its map [S, S]; NaN where the network failed.

        Raises:
            RuntimeError: the device failed, for example out of memory.
        """
        scores, maps = self._predictor.predict(images, class_names)
        return list(zip(scores, maps, strict=True))

    def warm_up(self, batch_size: int, class_names: Sequence[str]) -> None:
        """Run each class name once, in full batches: the first frame pays for no lazy set-up."""
        side = self._predictor.detector.input_size
        blank: Image = np.full((side, side, 3), 127, dtype=np.uint8)
        count = max(batch_size, len(class_names))
        names = [class_names[i % len(class_names)] for i in range(count)]
        for start in range(0, count, batch_size):
            chunk = names[start : start + batch_size]
            self.infer([blank] * len(chunk), chunk)
        logger.info(
            "model ready", extra={"model": self.version, "device": str(self._predictor.device)}
        )
