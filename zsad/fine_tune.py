"""Trains a method's stages on from where they are, on labelled pictures and on old ones (replay).

A picture whose defect nobody outlined teaches through the losses of the image score alone: its
pixels are unknown, not sound. Refuses to know files, labels' history and which method it has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.detector import MethodStage, StageLosses, TrainableDetector, TrainingBatch
from zsad.train import OnStep, StepLosses, TrainStage, run_stages
from zsad.train_method import prepared
from zsad.view_store import ViewStore

IMAGE_TERMS = ("image", "bce")
"""What the names of losses of the image score begin with, in every method."""
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class StageTuning:
    """How gently one stage changes what it trains; the learning rate stays the same."""

    steps: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class FineTuneRecipe:
    """How gently a trained method is changed.

    Attributes:
        stages: One for each of the method's.
        batch_size: Half of it replay.
    """

    stages: Sequence[StageTuning]
    batch_size: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """Which pictures of a store are learnt from.

    Attributes:
        store: Of `zsad.train_method.embed_views`.
        groups: Rows of the store, drawn from in equal shares: one group for each product and label.
        replay: Rows that keep what the method knows; none takes whole batches from the groups.
        is_outlined: [V] whether every pixel's label is known.
    """

    store: ViewStore
    groups: Sequence[NDArray[np.integer]]
    replay: NDArray[np.integer]
    is_outlined: NDArray[np.bool_]

    def draw(self, rng: np.random.Generator, batch_size: int) -> NDArray[np.integer]:
        """Rows of one batch."""
        n_replay = batch_size // 2 if len(self.replay) else 0
        chosen = rng.integers(0, len(self.groups), batch_size - n_replay)
        labelled = [int(rng.choice(self.groups[group])) for group in chosen]
        replayed = rng.choice(self.replay, n_replay).tolist() if n_replay else []
        return np.array([*labelled, *replayed])


def fine_tune(
    detector: TrainableDetector,
    lesson: Lesson,
    recipe: FineTuneRecipe,
    work: Path,
    *,
    seed: int,
    identity: str,
    on_step: OnStep | None = None,
) -> None:
    """Change the detector's weights; killed at any moment, the same call goes on where it was.

    Args:
        work: Of state and log.
        identity: Describes detector, pictures and recipe; a state of another run is refused.

    Raises:
        TrainingError: a loss is not finite, or the state is of another run.
        ValueError: the recipe is for another number of stages.
    """
    stages = [
        TrainStage(
            name=stage.name,
            parameters=stage.parameters,
            n_steps=tuning.steps,
            learning_rate=_constant(tuning.learning_rate),
            step_losses=_Teacher(detector, stage, lesson, recipe.batch_size).losses,
            betas=stage.betas,
            weight_decay=stage.weight_decay,
            max_gradient_norm=MAX_GRADIENT_NORM,
        )
        for stage, tuning in zip(detector.stages(), recipe.stages, strict=True)
    ]
    run_stages(stages, work, seed=seed, identity=identity, on_step=on_step)


def _constant(rate: float) -> Callable[[int], float]:
    return lambda _: rate


class _Teacher:
    """One stage's losses on drawn pictures."""

    def __init__(
        self, detector: TrainableDetector, stage: MethodStage, lesson: Lesson, batch_size: int
    ) -> None:
        self._detector, self._stage = detector, stage
        self._lesson, self._batch_size = lesson, batch_size

    def losses(self, step: int, rng: np.random.Generator) -> StepLosses:
        """All losses of outlined pictures, those of the image score of the others."""
        del step
        rows = self._lesson.draw(rng, self._batch_size)
        outlined = self._lesson.is_outlined[rows]
        terms: dict[str, Tensor] = {}
        for part, is_outlined in ((rows[outlined], True), (rows[~outlined], False)):
            if not len(part):
                continue
            found = self._stage.losses(self._batch(part)).terms
            share = len(part) / len(rows)
            for name, value in found.items():
                if is_outlined or name.startswith(IMAGE_TERMS):
                    terms[name] = terms.get(name, 0.0) + share * value
        if not terms:  # a stage without image loss, on images that nobody outlined
            zero = sum(parameter.sum() * 0.0 for parameter in self._stage.parameters)
            terms = {"nothing": torch.as_tensor(zero)}
        losses = StageLosses.of(terms)
        return StepLosses(losses.total, losses.terms)

    def _batch(self, rows: NDArray[np.integer]) -> TrainingBatch:
        store, backbone = self._lesson.store, self._detector.backbone
        device = next(iter(self._stage.parameters)).device
        images = prepared(backbone, list(store.images_of(rows)))
        return TrainingBatch(
            images=images.to(device),
            embedded=torch.from_numpy(store.embeddings(rows)).to(device).float(),
            masks=torch.from_numpy(store.masks_of(rows)).to(device),
            labels=torch.from_numpy(store.labels[rows]).to(device).long(),
            class_names=[store.class_names[row] for row in rows],
        )
