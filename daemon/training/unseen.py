"""Products that nobody trains on: a candidate must not be worse on them.

Those that the configuration names, and always procedural surfaces and parts, drawn once from seeds
that no training uses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daemon.core import Image
from zsad.corpus import PartViews, SurfaceViews
from zsad.data import Sample, limit_per_category
from zsad.datasets.layouts import read_dataset
from zsad.image_files import load_image
from zsad.view_store import ViewStore, build_store

PROCEDURAL = 60
"""Pictures of each procedural kind, for a candidate that is to leave other products as they are."""
PROCEDURAL_SHARED = 240
"""Where all products share its weights: so many that a harmless change can be seen to be harmless.
With 60, a limit lay 0.023 below its mean."""
MOST_IMAGES = 100
"""Of each category of a configured set, evenly spread."""
_SEED, _SURFACE_KEY, _PART_KEY = 7, 2_000_011, 2_000_012
"""Streams that no training draws from (`zsad.training_run`)."""


@dataclass(frozen=True, slots=True)
class UnseenSet:
    """Labelled images of one product.

    Attributes:
        image: Number -> image, RGB uint8 [H, W, 3].
    """

    name: str
    class_name: str
    is_defective: tuple[bool, ...]
    image: Callable[[int], Image]


def unseen_sets(
    roots: Sequence[Path],
    cache: Path,
    side: int,
    on_progress: Callable[[int, int], None],
    *,
    is_shared: bool,
) -> list[UnseenSet]:
    """All of them; procedural pictures are kept in `cache`, for they are the same every night.

    Args:
        is_shared: Whether the candidate's new weights are all products'.

    Raises:
        DataError: a configured folder has nothing usable.
    """
    sets = []
    for name, views in (
        ("procedural surfaces", SurfaceViews(key=_SURFACE_KEY, seed=_SEED, side=side)),
        ("procedural parts", PartViews(key=_PART_KEY, seed=_SEED, side=side)),
    ):
        store = build_store(
            cache / name.replace(" ", "-"),
            views,
            PROCEDURAL_SHARED if is_shared else PROCEDURAL,
            _nothing,
            identity=f"{name} {_SEED} {side}",
            on_view=on_progress,
        )
        sets.append(
            UnseenSet(
                name=name,
                class_name=store.class_names[0],
                is_defective=tuple(store.labels.tolist()),
                image=partial(_stored, store),
            )
        )
    return sets + [found for root in roots for found in _of_folder(root)]


def _of_folder(root: Path) -> list[UnseenSet]:
    """One set a category."""
    samples = limit_per_category(read_dataset(root, "mvtec"), MOST_IMAGES)
    sets = []
    for category in sorted({sample.category for sample in samples}):
        members = [sample for sample in samples if sample.category == category]
        sets.append(
            UnseenSet(
                name=f"{root.name}/{category}",
                class_name=members[0].class_name,
                is_defective=tuple(sample.is_anomalous for sample in members),
                image=partial(_loaded, members),
            )
        )
    return sets


def _stored(store: ViewStore, number: int) -> Image:
    image: Image = store.images_of([number])[0]
    return image


def _loaded(samples: Sequence[Sample], number: int) -> Image:
    return load_image(samples[number].image_path)


def _nothing(images: list[Image]) -> NDArray[np.float16]:
    """Pictures are kept, not what a network says of them."""
    return np.zeros((len(images), 1), np.float16)
