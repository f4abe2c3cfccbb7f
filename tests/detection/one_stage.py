"""Losses of methods that train in one stage, straight from images."""

from collections.abc import Sequence

from torch import Tensor

from zsad.detector import StageLosses, TrainableDetector


def losses_of(
    detector: TrainableDetector,
    images: Tensor,
    masks: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
) -> StageLosses:
    """Of the only stage."""
    (stage,) = detector.stages()
    return stage.losses(detector.training_batch(images, masks, labels, class_names))
