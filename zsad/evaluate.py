"""A detector's metrics on labelled samples, per category and as their unweighted mean.

Refuses to know which detector it has, where its weights come from and how a table is printed.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.data import Progress, Sample
from zsad.detector import UnscaledOutputs
from zsad.image_files import DataError, load_image, load_mask, resize_mask
from zsad.loading import LoadedSample, load_batches
from zsad.metrics import BinaryMetrics, PixelMetrics, PixelScores, binary_metrics
from zsad.predictor import Predictor
from zsad.reference_bank import ReferenceBank
from zsad.tiled_prediction import predict_tiled
from zsad.tiling import Tiling, TilingError

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
    """Metrics of every category, by name.

    Attributes:
        test_set_statistics: Whether the scores depend on the other images of their category.
    """

    categories: Mapping[str, CategoryResult]
    test_set_statistics: bool = False

    def mean(self) -> dict[str, float]:
        """Unweighted mean over the categories in which a metric is defined; NaN if in none."""
        rows = [result.values() for result in self.categories.values()]
        return {key: _mean([row[key] for row in rows]) for key in METRIC_TITLES}

    def to_json(self) -> dict[str, object]:
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
            "test_set_statistics": self.test_set_statistics,
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
    test_set_statistics: bool = False,
    banks: Mapping[str, ReferenceBank] | None = None,
    tiling: Tiling | None = None,
) -> EvalReport:
    """Run the detector over the samples and measure it, one category after another.

    Pixel metrics are taken at the detector's input side, over all images of the category that
    are normal or have a mask; with a tiling an image counts with the pixels of all its tiles.
    Memory does not depend on the number of images: files are read and prepared at most two batches
    ahead, by a few threads.

    Args:
        warn: Receives a sentence for each category with one class only, at once, and when small
            defects vanish at the detector's input side.
        progress: Called with images done and images in all.
        test_set_statistics: Rank `Detector.whole_set_scores`, which depend on the other images of
            the category, instead of what `predict` says. Runs the detector twice.
        banks: Reference banks by category, for scores of `predict`.
        tiling: Cut every image, for scores of `predict`.

    Raises:
        DataError: an image or mask cannot be read, or an image needs too many tiles.
        ValueError: the detector breaks its contract (NaN or values outside [0, 1]), or has no
            scores with test-set statistics.
    """
    detector = predictor.detector
    by_category: dict[str, list[Sample]] = {}
    for sample in samples:
        by_category.setdefault(sample.category, []).append(sample)
    for category, members in sorted(by_category.items()):
        if sentence := _one_class_sentence(category, members):
            warn(sentence)

    n_done, n_all = 0, len(samples) * (2 if test_set_statistics else 1)

    def count(n_images: int) -> None:
        nonlocal n_done
        n_done += n_images
        if progress is not None:
            progress(n_done, n_all)

    results = {}
    for category in sorted(by_category):
        members = by_category[category]
        scored = _scoring(test_set_statistics, banks or {}, tiling)
        scores, pixels, n_vanished = [], PixelScores(), 0
        for sample, mask, score, anomaly_map in scored(predictor, members, batch_size, count):
            scores.append(score)
            if mask is not None:
                pixels.add(anomaly_map, mask)
                n_vanished += sample.is_anomalous and not mask.any()
        results[category] = _result(members, scores, pixels)
        if n_vanished:
            warn(
                f"{category}: the masks of {n_vanished} images vanish at {detector.input_size} px; "
                "their pixels count as normal"
            )
    return EvalReport(results, test_set_statistics)


_Scored = Iterator[tuple[Sample, NDArray[np.bool_] | None, float, NDArray[np.float32]]]
"""Each sample with its mask, its score and its map, of the mask's shape, in order."""


def _scoring(
    test_set_statistics: bool, banks: Mapping[str, ReferenceBank], tiling: Tiling | None
) -> Callable[[Predictor, Sequence[Sample], int, Callable[[int], None]], _Scored]:
    if test_set_statistics:
        return _whole_set_scored
    return partial(_scored, banks) if tiling is None else partial(_tiled_scored, banks, tiling)


def _tiled_scored(
    banks: Mapping[str, ReferenceBank],
    tiling: Tiling,
    predictor: Predictor,
    samples: Sequence[Sample],
    batch_size: int,
    count: Callable[[int], None],
) -> _Scored:
    """What `predict` says of the tiles of one image after the other."""
    for sample in samples:
        image = load_image(sample.image_path)
        try:
            ((score, found),) = predict_tiled(
                predictor,
                [image],
                [sample.class_name],
                [tiling],
                [banks.get(sample.category)],
                max_batch=batch_size,
            )
        except TilingError as error:
            raise DataError(f"{sample.image_path}: {error}") from error
        anomaly_map = found.here()
        mask: NDArray[np.bool_] | None = np.zeros(anomaly_map.shape, np.bool_)
        if sample.is_anomalous:
            mask = None
            if sample.mask_path is not None:
                mask = resize_mask(load_mask(sample.mask_path), *anomaly_map.shape[:2])
        yield sample, mask, score, anomaly_map
        count(1)


def _scored(
    banks: Mapping[str, ReferenceBank],
    predictor: Predictor,
    samples: Sequence[Sample],
    batch_size: int,
    count: Callable[[int], None],
) -> _Scored:
    """What `predict` says, batch after batch."""
    for batch in load_batches(samples, batch_size, predictor):
        images, names = _stacked(batch)
        of_images = [banks.get(item.sample.category) for item in batch]
        scores, maps = predictor.predict_prepared(images, names, of_images)
        for item, score, anomaly_map in zip(batch, scores, maps, strict=True):
            yield item.sample, item.mask, score, anomaly_map
        count(len(batch))


def _whole_set_scored(
    predictor: Predictor,
    samples: Sequence[Sample],
    batch_size: int,
    count: Callable[[int], None],
) -> _Scored:
    """The method's scores over the whole set: one pass for its statistics, one for the maps."""
    terms = []
    for batch in load_batches(samples, batch_size, predictor):
        terms.append(_unscaled(predictor, batch).terms.cpu())
        count(len(batch))
    whole = predictor.detector.whole_set_scores(torch.cat(terms))
    scores = iter(whole.image_scores.tolist())
    for batch in load_batches(samples, batch_size, predictor):
        maps = whole.scaled(_unscaled(predictor, batch).anomaly_map).float().cpu().numpy()
        for item, anomaly_map in zip(batch, maps, strict=True):
            yield item.sample, item.mask, next(scores), anomaly_map
        count(len(batch))


def _unscaled(predictor: Predictor, batch: Sequence[LoadedSample]) -> UnscaledOutputs:
    images, names = _stacked(batch)
    with torch.inference_mode():
        outputs = predictor.detector.unscaled(images.to(predictor.device), names)
    if outputs is None:
        raise ValueError(
            f"{predictor.version} has no scores with test-set statistics: leave the option out"
        )
    return outputs


def _stacked(batch: Sequence[LoadedSample]) -> tuple[Tensor, list[str]]:
    """Images [B, 3, S, S] and class names."""
    return torch.stack([item.image for item in batch]), [item.sample.class_name for item in batch]


def _one_class_sentence(category: str, samples: Sequence[Sample]) -> str | None:
    """Said before hours are spent; such sets exist, with pixel metrics only."""
    n_anomalous = sum(sample.is_anomalous for sample in samples)
    if 0 < n_anomalous < len(samples):
        return None
    kind, missing = ("anomalous", "normal") if n_anomalous else ("normal", "anomalous")
    return (
        f"{category}: all {len(samples)} images are {kind}, so it has no image-level metrics and "
        f"does not enter their mean; add {missing} images if there should be some"
    )


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


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def _nulls(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {key: None if math.isnan(value) else value for key, value in values.items()}


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
