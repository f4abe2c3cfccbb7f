"""Training pictures: whole images as in the papers, or random views of images, surfaces, parts.

Picture i of a source is made from (seed, source, i) alone, so any part can be made again.
Refuses to know about networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from zsad.augment import random_light, random_view
from zsad.data import Sample
from zsad.image_files import load_image, load_mask, resize_mask
from zsad.parts import draw_parts
from zsad.surfaces import draw_surface
from zsad.synthetic import add_defects

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SYNTHETIC_SHARE = 0.5
"""Share of the views of normal real images that get a synthetic defect."""
SURFACE_DEFECT_SHARE = 0.6
PART_DIFFERS_SHARE = 0.4
"""Share of the pictures of parts in which one of several may differ from the others."""
PART_DEFECT_SHARE = 0.6
GROUND_SHARE = 0.3
"""Of the defects on parts, how many may show the ground: chips, holes."""
PART_CROP_SHARE = 0.6
PLAIN_LIGHT_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class View:
    """One training picture.

    Attributes:
        image: uint8 RGB [S, S, 3].
        mask: bool [S, S], true on defects.
        class_name: The noun for prompts.
        known_anomalous: That the whole image is; else the view is anomalous if any pixel is.
    """

    image: Image
    mask: Mask
    class_name: str
    known_anomalous: bool = False

    @property
    def is_anomalous(self) -> bool:
        """Also where a small defect has vanished from the resized mask."""
        return self.known_anomalous or bool(self.mask.any())


class WholeImages:
    """Every image of some data sets, resized without keeping its aspect, as it is.

    Args:
        samples: Anomalous ones without a mask are left out.
        side: Side of a picture in pixels.
    """

    def __init__(self, samples: Sequence[Sample], *, side: int) -> None:
        self.samples = usable(samples)
        self._side = side

    def __len__(self) -> int:
        return len(self.samples)

    def __call__(self, index: int) -> View:
        """Image number `index`."""
        sample = self.samples[index]
        image, mask = _load_sample(sample)
        size = (self._side, self._side)
        resized = PILImage.fromarray(image).resize(size, PILImage.Resampling.BICUBIC)
        return View(
            image=np.asarray(resized),
            mask=resize_mask(mask, self._side, self._side),
            class_name=sample.class_name,
            known_anomalous=sample.is_anomalous,
        )


class RealViews:
    """Views of one data set: its categories in equal shares, then normal and anomalous images.

    Args:
        samples: Of one data set; anomalous ones without a mask are left out.
        key: Distinguishes this source's random streams from the others'.
        seed: Of all sources.
        side: Side of a view in pixels.
        synthetic: Whether some normal views get a synthetic defect.
    """

    def __init__(
        self, samples: Sequence[Sample], *, key: int, seed: int, side: int, synthetic: bool
    ) -> None:
        groups: dict[str, dict[bool, list[Sample]]] = {}
        for sample in usable(samples):
            groups.setdefault(sample.category, {}).setdefault(sample.is_anomalous, []).append(
                sample
            )
        self._groups = [list(by_label.values()) for _, by_label in sorted(groups.items())]
        self._key, self._seed, self._side, self._synthetic = key, seed, side, synthetic
        self._load = lru_cache(maxsize=64)(_load_sample)

    def __call__(self, index: int) -> View:
        """View number `index`."""
        rng = np.random.default_rng([self._seed, self._key, index])
        by_label = self._groups[rng.integers(len(self._groups))]
        sample = _pick(rng, by_label[rng.integers(len(by_label))])
        image, mask = random_view(rng, *self._load(sample), self._side)
        if self._synthetic and not mask.any() and rng.random() < SYNTHETIC_SHARE:
            foreign = None
            if rng.random() < 0.5:
                other = _pick(rng, by_label[rng.integers(len(by_label))])
                foreign = random_view(rng, *self._load(other), self._side)[0]
            image, mask = add_defects(rng, image, foreign)
        if rng.random() >= PLAIN_LIGHT_SHARE:
            image = random_light(rng, image)
        return View(image=image, mask=mask, class_name=sample.class_name)


class SurfaceViews:
    """Views of procedural surfaces, more than half with synthetic defects."""

    def __init__(self, *, key: int, seed: int, side: int) -> None:
        self._key, self._seed, self._side = key, seed, side

    def __call__(self, index: int) -> View:
        """View number `index`."""
        rng = np.random.default_rng([self._seed, self._key, index])
        image = draw_surface(rng, self._side)
        mask = np.zeros(image.shape[:2], np.bool_)
        if rng.random() < SURFACE_DEFECT_SHARE:
            image, mask = add_defects(rng, image)
        if rng.random() >= PLAIN_LIGHT_SHARE:
            image = random_light(rng, image)
        return View(image=image, mask=mask, class_name="surface")


class PartViews:
    """Views of procedural parts, more than half with a defect on one or one unlike its fellows."""

    def __init__(self, *, key: int, seed: int, side: int) -> None:
        self._key, self._seed, self._side = key, seed, side

    def __call__(self, index: int) -> View:
        """View number `index`."""
        rng = np.random.default_rng([self._seed, self._key, index])
        scene = draw_parts(rng, self._side, may_differ=rng.random() < PART_DIFFERS_SHARE)
        image, mask = scene.image, scene.fault
        if not mask.any() and rng.random() < PART_DEFECT_SHARE:
            foreign = scene.ground if rng.random() < GROUND_SHARE else None
            image, mask = add_defects(rng, image, foreign, body=scene.body)
        if rng.random() < PART_CROP_SHARE:
            image, mask = random_view(rng, image, mask, self._side, min_zoom=0.6)
        if rng.random() >= PLAIN_LIGHT_SHARE:
            image = random_light(rng, image)
        return View(image=image, mask=mask, class_name="part")


def usable(samples: Sequence[Sample]) -> list[Sample]:
    """Those whose pixels are labelled: anomalous ones without a mask are left out."""
    return [s for s in samples if s.mask_path is not None or not s.is_anomalous]


def _pick(rng: np.random.Generator, samples: Sequence[Sample]) -> Sample:
    return samples[int(rng.integers(len(samples)))]


def _load_sample(sample: Sample) -> tuple[Image, Mask]:
    image = load_image(sample.image_path)
    if sample.mask_path is None:
        return image, np.zeros(image.shape[:2], np.bool_)
    return image, load_mask(sample.mask_path)
