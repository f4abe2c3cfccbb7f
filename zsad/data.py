"""A labelled data set as a list of samples: what one is, what is checked, how it is cut short.

Refuses to know how folders are laid out (`zsad.datasets`), about pixels beyond checking that masks
fit their images, and about training.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from zsad.image_files import DataError, image_size, is_lossy_mask, load_mask

logger = logging.getLogger(__name__)

Split = Literal["train", "test"]
Warn = Callable[[str], None]
Progress = Callable[[int, int], None]
"""Called with (done, total) after every item."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        category: Product as the data set names it ("metal_nut"); metrics are per category.
        class_name: The noun for prompts ("metal nut").
        mask_path: Pixel label; None for normal images and for anomalous ones without one.
        defect: Kind of defect, "good" for normal images.
    """

    image_path: Path
    category: str
    class_name: str
    is_anomalous: bool
    mask_path: Path | None
    defect: str


def check_samples(
    samples: Sequence[Sample], *, warn: Warn | None = None, progress: Progress | None = None
) -> None:
    """Open every image's header and every mask before hours are spent on them.

    Raises:
        DataError: an image is no image, or a mask is unreadable, empty or of another size.
    """
    warn = warn or log_warning
    n_lossy = 0
    for done, sample in enumerate(samples, start=1):
        size = image_size(sample.image_path)
        if sample.mask_path is not None:
            mask = load_mask(sample.mask_path)
            mask_size = (mask.shape[1], mask.shape[0])
            if mask_size != size:
                raise DataError(
                    f"mask {sample.mask_path} is {mask_size[0]} x {mask_size[1]} pixels, its image "
                    f"{sample.image_path} {size[0]} x {size[1]}: make them equal"
                )
            if not np.any(mask):
                raise DataError(
                    f"mask {sample.mask_path} marks no pixel, but its image is labelled anomalous: "
                    "mark the defect, or remove the mask or the image"
                )
            n_lossy += is_lossy_mask(sample.mask_path)
        if progress is not None:
            progress(done, len(samples))
    if n_lossy:
        warn(f"{n_lossy} masks are JPEG or WebP, read as anomalous above 127: better save as PNG")


def limit_per_category(samples: Iterable[Sample], limit: int) -> list[Sample]:
    """At most `limit` samples of each category, normal and anomalous in turn, spread evenly.

    A category keeps both labels when it has both and limit is at least 2. Order is kept.
    """
    by_key: dict[tuple[str, bool], list[Sample]] = {}
    for sample in samples:
        by_key.setdefault((sample.category, sample.is_anomalous), []).append(sample)
    kept = []
    for category in sorted({category for category, _ in by_key}):
        normal, anomalous = by_key.get((category, False), []), by_key.get((category, True), [])
        n_anomalous = min(len(anomalous), max(limit - len(normal), (limit + 1) // 2))
        kept += _spread(normal, limit - n_anomalous) + _spread(anomalous, n_anomalous)
    return kept


def prompt_noun(category: str) -> str:
    """The noun for prompts: underscores become spaces (preset `paper`)."""
    return " ".join(category.replace("_", " ").split())


def in_order(samples: Iterable[Sample]) -> list[Sample]:
    """Sorted by category, normal before anomalous, defect and path."""
    return sorted(samples, key=lambda s: (s.category, s.is_anomalous, s.defect, str(s.image_path)))


def missing_mask_warnings(samples: Iterable[Sample]) -> list[str]:
    """One sentence for each category with anomalous images that have no mask."""
    anomalous = [sample for sample in samples if sample.is_anomalous]
    total = Counter(sample.category for sample in anomalous)
    missing = Counter(sample.category for sample in anomalous if sample.mask_path is None)
    return [
        f"{category}: {missing[category]} of {total[category]} anomalous images have no mask "
        "and no part in pixel metrics"
        for category in sorted(missing)
    ]


def log_warning(message: str) -> None:
    """Where warnings go that nobody listens to."""
    logger.warning("data set warning", extra={"detail": message})


def _spread(samples: Sequence[Sample], n: int) -> list[Sample]:
    """N of the samples at even distances (all, if there are fewer)."""
    n = min(n, len(samples))
    return [samples[i * len(samples) // n] for i in range(n)]
