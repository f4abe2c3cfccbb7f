"""Trains AA-CLIP's two stages on a frozen backbone from views that are drawn and embedded once.

Ma et al. 2025 (CVPR). Deviation: augmentation is drawn once a view, not anew every epoch, so that
the frozen patch embedding is computed once. Refuses to know which backbone it has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from zsad.backbone import Backbone
from zsad.corpus import Image
from zsad.detector import StageLosses
from zsad.methods.aa_clip import AAClip
from zsad.preprocess import prepare_image
from zsad.train import StepLosses, TrainStage
from zsad.view_store import Embed, ViewStore

BETAS = (0.5, 0.999)
MILESTONES = (16_000, 32_000)
"""Stage-2 steps after which the learning rate halves (released code)."""


@dataclass(frozen=True, slots=True)
class AAClipRecipe:
    """Hyperparameters of the two stages; defaults as published.

    Attributes:
        epochs: Of stage 1 and stage 2.
        batch_sizes: Of stage 1 and stage 2.
        learning_rates: Of stage 1 and stage 2.
    """

    epochs: tuple[int, int] = (5, 20)
    batch_sizes: tuple[int, int] = (16, 2)
    learning_rates: tuple[float, float] = (1e-5, 5e-4)


def embed_views(backbone: Backbone, device: torch.device, batch_size: int = 10) -> Embed:
    """What enters the backbone's first block, as float16, for `build_store`."""

    def embed(images: list[Image]) -> NDArray[np.float16]:
        parts = []
        for start in range(0, len(images), batch_size):
            prepared = torch.stack(
                [
                    prepare_image(image, backbone.input_size, backbone.mean, backbone.std)
                    for image in images[start : start + batch_size]
                ]
            )
            with torch.inference_mode():
                tokens = backbone.embed_images(prepared.to(device))
            parts.append(tokens.half().cpu().numpy())
        return np.concatenate(parts)

    return embed


def aa_clip_stages(
    detector: AAClip, store: ViewStore, recipe: AAClipRecipe, device: torch.device
) -> list[TrainStage]:
    """Stage 1 (text) and stage 2 (vision); a stage of zero epochs is left out."""
    n_steps = [
        epochs * len(store) // size
        for epochs, size in zip(recipe.epochs, recipe.batch_sizes, strict=True)
    ]

    def stage1(
        embedded: torch.Tensor, masks: torch.Tensor, labels: torch.Tensor, names: Sequence[str]
    ) -> StageLosses:
        features = detector.reference_features(embedded)
        return detector.stage1_losses_of(features, masks, labels, names)

    stages = [
        TrainStage(
            name="stage1",
            parameters=detector.stage1_parameters(),
            n_steps=n_steps[0],
            learning_rate=lambda _: recipe.learning_rates[0],
            step_losses=_step_losses(store, recipe.batch_sizes[0], stage1, device),
            betas=BETAS,
        ),
        TrainStage(
            name="stage2",
            parameters=detector.stage2_parameters(),
            n_steps=n_steps[1],
            learning_rate=lambda step: _halved(recipe.learning_rates[1], step),
            step_losses=_step_losses(
                store, recipe.batch_sizes[1], detector.stage2_losses_of, device
            ),
            betas=BETAS,
        ),
    ]
    return [stage for stage in stages if stage.n_steps > 0]


def _halved(learning_rate: float, step: int) -> float:
    return learning_rate * 0.5 ** sum(step >= milestone for milestone in MILESTONES)


def _step_losses(
    store: ViewStore,
    batch_size: int,
    losses_of: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[str]], StageLosses],
    device: torch.device,
) -> Callable[[np.random.Generator], StepLosses]:
    """A step on `batch_size` views drawn evenly."""

    def step(rng: np.random.Generator) -> StepLosses:
        chosen = rng.integers(0, len(store), batch_size)
        losses = losses_of(
            torch.from_numpy(store.embeddings(chosen)).to(device).float(),
            torch.from_numpy(store.masks_of(chosen)).to(device),
            torch.from_numpy(store.labels[chosen]).to(device).long(),
            [store.class_names[i] for i in chosen],
        )
        return StepLosses(total=losses.total, terms=losses.terms)

    return step
