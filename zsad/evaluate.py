"""A detector's metrics on labelled samples, per category and as their unweighted mean.

Refuses to know which detector it has, where its weights come from and how a table is printed.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsad.data import Progress, Sample
from zsad.image_files import load_image, load_mask, resize_mask
from zsad.metrics import BinaryMetrics, PixelMetrics, PixelScores, binary_metrics
from zsad.predictor import Predictor

METRIC_TITLES: Mapping[str, str] = {
    "image_AUROC": "I-AUROC",
    "image_AP": "I-AP",
    "image_F1max": "I-F1max",
    "pixel_AUROC": "P-AUROC",
    "pixel_AP": "P-AP",
    "pixel_F1max": "P-F1max",
    "aupro": "AUPRO",
    "aupro_exact": "AUPRO exact",
}
"""JSON key to the papers' word, in the order of every table."""


@dataclass(frozen=True, slots=True)
class CategoryResult:
    """One category's metrics and how many images they are from."""

    image: BinaryMetrics
    pixel: PixelMetrics
    n_normal: int
    n_anomalous: int

    def values(self) -> dict[str, float]:
        """Metrics by JSON key, NaN where undefined."""
        image, pixel = self.image, self.pixel
        numbers = (image.auroc, image.ap, image.f1max, pixel.auroc, pixel.ap, pixel.f1max)
        return dict(zip(METRIC_TITLES, (*numbers, pixel.aupro, pixel.aupro_exact), strict=True))


@dataclass(frozen=True, slots=True)
class EvalReport:
    """Metrics of every category, by name."""

    categories: Mapping[str, CategoryResult]

    def mean(self) -> dict[str, float]:
        """Unweighted mean over the categories in which a metric is defined; NaN if in none."""
        rows = [result.values() for result in self.categories.values()]
        return {key: _mean([row[key] for row in rows]) for key in METRIC_TITLES}

    def to_json(self) -> dict[str, dict[str, object]]:
        """The JSON form scripts rely on; null where undefined."""
        return {
            "categories": {
                name: {
                    **_nulls(result.values()),
                    "n_normal": result.n_normal,
                    "n_anomalous": result.n_anomalous,
                }
                for name, result in self.categories.items()
            },
            "mean": dict(_nulls(self.mean())),
        }

    def to_markdown(self) -> str:
        """A Markdown table in percent, one row a category and one for the mean."""
        header = ["category", "normal", "anomalous", *METRIC_TITLES.values()]
        lines = [_markdown_row(header), _markdown_row(["---"] + ["---:"] * (len(header) - 1))]
        for name, result in self.categories.items():
            counts = [str(result.n_normal), str(result.n_anomalous)]
            lines.append(_markdown_row([name, *counts, *map(percent, result.values().values())]))
        lines.append(_markdown_row(["**mean**", "", "", *map(percent, self.mean().values())]))
        return "\n".join(lines) + "\n"


def percent(value: float) -> str:
    """A metric as the papers print it: percent with one decimal, a dash where undefined."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    warn: Callable[[str], None],
    progress: Progress | None = None,
) -> EvalReport:
    """Run the detector over the samples and measure it, one category after another.

    Pixel metrics are taken at the detector's input side, over all images of the category that
    are normal or have a mask. Memory does not depend on the number of images.

    Args:
        warn: Receives a sentence when small defects vanish at the detector's input side.

    Raises:
        DataError: an image or mask cannot be read.
        ValueError: the detector breaks its contract (NaN or values outside [0, 1]).
    """
    by_category: dict[str, list[Sample]] = {}
    for sample in samples:
        by_category.setdefault(sample.category, []).append(sample)
    side = predictor.detector.input_size
    results, n_done = {}, 0
    vanished: Counter[str] = Counter()
    for category in sorted(by_category):
        members = by_category[category]
        scores, pixels = [], PixelScores()
        for batch in _batches(members, batch_size):
            images = [load_image(sample.image_path) for sample in batch]
            nouns = [sample.class_name for sample in batch]
            batch_scores, maps = predictor.predict(images, nouns)
            scores.extend(batch_scores)
            for sample, anomaly_map in zip(batch, maps, strict=True):
                mask = _mask_at_input_size(sample, side)
                if mask is not None:
                    pixels.add(anomaly_map, mask)
                    vanished[category] += sample.is_anomalous and not mask.any()
            n_done += len(batch)
            if progress is not None:
                progress(n_done, len(samples))
        results[category] = _result(members, scores, pixels)
    for category, count in sorted(vanished.items()):
        if count:
            warn(
                f"{category}: the masks of {count} images vanish at {side} px; "
                "their pixels count as normal"
            )
    return EvalReport(results)


def _mask_at_input_size(sample: Sample, size: int) -> NDArray[np.bool_] | None:
    """The pixel label bool [S, S]; None for an anomalous image without one."""
    if not sample.is_anomalous:
        return np.zeros((size, size), np.bool_)
    return None if sample.mask_path is None else resize_mask(load_mask(sample.mask_path), size)


def _result(
    samples: Sequence[Sample], scores: Sequence[float], pixels: PixelScores
) -> CategoryResult:
    labels = np.array([sample.is_anomalous for sample in samples], np.bool_)
    return CategoryResult(
        image=binary_metrics(labels, np.array(scores, np.float64)),
        pixel=pixels.metrics(),
        n_normal=int((~labels).sum()),
        n_anomalous=int(labels.sum()),
    )


def _batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def _nulls(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {key: None if math.isnan(value) else value for key, value in values.items()}


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
