"""Trains any method's stages on stored pictures, in one of two orders.

`views` are drawn and augmented once, and every batch picks some of them evenly. With `every_image`
the pictures are whole images, each seen once an epoch in a new order, as in the papers. Deviation
from the released code: what enters the backbone's first block is computed once and kept in half
precision. Refuses to know which method and backbone it has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.augment import augmented, mosaic, mosaic_mask
from zsad.backbone import Backbone
from zsad.corpus import Image
from zsad.detector import MethodStage, TrainableDetector, TrainingBatch
from zsad.frozen_cache import FrozenCache
from zsad.preprocess import prepare_image
from zsad.processes import ALONE, Processes
from zsad.train import StepLosses, TrainStage
from zsad.view_store import Embed, ViewStore

ORDER_KEY, MOSAIC_KEY, AUGMENT_KEY = 1_000_001, 1_000_002, 1_000_003
"""Random-stream keys of an epoch's order, mosaics and augmentations, beyond any step number."""


@dataclass(frozen=True, slots=True)
class StageSchedule:
    """Departures from a stage's published schedule; None keeps it.

    Attributes:
        epochs: 0 leaves the stage out.
        batch_size: Of one process.
        learning_rate: Of the first step; a schedule that falls keeps its shape.
    """

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Where constants of the frozen backbone are kept during training.

    Attributes:
        folder: For one file a stage and process.
        limit_bytes: Of all files of a stage together.
        dtype: float32 or float16.
    """

    folder: Path
    limit_bytes: int
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True, slots=True)
class Pictures:
    """What is trained on, and in which order.

    Attributes:
        store: The pictures.
        seed: Of order and mosaics.
        every_image: Each picture once an epoch in a new order, with the stage's mosaics and
            augmentation; else each batch is drawn evenly.
        device: Where batches go.
        processes: Between which every batch is divided; each gets a whole published batch.
        cache: None computes frozen features at every step.
    """

    store: ViewStore
    seed: int
    every_image: bool
    device: torch.device
    processes: Processes = ALONE
    cache: CachePlan | None = None

    def n_steps(self, epochs: int, batch_size: int) -> int:
        """Optimiser steps of so many epochs; `batch_size` is that of one process."""
        if self.every_image:
            return epochs * self.steps_per_epoch(batch_size)
        return epochs * len(self.store) // (batch_size * self.processes.count)

    def steps_per_epoch(self, batch_size: int) -> int:
        """At least 1. With every image, the last batch may be smaller.

        It is left out where it has no image for some process.
        """
        whole, left = divmod(len(self.store), batch_size * self.processes.count)
        if self.every_image and left >= self.processes.count:
            whole += 1
        return max(1, whole)

    def chosen(
        self, stage: int, step: int, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.integer], int]:
        """Pictures of this process at a step, and how many all processes have together."""
        together = batch_size * self.processes.count
        if self.every_image:
            epoch, place = divmod(step, self.steps_per_epoch(batch_size))
            order = np.random.default_rng([self.seed, stage, epoch, ORDER_KEY])
            permutation = order.permutation(len(self.store))
            drawn = permutation[place * together : (place + 1) * together]
        else:
            drawn = rng.integers(0, len(self.store), together)
        return drawn[self.processes.part(len(drawn))], len(drawn)


def embed_views(backbone: Backbone, device: torch.device, batch_size: int = 10) -> Embed:
    """What enters the backbone's first block, as float16, for `build_store`."""

    def embed(images: list[Image]) -> NDArray[np.float16]:
        parts = []
        for start in range(0, len(images), batch_size):
            batch = prepared(backbone, images[start : start + batch_size])
            with torch.inference_mode():
                tokens = backbone.embed_images(batch.to(device))
            parts.append(tokens.half().cpu().numpy())
        return np.concatenate(parts)

    return embed


def method_stages(
    detector: TrainableDetector, pictures: Pictures, schedules: Sequence[StageSchedule]
) -> list[TrainStage]:
    """The detector's stages as optimiser runs over the pictures.

    Args:
        schedules: One for each of the first stages; the others keep their published schedule.
    """
    stages = []
    for number, stage in enumerate(detector.stages()):
        schedule = schedules[number] if number < len(schedules) else StageSchedule()
        epochs = stage.epochs if schedule.epochs is None else schedule.epochs
        batch_size = schedule.batch_size or stage.batch_size
        n_steps = pictures.n_steps(epochs, batch_size)
        if n_steps > 0:
            batches = StageBatches(
                stage, number, pictures, detector.backbone, batch_size, keeps_frozen=epochs > 1
            )
            stages.append(
                TrainStage(
                    name=stage.name,
                    parameters=stage.parameters,
                    n_steps=n_steps,
                    learning_rate=_learning_rate(
                        stage, schedule.learning_rate, pictures.steps_per_epoch(batch_size)
                    ),
                    step_losses=batches.losses,
                    betas=stage.betas,
                    weight_decay=stage.weight_decay,
                    on_end=batches.close,
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


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture of a batch.

    Attributes:
        row: Of the store; None for a mosaic or a changed picture, which exists once.
        parts: The store's pictures that it is made of: itself, or four.
        key: Of the random stream that changes it; None leaves it as it is.
    """

    row: int | None
    parts: Sequence[int]
    key: tuple[int, ...] | None = None


class StageBatches:
    """Batches of one stage with what its losses need.

    Args:
        stage: Of a detector, the `number`-th.
        number: Key of its random streams.
        pictures: Where batches come from.
        backbone: The detector's.
        batch_size: Of one process.
        keeps_frozen: Whether constants are worth keeping: the pictures are seen again.
    """

    def __init__(
        self,
        stage: MethodStage,
        number: int,
        pictures: Pictures,
        backbone: Backbone,
        batch_size: int,
        *,
        keeps_frozen: bool = True,
    ) -> None:
        self._stage, self._number, self._batch_size = stage, number, batch_size
        self._pictures, self._store, self._backbone = pictures, pictures.store, backbone
        self._cache: FrozenCache | None = None
        self._by_class: dict[str, NDArray[np.integer]] = {}
        plan = pictures.cache
        if stage.frozen is not None and plan is not None and keeps_frozen:
            path = plan.folder / f"frozen-{number}-{pictures.processes.rank}.cache"
            limit = plan.limit_bytes // pictures.processes.count
            self._cache = FrozenCache(path, len(self._store), limit, plan.dtype)
        if self._mosaic_share:
            names = np.array(self._store.class_names)
            self._by_class = {name: np.flatnonzero(names == name) for name in set(names.tolist())}

    def close(self) -> None:
        """Drop what was kept."""
        if self._cache is not None:
            self._cache.close()

    def losses(self, step: int, rng: np.random.Generator) -> StepLosses:
        """Losses of this process's part of a step."""
        batch, share = self.batch(step, rng)
        losses = self._stage.losses(batch)
        return StepLosses(losses.total, losses.terms, share)

    def batch(self, step: int, rng: np.random.Generator) -> tuple[TrainingBatch, float]:
        """This process's part of a step, and its share of what all processes have."""
        drawn, together = self._pictures.chosen(self._number, step, self._batch_size, rng)
        pictures = [self._picture(int(row), step) for row in drawn]
        return self._completed(pictures), len(drawn) / together

    @property
    def _mosaic_share(self) -> float:
        return self._stage.mosaic if self._pictures.every_image else 0.0

    def _picture(self, row: int, step: int) -> _Picture:
        """The picture, itself, changed or in a mosaic; depends on seed, stage, step and row."""
        if self._stage.augmentation is not None and self._pictures.every_image:
            return _Picture(
                None, [row], (self._pictures.seed, self._number, step, row, AUGMENT_KEY)
            )
        if not self._mosaic_share:
            return _Picture(row, [row])
        rng = np.random.default_rng([self._pictures.seed, self._number, step, row, MOSAIC_KEY])
        if rng.random() >= self._mosaic_share:
            return _Picture(row, [row])
        return _Picture(None, rng.choice(self._by_class[self._store.class_names[row]], 4).tolist())

    def _completed(self, pictures: Sequence[_Picture]) -> TrainingBatch:
        device, store = self._pictures.device, self._store
        masks = np.stack([self._mask(picture) for picture in pictures])
        labels = [store.labels[list(picture.parts)].any() for picture in pictures]
        empty = torch.empty(0, device=device)
        batch = TrainingBatch(
            images=empty,
            embedded=empty,
            masks=torch.from_numpy(masks).to(device),
            labels=torch.from_numpy(np.array(labels)).to(device).long(),
            class_names=[store.class_names[picture.parts[0]] for picture in pictures],
        )
        frozen = self._stage.frozen
        if self._cache is not None and frozen is not None:
            rows = [picture.row for picture in pictures]
            with torch.no_grad():
                kept = self._cache.fetch(rows, lambda at: frozen(self._embedded(pictures[at])))
            return replace(batch, frozen=tuple(tensor.to(device) for tensor in kept))
        images = prepared(self._backbone, [self._image(picture) for picture in pictures])
        tokens = torch.cat([self._embedded(picture) for picture in pictures])
        return replace(batch, images=images.to(device), embedded=tokens)

    def _image(self, picture: _Picture) -> Image:
        images = list(self._store.images_of(picture.parts))
        if picture.key is not None:
            return self._changed(picture)[0]
        return images[0] if len(images) == 1 else mosaic(images)

    def _mask(self, picture: _Picture) -> NDArray[np.float32]:
        masks = list(self._store.masks_of(picture.parts))
        if picture.key is not None:
            return self._changed(picture)[1]
        return masks[0] if len(masks) == 1 else mosaic_mask(masks)

    def _changed(self, picture: _Picture) -> tuple[Image, NDArray[np.float32]]:
        """Image and mask after the stage's augmentation; the same at every call."""
        assert picture.key is not None, "asked of a changed picture"  # noqa: S101
        assert self._stage.augmentation is not None, "it has a key"  # noqa: S101
        (image,), (mask,) = (
            self._store.images_of(picture.parts),
            self._store.masks_of(picture.parts),
        )
        red, green, blue = (round(255 * float(mean)) for mean in self._backbone.mean)
        rng = np.random.default_rng(picture.key)
        return augmented(rng, image, mask, self._stage.augmentation, (red, green, blue))

    def _embedded(self, picture: _Picture) -> Tensor:
        """[1, 1 + N, Dv] on the device, rounded to half precision as all stored ones are."""
        device = self._pictures.device
        if picture.row is not None:
            stored = self._store.embeddings([picture.row])
            return torch.from_numpy(stored).to(device).float()
        with torch.no_grad():
            image = prepared(self._backbone, [self._image(picture)]).to(device)
            return self._backbone.embed_images(image).half().float()


def prepared(backbone: Backbone, images: Sequence[Image]) -> Tensor:
    """[B, 3, S, S] on the CPU, as the backbone wants them, of images [S, S, 3]."""
    return torch.stack(
        [prepare_image(image, backbone.input_size, backbone.mean, backbone.std) for image in images]
    )
