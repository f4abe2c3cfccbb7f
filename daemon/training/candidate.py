"""Trains the night's candidate: from the active model if it can be trained, else a linear probe.

A model that was never trained (plain CLIP scoring, the embedded detector) gets a probe for each
labelled product and is otherwise left as it is; docs/methods.md says why.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from daemon.config.night_recipes import (
    AAClipRecipe,
    LinearProbeRecipe,
    NightMethod,
    NightRecipe,
    OneStageRecipe,
    default_recipe,
)
from daemon.config_file import read_recipe
from daemon.errors import ModelError
from daemon.training.pictures import Picture, draw_picture
from zsad.backbone import Backbone, BackboneError
from zsad.build import build_detector
from zsad.checkpoint import (
    CheckpointCard,
    CheckpointError,
    DataSource,
    load_detector,
    new_card,
    save_checkpoint,
)
from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.config.linear_probe import LinearProbeConfig
from zsad.corpus import PartViews, RealViews, SurfaceViews, View
from zsad.datasets.layouts import read_dataset
from zsad.detector import Detector, TrainableDetector
from zsad.fine_tune import FineTuneRecipe, Lesson, StageTuning, fine_tune
from zsad.methods.linear_probe import LinearProbe
from zsad.probe_fit import Labelled, ProbeRecipe, concatenated, fit_probe
from zsad.train_method import embed_views
from zsad.training_run import PART_KEY, SURFACE_KEY
from zsad.view_store import ViewStore, build_store

BATCH = 10
Replay = RealViews | SurfaceViews | PartViews
OnProgress = Callable[[int, int], None]
"""Called with done, total."""


@dataclass(frozen=True, slots=True)
class Training:
    """What a candidate is made from.

    Attributes:
        active: Folder of the model that it starts from.
        backbone: Its backbone, on `device`.
        pictures: Labelled ones, of the training side of the split.
        auxiliary: Folders of masked images of other products.
        recipe: Of `recipe_for` the active model.
        work: Folder for what a killed run goes on from.
        identity: Of snapshot and active model.
        device: Where the network runs.
        seed: Of all draws.
    """

    active: Path
    backbone: Backbone
    pictures: Sequence[Picture]
    auxiliary: Sequence[Path]
    recipe: NightRecipe
    work: Path
    identity: str
    device: torch.device
    seed: int = 0


def recipe_for(active: Detector, files: Mapping[NightMethod, Path]) -> NightRecipe:
    """How a night trains, starting from this model.

    Args:
        files: The line's own recipes.

    Raises:
        ConfigError: its file cannot be used.
    """
    method: NightMethod
    match active.config.method:
        case "clip_zero_shot" | "winclip" | "anovl" | "linear_probe":
            method = "linear_probe"
        case trained:
            method = trained
    return read_recipe(files[method], method) if method in files else default_recipe(method)


def train_candidate(
    training: Training, out: Path, created: datetime, on_progress: OnProgress
) -> str:
    """Write the candidate's checkpoint folder; its version.

    Raises:
        ModelError: the active model cannot be loaded, or the candidate cannot be saved (NaN).
        DataError: an image is damaged.
        TrainingError: a loss is not finite.
    """
    try:
        active = load_detector(training.active, training.device, backbone=training.backbone)
        candidate: Detector
        match training.recipe:
            case LinearProbeRecipe() as recipe:
                candidate = _probed(training, recipe, active.detector, on_progress)
            case recipe:
                assert isinstance(active.detector, TrainableDetector), "by its recipe"  # noqa: S101
                candidate = _tuned(training, recipe, active.detector, on_progress)
        card = new_card(
            candidate,
            data=(*active.card.data, _labels(training)),
            metrics={},
            seed=training.seed,
            git_revision=None,
            created=created,
            training_command=f"a night from {active.version}, {training.identity}",
        )
        return save_checkpoint(out, candidate, card)
    except (BackboneError, CheckpointError) as error:
        raise ModelError(f"no candidate from {training.active}: {error}") from error


def withdraw(
    candidate: LinearProbe,
    card: CheckpointCard,
    active: Detector,
    products: Collection[str],
    out: Path,
) -> None:
    """Write the candidate with the active model's scores for some products.

    Args:
        card: The candidate's.
        products: Class names.

    Raises:
        ModelError: it cannot be saved.
    """
    before = active if isinstance(active, LinearProbe) else None
    known = () if before is None else before.config.products
    kept = tuple(p for p in candidate.config.products if p not in products or p in known)
    config = candidate.config.model_copy(update={"products": kept})
    reduced = build_detector(config, candidate.backbone)
    assert isinstance(reduced, LinearProbe), "that is what was asked for"  # noqa: S101
    for product in kept:
        source = candidate if before is None or product not in products else before
        reduced.take_probe(source, product)
    try:
        save_checkpoint(out, reduced, card.model_copy(update={"method": config}))
    except CheckpointError as error:
        raise ModelError(f"no candidate: {error}") from error


def _probed(
    training: Training, recipe: LinearProbeRecipe, active: Detector, on_progress: OnProgress
) -> LinearProbe:
    """The zero-shot detector with a probe for each labelled product, and those it had."""
    products = _taught(training.pictures)
    match active.config:
        case LinearProbeConfig() as before:
            zero_shot = before.zero_shot
            known = before.products
        case CLIPZeroShotConfig() as zero_shot:
            known = ()
        case _:
            zero_shot, known = CLIPZeroShotConfig(), ()
    config = LinearProbeConfig(products=tuple(sorted({*known, *products})), zero_shot=zero_shot)
    candidate = build_detector(config, active.backbone).to(training.device)
    assert isinstance(candidate, LinearProbe), "that is what was asked for"  # noqa: S101
    if isinstance(active, LinearProbe):
        for product in known:
            candidate.take_probe(active, product)
    store = _store(training, candidate, (), 0, on_progress)
    penalties = ProbeRecipe(recipe.image_penalty, recipe.patch_penalty)
    for product in products:
        fit_probe(candidate, product, _labelled(training, candidate, store, product), penalties)
    return candidate


def _taught(pictures: Sequence[Picture]) -> list[str]:
    """Class names with sound and defective pictures, drawn defects not counted."""
    seen: dict[str, set[bool]] = {}
    for picture in pictures:
        if picture.synthetic is None:
            seen.setdefault(picture.class_name, set()).add(picture.is_defective)
    return sorted(name for name, kinds in seen.items() if len(kinds) == 2)


def _labelled(
    training: Training, candidate: LinearProbe, store: ViewStore, product: str
) -> Labelled:
    """One product's pictures as its probe reads them."""
    pictures = training.pictures
    rows = [row for row, picture in enumerate(pictures) if picture.class_name == product]
    readings = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        embedded = torch.from_numpy(store.embeddings(part)).float().to(training.device)
        readings.append(candidate.readings(embedded, [product] * len(part)).cpu())
    grid = candidate.backbone.grid
    masks = torch.from_numpy(store.masks_of(rows))[:, None]  # [n, 1, S, S]
    shares = torch.nn.functional.adaptive_avg_pool2d(masks, grid).flatten(1)
    unknown = torch.tensor([not pictures[row].is_outlined for row in rows])
    shares[unknown] = torch.nan
    return Labelled(
        readings=concatenated(readings),
        is_defective=torch.tensor([pictures[row].is_defective for row in rows]),
        defect_shares=shares,
    )


def _tuned(
    training: Training,
    recipe: AAClipRecipe | OneStageRecipe,
    active: TrainableDetector,
    on_progress: OnProgress,
) -> TrainableDetector:
    """The active method's own stages, on labels and replay in equal shares."""
    replay = _replay(training, active.input_size)
    store = _store(training, active, replay, recipe.replay_views, on_progress)
    n = len(training.pictures)
    groups: dict[tuple[str, bool], list[int]] = {}
    for row, picture in enumerate(training.pictures):
        groups.setdefault((picture.class_name, picture.is_defective), []).append(row)
    outlined = np.ones(len(store), np.bool_)
    outlined[:n] = [picture.is_outlined for picture in training.pictures]
    lesson = Lesson(
        store=store,
        groups=[np.array(rows) for _, rows in sorted(groups.items())],
        replay=np.arange(n, len(store)),
        is_outlined=outlined,
    )
    stages = [StageTuning(stage.steps, stage.learning_rate) for stage in recipe.stages]
    fine_tune(
        active,
        lesson,
        FineTuneRecipe(stages, recipe.batch_size),
        training.work,
        seed=training.seed,
        identity=_described(training, active),
        on_step=lambda _, done, total, __: on_progress(done, total),
    )
    return active


def _store(
    training: Training,
    detector: Detector,
    replay: Sequence[Replay],
    per_source: int,
    on_progress: OnProgress,
) -> ViewStore:
    """Labelled pictures first; for a method whose weights all products share, replay behind."""
    side = detector.input_size
    n = len(training.pictures)

    def draw(index: int) -> View:
        if index < n:
            return draw_picture(training.pictures[index], side)
        number, source = divmod(index - n, len(replay))
        return replay[source](number)

    return build_store(
        training.work,
        draw,
        n + per_source * len(replay),
        embed_views(detector.backbone, training.device),
        identity=_described(training, detector),
        on_view=on_progress,
    )


def _replay(training: Training, side: int) -> list[Replay]:
    sources: list[Replay] = [
        RealViews(
            read_dataset(root, "mvtec"), key=key, seed=training.seed, side=side, synthetic=True
        )
        for key, root in enumerate(training.auxiliary)
    ]
    sources.append(SurfaceViews(key=SURFACE_KEY, seed=training.seed, side=side))
    sources.append(PartViews(key=PART_KEY, seed=training.seed, side=side))
    return sources


def _labels(training: Training) -> DataSource:
    frames = {picture.item.inspection_id for picture in training.pictures}
    return DataSource(
        name="labelled frames of this line",
        licence="the line's own",
        source=training.identity,
        images=len(frames),
    )


def _described(training: Training, detector: Detector) -> str:
    """Everything that pictures and steps depend on."""
    return json.dumps(
        {
            "night": training.identity,
            "recipe": training.recipe.model_dump(),
            "seed": training.seed,
            "auxiliary": [root.name for root in training.auxiliary],
            "backbone": detector.backbone.content_hash(),
        },
        sort_keys=True,
    )
