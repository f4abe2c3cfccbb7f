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

import torch
from safetensors.torch import save

from zsad.backbone import load_backbone
from zsad.build import build_detector
from zsad.checkpoint import DataSource, new_card, save_checkpoint
from zsad.compact import DEFAULT_COMPACT, SPECS, backbone_weights, lay_out_clip, trained_tensors
from zsad.compact_pretrain import PretrainRecipe, PretrainViews, describe_views, pretrain_stage
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.corpus import RealViews, SurfaceViews, View
from zsad.data import Layout, Progress, Sample, Warn, check_samples, read_dataset
from zsad.detector import Detector, TrainableDetector
from zsad.evaluate import evaluate
from zsad.predictor import Predictor
from zsad.train import TrainingError, TrainStage, run_stages
from zsad.train_method import StageSchedule, embed_views, method_stages
from zsad.view_store import Draw, Embed, ViewStore, build_store, source_of_view

Watch = Callable[[str], AbstractContextManager[Progress]]
"""Label -> context that yields a function of (done, total)."""

SURFACE_KEY = 1_000_000
"""Random-stream key of the procedural surfaces, out of reach of the data sets' keys."""
REAL_SHARE, SURFACE_SHARE = 2, 4
"""Of every turn, views of each data set and of procedural surfaces."""


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
        n_views: Training pictures drawn.
        synthetic: Whether synthetic defects and procedural surfaces are added.
        device: Where the network runs.
        command: That makes the result again, for the card.
    """

    sets: Sequence[LabelledSet]
    unseen: Sequence[LabelledSet]
    out: Path
    seed: int
    n_views: int
    synthetic: bool
    device: torch.device
    command: str

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


def train_compact_backbone(run: TrainingRun, recipe: PretrainRecipe, *, watch: Watch) -> Path:
    """Train `compact-v1` from scratch.

    Returns:
        The weights file, with a .json beside it that says what it was made from.

    Raises:
        StemWeightsError: the CNN's weights are missing.
        TrainingError: a loss is not finite, or `out` holds the state of another run.
    """
    spec = SPECS[DEFAULT_COMPACT]
    torch.manual_seed(run.seed)
    clip = lay_out_clip(spec)
    identity = _identity(run, recipe=asdict(recipe), spec=asdict(spec))
    store = _store(run, spec.image_size, describe_views(clip, spec), "descriptors", watch)
    with watch("Comparing patches") as on_view:
        views = PretrainViews(store, clip.visual.conv1.tokens, on_view)
    _run(run, [pretrain_stage(clip, views, recipe)], identity, watch)
    path = run.out / backbone_weights(DEFAULT_COMPACT).name
    path.write_bytes(save(trained_tensors(clip)))
    facts = {
        "backbone": DEFAULT_COMPACT,
        "data": [source.model_dump() for source in _sources(run)],
        "seed": run.seed,
        "git_revision": git_revision(),
        "created": datetime.now(UTC).isoformat(),
        "training_command": run.command,
    }
    path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
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
            another run.
    """
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
    )
    embed = embed_views(backbone, run.device)
    store = _store(run, backbone.input_size, embed, backbone.content_hash(), watch)
    _run(run, method_stages(detector, store, schedules, run.device), identity, watch)
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
    save_checkpoint(run.out, detector, card)
    return run.out


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


def _store(run: TrainingRun, side: int, embed: Embed, embed_name: str, watch: Watch) -> ViewStore:
    draw, described = _draw(run, side)
    with watch("Drawing views") as on_view:
        return build_store(
            run.work,
            draw,
            run.n_views,
            embed,
            identity=f"{described} {embed_name}",
            on_view=on_view,
        )


def _draw(run: TrainingRun, side: int) -> tuple[Draw, str]:
    """View number -> view, and what that depends on."""
    sources: list[RealViews | SurfaceViews] = [
        RealViews(s.samples, key=key, seed=run.seed, side=side, synthetic=run.synthetic)
        for key, s in enumerate(run.sets)
    ]
    shares = [REAL_SHARE] * len(sources)
    if run.synthetic:
        sources.append(SurfaceViews(key=SURFACE_KEY, seed=run.seed, side=side))
        shares.append(SURFACE_SHARE)

    def draw(index: int) -> View:
        return sources[source_of_view(index, shares)](index)

    return draw, _identity(run, side=side)


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
            on_step=lambda name, done, _: advance(before[name] + done, total),
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
    facts = {"seed": run.seed, "views": run.n_views, "synthetic": run.synthetic, "sets": sets}
    return json.dumps({**facts, **settings}, sort_keys=True, default=str)


def _sources(run: TrainingRun) -> tuple[DataSource, ...]:
    sources = [
        DataSource(name=s.name, licence=s.licence, source=s.origin, images=len(s.samples))
        for s in run.sets
    ]
    if run.synthetic:
        sources.append(
            DataSource(
                name="procedural surfaces",
                licence="Apache-2.0",
                source="drawn by zsad.surfaces and zsad.synthetic",
                images=run.n_views * SURFACE_SHARE // (REAL_SHARE * len(run.sets) + SURFACE_SHARE),
            )
        )
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
