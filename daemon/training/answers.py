"""What one model says of the held-out frames and of the unseen products.

Each frame goes the way it goes on the line: tiles, reference bank, region of interest. Kept as a
file, so that a killed night need not ask again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from daemon.config.categories import CategoryConfig
from daemon.core import Image, LabelVerdict, ScoreMap
from daemon.errors import ModelError
from daemon.inspection.loaded_model import LoadedModel
from daemon.inspection.roi import RoiMasks
from daemon.labels.mask import decode_mask, resized
from daemon.training.snapshot import SnapshotItem
from daemon.training.unseen import UnseenSet
from zsad.anomaly_map import AnomalyMap
from zsad.image_files import load_image
from zsad.metrics import binary_metrics
from zsad.predictor import Predictor
from zsad.tiling import TilingError

BATCH = 8
FINGERPRINT_IMAGES = 4

OnProgress = Callable[[int, int], None]


class Answer(BaseModel):
    """Of one frame.

    Attributes:
        peak: Highest value of the map.
        outline: AUROC of the map's pixels against the outlined defect; None without an outline.
    """

    model_config = ConfigDict(frozen=True)
    score: float
    peak: float
    outline: float | None = None


class ModelAnswers(BaseModel):
    """Of one model.

    Attributes:
        versions: By category, reference bank included.
        held_out: By inspection.
        unseen: Scores by set, in its order.
        fingerprints: By category, what the model says of the same few pictures under its name: two
            models with the same ones score it alike.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")
    version: str
    versions: dict[str, str]
    held_out: dict[int, Answer]
    unseen: dict[str, tuple[float, ...]]
    fingerprints: dict[str, tuple[float, ...]]


def ask(
    model: LoadedModel,
    items: Sequence[SnapshotItem],
    unseen: Sequence[UnseenSet],
    categories: Mapping[str, CategoryConfig],
    on_progress: OnProgress,
) -> ModelAnswers:
    """Show a model everything the gate wants to know.

    Args:
        items: Held out, of configured categories.

    Raises:
        DataError: a file is damaged.
        ModelError: a frame cannot be scored as configured.
    """
    total = len(items) + sum(len(found.is_defective) for found in unseen)
    held_out = {}
    for item in items:
        answer = _answer(model, item, categories[item.category])
        held_out[item.inspection_id] = answer
        on_progress(len(held_out), total)
    scores = {}
    done = len(held_out)
    for found in unseen:
        scores[found.name] = tuple(_unseen_scores(model, found))
        done += len(found.is_defective)
        on_progress(done, total)
    return ModelAnswers(
        version=model.version,
        versions={name: model.references.version_of(name) for name in categories},
        held_out=held_out,
        unseen=scores,
        fingerprints=fingerprints(model.predictor, unseen[0], categories),
    )


def score_files(
    model: LoadedModel,
    files: Iterable[Path],
    name: str,
    category: CategoryConfig,
    on_image: Callable[[], None],
) -> dict[Path, Answer]:
    """Score and map peak of images of one category.

    Raises:
        DataError: a file is damaged.
        ModelError: a frame cannot be scored as configured.
    """
    found, least_side = {}, model.least_side(category)
    for file in files:
        image = load_image(file, least_side=least_side)
        score, anomaly_map = _infer(model, image, name, category)
        found[file] = Answer(score=score, peak=anomaly_map.peak)
        on_image()
    return found


def _answer(model: LoadedModel, item: SnapshotItem, category: CategoryConfig) -> Answer:
    image = load_image(item.frame, least_side=model.least_side(category))
    score, anomaly_map = _infer(model, image, item.category, category)
    outline = None
    if item.verdict is LabelVerdict.NG and item.mask_png is not None:
        outline = _outline(anomaly_map.here(), item.mask_png)
    return Answer(score=score, peak=anomaly_map.peak, outline=outline)


def _infer(
    model: LoadedModel, image: Image, name: str, category: CategoryConfig
) -> tuple[float, AnomalyMap]:
    try:
        ((score, anomaly_map),) = model.infer([image], [(name, category)])
        score, anomaly_map = RoiMasks().apply(category.roi, score, anomaly_map)
    except (TilingError, ValueError) as error:
        raise ModelError(f"a frame of {name!r} cannot be scored: {error}") from error
    return score, anomaly_map


def _outline(anomaly_map: ScoreMap, mask_png: bytes) -> float | None:
    """None where the mask vanishes at the map's size, or fills it."""
    height, width = anomaly_map.shape
    mask = resized(decode_mask(mask_png), width, height)
    if mask.all() or not mask.any() or not np.isfinite(anomaly_map).all():
        return None
    return binary_metrics(mask.ravel(), anomaly_map.ravel().astype(np.float64)).auroc


def _unseen_scores(model: LoadedModel, found: UnseenSet) -> list[float]:
    scores: list[float] = []
    for start in range(0, len(found.is_defective), BATCH):
        numbers = range(start, min(start + BATCH, len(found.is_defective)))
        images = [found.image(number) for number in numbers]
        scores += model.predictor.predict(images, [found.class_name] * len(images))[0]
    return scores


def fingerprints(
    predictor: Predictor, pictures: UnseenSet, categories: Mapping[str, CategoryConfig]
) -> dict[str, tuple[float, ...]]:
    """What a model says of a few pictures under each category's name, without reference banks."""
    images = [pictures.image(number) for number in range(FINGERPRINT_IMAGES)]
    found = {}
    for name, category in categories.items():
        scores, maps = predictor.predict(images, [category.class_name] * len(images))
        found[name] = (*scores, *(float(one.max()) for one in maps), *maps.mean((1, 2)).tolist())
    return found
