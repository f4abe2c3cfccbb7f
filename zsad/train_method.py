"""Trains any method's stages from views that are drawn and embedded once.

Deviation from the released code: augmentation is drawn once a view, not anew every epoch, so that
what enters the backbone's first block is computed once. Refuses to know which method and backbone
it has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from zsad.backbone import Backbone
from zsad.corpus import Image
from zsad.detector import MethodStage, TrainableDetector, TrainingBatch
from zsad.preprocess import prepare_image
from zsad.train import StepLosses, TrainStage
from zsad.view_store import Embed, ViewStore


@dataclass(frozen=True, slots=True)
class StageSchedule:
    """Departures from a stage's published schedule; None keeps it.

    Attributes:
        epochs: 0 leaves the stage out.
        learning_rate: Of the first step; a schedule that falls keeps its shape.
    """

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None


def embed_views(backbone: Backbone, device: torch.device, batch_size: int = 10) -> Embed:
    """What enters the backbone's first block, as float16, for `build_store`."""

    def embed(images: list[Image]) -> NDArray[np.float16]:
        parts = []
        for start in range(0, len(images), batch_size):
            prepared = _prepared(backbone, images[start : start + batch_size])
            with torch.inference_mode():
                tokens = backbone.embed_images(prepared.to(device))
            parts.append(tokens.half().cpu().numpy())
        return np.concatenate(parts)

    return embed


def method_stages(
    detector: TrainableDetector,
    store: ViewStore,
    schedules: Sequence[StageSchedule],
    device: torch.device,
) -> list[TrainStage]:
    """The detector's stages as optimiser runs over the store.

    Args:
        schedules: One for each of the first stages; the others keep their published schedule.
    """
    stages = []
    for number, stage in enumerate(detector.stages()):
        schedule = schedules[number] if number < len(schedules) else StageSchedule()
        epochs = stage.epochs if schedule.epochs is None else schedule.epochs
        batch_size = schedule.batch_size or stage.batch_size
        n_steps = epochs * len(store) // batch_size
        if n_steps > 0:
            stages.append(
                TrainStage(
                    name=stage.name,
                    parameters=stage.parameters,
                    n_steps=n_steps,
                    learning_rate=_learning_rate(
                        stage, schedule.learning_rate, max(1, len(store) // batch_size)
                    ),
                    step_losses=_step_losses(stage, store, detector.backbone, batch_size, device),
                    betas=stage.betas,
                    weight_decay=stage.weight_decay,
                )
            )
    return stages


def _learning_rate(
    stage: MethodStage, first: float | None, steps_per_epoch: int
) -> Callable[[int], float]:
    """The published schedule by step, scaled so that it begins at `first`."""
    scale = 1.0 if first is None else first / stage.learning_rate(0)
    every = steps_per_epoch if stage.rate_per == "epoch" else 1
    return lambda step: scale * stage.learning_rate(step // every)


def _step_losses(
    stage: MethodStage,
    store: ViewStore,
    backbone: Backbone,
    batch_size: int,
    device: torch.device,
) -> Callable[[np.random.Generator], StepLosses]:
    """A step on `batch_size` views drawn evenly."""

    def step(rng: np.random.Generator) -> StepLosses:
        chosen = rng.integers(0, len(store), batch_size)
        losses = stage.losses(
            TrainingBatch(
                images=_prepared(backbone, list(store.images_of(chosen))).to(device),
                embedded=torch.from_numpy(store.embeddings(chosen)).to(device).float(),
                masks=torch.from_numpy(store.masks_of(chosen)).to(device),
                labels=torch.from_numpy(store.labels[chosen]).to(device).long(),
                class_names=[store.class_names[i] for i in chosen],
            )
        )
        return StepLosses(total=losses.total, terms=losses.terms)

    return step


def _prepared(backbone: Backbone, images: Sequence[Image]) -> torch.Tensor:
    """[B, 3, S, S] of images [S, S, 3]."""
    return torch.stack(
        [prepare_image(image, backbone.input_size, backbone.mean, backbone.std) for image in images]
    )
