"""A trained detector on its device, fed with images as they come from a camera or a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.anomaly_map import AnomalyMap
from zsad.backbone import Backbone
from zsad.checkpoint import CheckpointCard, load_detector
from zsad.compact import default_checkpoint
from zsad.detector import Detector, Prediction
from zsad.preprocess import as_tensor, normalise, resize, resize_there
from zsad.reference_bank import ReferenceBank
from zsad.reference_features import predict_with_banks

DeviceName = Literal["auto", "cpu", "cuda"]


class DeviceError(ValueError):
    """The wanted device is not there."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """The one way from pixels to scores, for the line, the commands and evaluation.

    Attributes:
        mean, std: Channel statistics (RGB, in [0, 1]) that the detector's backbone needs.
        device: Where the detector already is.
        version: Of the checkpoint.
        card: What the checkpoint says of itself; None for a detector made in memory.
    """

    detector: Detector
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device
    version: str
    card: CheckpointCard | None = None

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        class_names: Sequence[str],
        banks: Sequence[ReferenceBank | None] | None = None,
    ) -> tuple[list[float], NDArray[np.float32]]:
        """One batch, which may mix categories, sizes, and products with and without references.

        Args:
            images: B images, RGB uint8 [H, W, 3], of any sizes.
            class_names: B nouns, one an image.
            banks: B banks on this predictor's device, None for an image that is judged without
                references; None for a batch without any.

        Returns:
            B image scores, and maps float32 [B, S, S]; in [0, 1] unless the network failed (NaN).

        Raises:
            ValueError: not one bank an image, or a bank of another model.
        """
        return _fetched(self._predict(self._prepared(images), class_names, banks))

    def look(
        self,
        images: Sequence[NDArray[np.uint8]],
        class_names: Sequence[str],
        banks: Sequence[ReferenceBank | None] | None = None,
    ) -> list[tuple[float, AnomalyMap]]:
        """`predict`, image by image, with maps that stay on the device until they are needed.

        At 518 pixels a map is 1.07 MB, and by far the largest thing to leave a GPU.
        """
        return _left_there(self._predict(self._prepared(images), class_names, banks))

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """What the detector wants of an image of any size: [3, S, S] on the CPU."""
        return normalise(self._resized(image).cpu(), self.mean, self.std)

    def _prepared(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """[B, 3, S, S] on the device."""
        pixels = torch.stack([self._resized(image) for image in images])  # uint8 [B, 3, S, S]
        return normalise(to_device(pixels, self.device), self.mean, self.std)

    def _resized(self, image: NDArray[np.uint8]) -> Tensor:
        """uint8 [3, S, S], on a GPU if that is where it is needed: it resizes faster."""
        side, resampling = self.detector.input_size, self.detector.resampling
        if self.device.type == "cuda":
            return resize_there(to_device(as_tensor(image), self.device), side, resampling)
        return resize(image, side, resampling)

    def predict_prepared(
        self,
        images: Tensor,
        class_names: Sequence[str],
        banks: Sequence[ReferenceBank | None] | None = None,
    ) -> tuple[list[float], NDArray[np.float32]]:
        """`predict` for images [B, 3, S, S] that `prepare` made."""
        return _fetched(self._predict(images, class_names, banks))

    def _predict(
        self,
        images: Tensor,
        class_names: Sequence[str],
        banks: Sequence[ReferenceBank | None] | None,
    ) -> Prediction:
        """On the device."""
        B, compiled = len(images), self.detector.compiled
        if compiled is not None:  # filled up to a size that is compiled, with the last image
            compiled.begin_pass()
            missing = compiled.filled(B) - B
            images = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])
            class_names = [*class_names, *[class_names[-1]] * missing]
            banks = None if banks is None else [*banks, *[None] * missing]
        images = images.to(self.device)
        with torch.inference_mode():
            if banks is None or not any(banks):
                prediction = self.detector.predict(images, class_names)
            else:
                prediction = predict_with_banks(
                    self.detector, images, class_names, banks, version=self.version
                )
        return Prediction(prediction.image_score[:B], prediction.anomaly_map[:B])


def _fetched(found: Prediction) -> tuple[list[float], NDArray[np.float32]]:
    return found.image_score.float().cpu().tolist(), found.anomaly_map.float().cpu().numpy()


def _left_there(found: Prediction) -> list[tuple[float, AnomalyMap]]:
    """Only numbers leave the device, all in one copy: one wait for the batch."""
    scores, maps = found.image_score.float(), found.anomaly_map.float()
    numbers = torch.stack([scores, maps.amax((1, 2))], dim=1).tolist()
    return [
        (score, AnomalyMap(partial(_here, pixels), peak))
        for (score, peak), pixels in zip(numbers, maps, strict=True)
    ]


def _here(pixels: Tensor) -> NDArray[np.float32]:
    return pixels.cpu().numpy()


def load_predictor(
    checkpoint: Path | None, device: DeviceName, *, backbone: Backbone | None = None
) -> Predictor:
    """Load a checkpoint folder; None is the embedded detector.

    Args:
        backbone: An already loaded one to share, on that device.

    Raises:
        CheckpointError: it is missing, damaged, or for another backbone.
        BackboneError: its backbone cannot be made.
        DeviceError: `cuda` was wanted and torch sees none.
    """
    chosen = choose_device(device)
    loaded = load_detector(checkpoint or default_checkpoint(), chosen, backbone=backbone)
    used = loaded.detector.backbone
    return Predictor(
        detector=loaded.detector,
        mean=used.mean,
        std=used.std,
        device=chosen,
        version=loaded.version,
        card=loaded.card,
    )


def choose_device(device: DeviceName) -> torch.device:
    """The device that a word means here; `auto` is a GPU where there is one.

    Raises:
        DeviceError: `cuda` was wanted and torch sees none.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise DeviceError(
            "device is cuda, but torch sees no CUDA device: check nvidia-smi, or use cpu"
        )
    return torch.device("cuda" if has_cuda and device != "cpu" else "cpu")


def to_device(pixels: Tensor, device: torch.device) -> Tensor:
    """Without waiting for a GPU: from pinned memory, its own engine copies."""
    if device.type == "cuda" and not pixels.is_cuda:
        return pixels.pin_memory().to(device, non_blocking=True)
    return pixels.to(device)
