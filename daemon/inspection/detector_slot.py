"""The detector in use, behind numpy: frames in, scores and maps out. Owns the device."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from daemon.config import ModelConfig
from daemon.core import Image, ScoreMap
from daemon.errors import ModelError
from zsad.backbone import BackboneError
from zsad.checkpoint import CheckpointCard, CheckpointError, load_detector
from zsad.compact import default_checkpoint
from zsad.preprocess import prepare_image

logger = logging.getLogger(__name__)


class DetectorSlot:
    """One loaded detector. Row i of every answer depends on image i alone.

    Attributes:
        version: Short id of the model version, the same for the same weights.
        card: What the checkpoint says about itself.
        device: Where it runs.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Load the configured checkpoint.

        Raises:
            ModelError: it is missing, damaged or for another backbone, or the device is absent.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = _device(config.device)
        path: Path = config.checkpoint or default_checkpoint()
        try:
            loaded = load_detector(path, self.device)
        except (CheckpointError, BackboneError) as error:
            raise ModelError(f"model {path}: {error}") from error
        self._detector = loaded.detector
        self._mean = loaded.detector.backbone.mean
        self._std = loaded.detector.backbone.std
        self.version: str = loaded.version
        self.card: CheckpointCard = loaded.card

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
        side = self._detector.input_size
        batch = torch.stack(
            [prepare_image(image, side, self._mean, self._std) for image in images]
        ).to(self.device)
        with torch.inference_mode():
            prediction = self._detector.predict(batch, class_names)
        scores = prediction.image_score.float().cpu().numpy()
        maps = prediction.anomaly_map.float().cpu().numpy()
        return [
            (float(score), np.ascontiguousarray(map_))
            for score, map_ in zip(scores, maps, strict=True)
        ]

    def warm_up(self, batch_size: int, class_names: Sequence[str]) -> None:
        """Run once at full size, so that the first frame does not pay for lazy set-up."""
        side = self._detector.input_size
        blank: Image = np.full((side, side, 3), 127, dtype=np.uint8)
        names = [
            class_names[i % len(class_names)] for i in range(max(batch_size, len(class_names)))
        ]
        for start in range(0, len(names), batch_size):
            chunk = names[start : start + batch_size]
            self.infer([blank] * len(chunk), chunk)
        logger.info("detector ready", extra={"model": self.version, "device": str(self.device)})


def _device(wanted: str) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise ModelError(
            "model.device is cuda, but torch sees no CUDA device; check nvidia-smi, or set cpu"
        )
    return torch.device("cuda" if has_cuda and wanted != "cpu" else "cpu")
