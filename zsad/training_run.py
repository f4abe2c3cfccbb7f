"""Whole training runs: data sets in, a weights file or a checkpoint with its card out.

The only place that joins views, stages and cards. Refuses to know command lines and terminals.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors.torch import save

from zsad.backbone import Backbone
from zsad.backbone_loading import compact_backbone, load_backbone
from zsad.build import build_detector
from zsad.checkpoint import DataSource, new_card, save_checkpoint
from zsad.compact import (
    DEFAULT_COMPACT,
    SPECS,
    backbone_weights,
    default_checkpoint,
    lay_out_clip,
    trained_tensors,
)
from zsad.compact_fit import FitRecipe, describe_views, fit_compact
from zsad.config.backbone import BackboneConfig
from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.config.method import MethodConfig
from zsad.corpus import PartViews, RealViews, SurfaceViews, View, WholeImages
from zsad.data import Sample, Warn, check_samples
from zsad.datasets.catalogue import named_dataset
from zsad.datasets.layouts import Layout, read_dataset
from zsad.datasets.named import DatasetName
from zsad.detector import Detector, TrainableDetector
from zsad.evaluate import evaluate
from zsad.frozen_cache import DEFAULT_BYTES
from zsad.predictor import Predictor
from zsad.processes import ALONE, Processes
from zsad.train import TrainingError, TrainStage, run_stages
from zsad.train_method import CachePlan, Pictures, StageSchedule, embed_views, method_stages
from zsad.view_store import Draw, Embed, ViewStore, build_store, source_of_view

Precision = Literal["fp32", "bf16", "fp16"]


class Advance(Protocol):
    """Shows how far something is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Told after every item, with a few words to show beside it."""


Watch = Callable[[str], AbstractContextManager[Advance]]
"""Label -> context that yields what is told of progress."""

SURFACE_KEY, PART_KEY = 2_000_001, 2_000_002
"""Random-stream keys of the procedural pictures, out of reach of the data sets' keys."""
REAL_SHARE, SURFACE_SHARE, PART_SHARE = 2, 4, 4
"""Of every turn, views of each data set, of procedural surfaces and of procedural parts."""


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """One data set to train on or to measure with.

    Attributes:
        name: Of its folder.
        samples: Its test split, the one with anomalies.
        licence, origin: From lines `- Licence: ...` and `- Origin: ...` of its SOURCE.md.
    """

    name: str
    samples: list[Sample]
    licence: str
    origin: str


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What every training run has.

    Attributes:
        sets: Data sets, in equal shares of the views.
        unseen: Data sets measured after training, for the card; never trained on.
        out: Folder of the result; its `work` folder can be deleted afterwards.
        seed: Of everything random.
        device: Where the network runs.
        command: That makes the result again, for the card.
        n_views: Training pictures drawn.
        synthetic: Whether synthetic defects, procedural surfaces and parts are added.
        every_image: Whether all images are used as they are, each once an epoch, as in the
            papers; then `n_views` and `synthetic` have no meaning.
        precision: Of the backbone's blocks; heads and losses are always float32.
        checkpointing: Whether the backward pass computes blocks again instead of keeping them.
        cache_bytes: Of disk, at most, for constants of the frozen backbone; 0 keeps none.
        processes: That train together.
    """

    sets: Sequence[LabelledSet]
    unseen: Sequence[LabelledSet]
    out: Path
    seed: int
    device: torch.device
    command: str
    n_views: int = 0
    synthetic: bool = False
    every_image: bool = False
    precision: Precision = "fp32"
    checkpointing: bool = False
    cache_bytes: int = DEFAULT_BYTES
    processes: Processes = ALONE

    @property
    def work(self) -> Path:
        """Folder of views, training state and log."""
        return self.out / "work"


def read_sets(roots: Sequence[Path], layout: Layout, *, warn: Warn) -> list[LabelledSet]:
    """Read and check data sets with their licences.

    Raises:
        DataError: one cannot be used.
    """
    sets = []
    for root in roots:
        samples = read_dataset(root, layout, warn=warn)
        check_samples(samples, warn=warn)
        facts = _source_facts(root)
        if "licence" not in facts:
            warn(f"{root} has no SOURCE.md with a line '- Licence: ...': the card will not name it")
        sets.append(
            LabelledSet(
                name=root.resolve().name,
                samples=samples,
                licence=facts.get("licence", "not stated"),
                origin=facts.get("origin", str(root.name)),
            )
        )
    return sets


def named_set(name: DatasetName, data_root: Path, *, warn: Warn) -> LabelledSet:
    """Read and check a published data set, with its licence and page.

    Raises:
        DataError: it cannot be used.
    """
    dataset = named_dataset(name)
    samples = dataset.read(data_root, warn=warn)
    check_samples(samples, warn=warn)
    return LabelledSet(name=name, samples=samples, licence=dataset.licence, origin=dataset.home)


def train_compact_backbone(run: TrainingRun, recipe: FitRecipe, *, watch: Watch) -> Path:
    """Fit `compact-v1`, and put the detector on it that needs no training of its own.

    Returns:
        The weights file, with a .json beside it that says what it was made from, and a checkpoint
        folder `clip_compact_v1`.

    Raises:
        StemWeightsError: the CNN's weights are missing.
        TrainingError: the run asks for what only methods have.
    """
    if run.processes.count > 1 or run.every_image or run.precision != "fp32":
        raise TrainingError(
            "compact_backbone trains on views, in one process and in fp32: leave out torchrun, "
            "--every-image and --precision"
        )
    spec = SPECS[DEFAULT_COMPACT]
    clip = lay_out_clip(spec)
    draw = _view_draw(run, spec.image_size)
    store = _store(run, draw, describe_views(clip, spec), "descriptors", watch)
    with watch("Fitting") as on_view:
        fit_compact(clip, store, recipe, on_view)
    path = run.out / backbone_weights(DEFAULT_COMPACT).name
    path.write_bytes(save(trained_tensors(clip)))
    created = datetime.now(UTC)
    facts = {
        "backbone": DEFAULT_COMPACT,
        "data": [source.model_dump() for source in _sources(run)],
        "seed": run.seed,
        "git_revision": git_revision(),
        "created": created.isoformat(),
        "training_command": run.command,
    }
    path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    backbone = compact_backbone(clip, BackboneConfig(name=DEFAULT_COMPACT))
    detector = build_detector(CLIPZeroShotConfig(), backbone)
    _save(run, run.out / default_checkpoint().name, detector, watch)
    return path


def train_method(
    run: TrainingRun,
    method: MethodConfig,
    backbone_config: BackboneConfig,
    schedules: Sequence[StageSchedule],
    *,
    watch: Watch,
) -> Path:
    """Train a method's stages and save the checkpoint.

    Args:
        schedules: Departures from the published schedules, by stage.

    Returns:
        The checkpoint folder, `out`.

    Raises:
        BackboneError: the backbone cannot be made.
        CheckpointError: the weights cannot be saved.
        DataError: an image turned out to be damaged.
        TrainingError: the method has nothing to train, a loss is not finite, or the state is of
            another run, the precision does not fit the device, or the disk is too small.
    """
    _refuse_precision(run)
    backbone = load_backbone(backbone_config)
    backbone.to(run.device)
    detector = build_detector(method, backbone, seed=run.seed).to(run.device)
    if not isinstance(detector, TrainableDetector):
        raise TrainingError(f"{method.method} has nothing to train: use it as it is")
    identity = _identity(
        run,
        schedules=[asdict(schedule) for schedule in schedules],
        method=method.model_dump(),
        backbone=backbone.content_hash(),
        precision=run.precision,
        processes=run.processes.count,
    )
    side = backbone.input_size
    draw = _image_draw(run, side) if run.every_image else _view_draw(run, side)
    _refuse_small_disk(run, draw.n_pictures, backbone)
    embed = embed_views(backbone, run.device)
    store = _store(run, draw, embed, backbone.content_hash(), watch)
    stages = method_stages(detector, _pictures(run, store), schedules)
    halves = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    with backbone.executing(half=halves[run.precision], checkpointing=run.checkpointing):
        _run(run, stages, identity, watch)
    if not run.processes.is_first:
        return run.out
    _save(run, run.out, detector, watch)
    return run.out


def picture_bytes(backbone: Backbone) -> int:
    """Disk that one training picture takes: uint8 pixels, mask bits, float16 tokens."""
    side, tokens = backbone.input_size, 1 + backbone.grid**2
    return side**2 * 3 + side**2 // 8 + tokens * backbone.vision_width * 2


def _save(run: TrainingRun, folder: Path, detector: Detector, watch: Watch) -> None:
    """Measure on the unseen sets, then write the checkpoint."""
    detector.eval()
    card = new_card(
        detector,
        data=_sources(run),
        metrics=_unseen_metrics(run, detector, watch),
        seed=run.seed,
        git_revision=git_revision(),
        created=datetime.now(UTC),
        training_command=run.command,
    )
    save_checkpoint(folder, detector, card)


def git_revision() -> str | None:
    """Commit of the code, marked if files differ from it; None outside a repository."""
    git = shutil.which("git")
    if git is None:
        return None
    found = subprocess.run(  # noqa: S603  # fixed arguments
        [git, "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


@dataclass(frozen=True, slots=True)
class _Draw:
    """Picture number -> picture, how many there are, and what they depend on."""

    picture: Draw
    n_pictures: int
    described: str


def _store(run: TrainingRun, draw: _Draw, embed: Embed, embed_name: str, watch: Watch) -> ViewStore:
    """The first process makes the pictures; the others find them made."""
    if not run.processes.is_first:
        run.processes.wait_for_all()
    with watch("Drawing views") as on_view:
        store = build_store(
            run.work,
            draw.picture,
            draw.n_pictures,
            embed,
            identity=f"{draw.described} {embed_name}",
            on_view=on_view,
        )
    if run.processes.is_first:
        run.processes.wait_for_all()
    return store


def _image_draw(run: TrainingRun, side: int) -> _Draw:
    """Every image of all sets.

    Raises:
        TrainingError: there is none whose pixels are labelled.
    """
    images = WholeImages([sample for s in run.sets for sample in s.samples], side=side)
    if not len(images):
        raise TrainingError("no image is normal or has a mask: there is nothing to train on")
    return _Draw(images, len(images), _identity(run, side=side))


def _view_draw(run: TrainingRun, side: int) -> _Draw:
    """Random views of all sets in equal shares, and procedural pictures."""
    sources: list[RealViews | SurfaceViews | PartViews] = [
        RealViews(s.samples, key=key, seed=run.seed, side=side, synthetic=run.synthetic)
        for key, s in enumerate(run.sets)
    ]
    shares = [REAL_SHARE] * len(sources)
    if run.synthetic:
        sources.append(SurfaceViews(key=SURFACE_KEY, seed=run.seed, side=side))
        sources.append(PartViews(key=PART_KEY, seed=run.seed, side=side))
        shares += [SURFACE_SHARE, PART_SHARE]

    def draw(index: int) -> View:
        source, number = source_of_view(index, shares)
        return sources[source](number)

    return _Draw(draw, run.n_views, _identity(run, side=side))


def _pictures(run: TrainingRun, store: ViewStore) -> Pictures:
    dtype = torch.float32 if run.precision == "fp32" else torch.float16
    cache = CachePlan(run.work, run.cache_bytes, dtype) if run.cache_bytes else None
    return Pictures(
        store=store,
        seed=run.seed,
        every_image=run.every_image,
        device=run.device,
        processes=run.processes,
        cache=cache,
    )


def _refuse_precision(run: TrainingRun) -> None:
    if run.precision == "fp16" and run.device.type != "cuda":
        raise TrainingError(
            f"--precision fp16 on {run.device}: float16 products need a CUDA device, where they "
            "are fast and their small gradients can be scaled; use bf16 or fp32 here"
        )


def _refuse_small_disk(run: TrainingRun, n_pictures: int, backbone: Backbone) -> None:
    """Hours of drawing must not end at a full disk."""
    wanted = n_pictures * picture_bytes(backbone)
    run.work.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in run.work.glob("views-*"))
    free = shutil.disk_usage(run.work).free
    if wanted > there + free:
        raise TrainingError(
            f"{n_pictures} training pictures need {wanted / 1e9:.1f} GB in {run.work}, where "
            f"{(there + free) / 1e9:.1f} GB are free: choose another --out, or fewer --views"
        )


def _run(run: TrainingRun, stages: list[TrainStage], identity: str, watch: Watch) -> None:
    total = sum(stage.n_steps for stage in stages)
    if total == 0:
        raise TrainingError("nothing to train: give at least one epoch")
    before = {stage.name: sum(s.n_steps for s in stages[:i]) for i, stage in enumerate(stages)}
    with watch("Training") as advance:
        run_stages(
            stages,
            run.work,
            seed=run.seed,
            identity=identity,
            on_step=lambda name, done, _, loss: advance(
                before[name] + done, total, f"{name}, loss {loss:.4f}"
            ),
            scaler=torch.amp.GradScaler(run.device.type, enabled=run.precision == "fp16"),
            processes=run.processes,
        )


def _unseen_metrics(run: TrainingRun, detector: Detector, watch: Watch) -> dict[str, float]:
    """`<set>/<category>/<metric>` of every set that was not trained on."""
    predictor = Predictor(
        detector=detector,
        mean=detector.backbone.mean,
        std=detector.backbone.std,
        device=run.device,
        version="in training",
    )
    metrics = {}
    for labelled in run.unseen:
        with watch(f"Testing on {labelled.name}") as advance:
            report = evaluate(
                predictor,
                labelled.samples,
                batch_size=8,
                warn=lambda _: None,  # said when the set was read
                progress=advance,
            )
        for category, result in report.categories.items():
            for name, value in result.values().items():
                if value == value:  # NaN: the set has no labels for it
                    metrics[f"{labelled.name}/{category}/{name}"] = round(value, 4)
    return metrics


def _identity(run: TrainingRun, **settings: object) -> str:
    """What must be equal for work to be taken up again."""
    sets = [[s.name, len(s.samples)] for s in run.sets]
    facts: dict[str, object] = {"seed": run.seed, "sets": sets}
    if run.every_image:
        facts["pictures"] = "every image"
    else:
        facts |= {"views": run.n_views, "synthetic": run.synthetic}
    return json.dumps({**facts, **settings}, sort_keys=True, default=str)


def _sources(run: TrainingRun) -> tuple[DataSource, ...]:
    sources = [
        DataSource(name=s.name, licence=s.licence, source=s.origin, images=len(s.samples))
        for s in run.sets
    ]
    if run.synthetic and not run.every_image:
        turn = REAL_SHARE * len(run.sets) + SURFACE_SHARE + PART_SHARE
        sources += [
            DataSource(
                name=f"procedural {name}",
                licence="Apache-2.0",
                source=f"drawn by zsad.{name} and zsad.synthetic",
                images=run.n_views * share // turn,
            )
            for name, share in (("surfaces", SURFACE_SHARE), ("parts", PART_SHARE))
        ]
    return tuple(sources)


def _source_facts(root: Path) -> dict[str, str]:
    """Lines `- Licence: ...` and `- Origin: ...` of SOURCE.md, by lower-case word."""
    path = root / "SOURCE.md"
    if not path.is_file():
        return {}
    found = re.findall(
        r"^- (Licence|Origin): (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {word.lower(): text.strip() for word, text in found}
