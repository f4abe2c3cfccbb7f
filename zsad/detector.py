"""The contract between a detection method and everything that uses one.

Refuses to know which method, backbone or device is behind it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a detector says about a batch. Row i depends on image i alone.

    Attributes:
        image_score: [B] float32 in [0, 1], higher is more anomalous; needs no statistics of
            other images, so it can be used on a stream.
        anomaly_map: [B, S, S] float32 in [0, 1], higher is more anomalous, over the whole
            image at the detector's input side S.
    """

    image_score: Tensor
    anomaly_map: Tensor


class Detector(nn.Module, ABC):
    """A zero-shot anomaly detector on a frozen backbone.

    Attributes:
        input_size: Side S in pixels of the square input.
    """

    input_size: int

    @abstractmethod
    def predict(self, images: Tensor, class_names: Sequence[str]) -> Prediction:
        """Score a batch that may mix categories; runs in inference mode.

        Args:
            images: [B, 3, S, S] float, prepared by `zsad.preprocess`.
            class_names: B nouns or phrases, one an image ("metal nut", "woven fabric").

        Raises:
            ValueError: images and class_names differ in length, or the side is not S.
        """
