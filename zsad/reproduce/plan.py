"""What one published table takes: steps, what is missing for them, what they cost.

Looks at files and folders but opens none of them. Refuses to run anything.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zsad.backbone import Backbone
from zsad.checkpoint import CARD_NAME
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.cost import image_cost, shape_of, training_costs
from zsad.datasets.catalogue import named_dataset
from zsad.datasets.named import DatasetName, NamedDataset
from zsad.detector import Detector, TrainableDetector
from zsad.outline import outline_backbone, outline_detector
from zsad.published.recipe import Recipe, wants_cnn
from zsad.published.table import Column, PublishedTable
from zsad.reproduce.weights import BYTES_CNN, find_weights
from zsad.training_run import picture_bytes

ALL_METHODS = "all"
_DIGEST_CHARS = 8
_STATE_COPIES = 4
"""A checkpoint, and a training state of parameters with Adam's two moments."""


class SelectionError(ValueError):
    """The table has no such method or data set; the message lists those it has."""


@dataclass(frozen=True, slots=True)
class Site:
    """What this machine has.

    Attributes:
        data_root: Parent of the data sets' folders.
        out: Where steps leave their results.
        pretrained: Weights files and tags as given, by backbone name; "" stands for any.
        cnn_weights: ImageNet weights of the CNN that two methods read; None if not given.
    """

    data_root: Path
    out: Path
    pretrained: Mapping[str, str]
    cnn_weights: Path | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one step.

    Attributes:
        flops: Operations.
        disk_bytes: Left or needed on the way under `Site.out`.
    """

    flops: float
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Detecting:
    """A method on its backbone with what it was trained on; `key` names its folder."""

    key: str
    recipe: Recipe
    method: MethodConfig
    backbone: BackboneConfig
    sets: tuple[DatasetName, ...]


@dataclass(frozen=True, slots=True)
class TrainStep:
    """Train one detector; done when `folder` has a card."""

    detecting: Detecting
    folder: Path
    cost: Cost

    @property
    def label(self) -> str:
        """For people."""
        return f"train {self.detecting.recipe.name} on {' + '.join(self.detecting.sets)}"

    @property
    def is_done(self) -> bool:
        """The card comes last and vouches."""
        return (self.folder / CARD_NAME).is_file()


@dataclass(frozen=True, slots=True)
class MeasureStep:
    """Test one detector on one data set; done when `result` is there.

    Attributes:
        columns: Of the table that read this result.
        trained: Checkpoint folder; None for a method that is used as it is.
    """

    detecting: Detecting
    test_set: DatasetName
    columns: tuple[str, ...]
    trained: Path | None
    result: Path
    cost: Cost

    @property
    def label(self) -> str:
        """For people."""
        return f"test {self.detecting.recipe.name} on {self.test_set}"

    @property
    def is_done(self) -> bool:
        """Results are written whole or not at all."""
        return self.result.is_file()


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that must be brought here first.

    Attributes:
        what: It is.
        where: It is looked for.
        how: To get it.
        size_bytes: About.
    """

    what: str
    where: str
    how: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, and what is missing for those that are still open."""

    table: PublishedTable
    columns: tuple[Column, ...]
    train: tuple[TrainStep, ...]
    test: tuple[MeasureStep, ...]
    missing: tuple[Missing, ...]

    @property
    def steps(self) -> tuple[TrainStep | MeasureStep, ...]:
        """Each training right before the tests that need it."""
        ordered: list[TrainStep | MeasureStep] = []
        for step in self.train:
            ordered.append(step)
            ordered += [test for test in self.test if test.trained == step.folder]
        return (*ordered, *(test for test in self.test if test.trained is None))


def select_columns(table: PublishedTable, methods: Sequence[str]) -> tuple[Column, ...]:
    """The columns to make again: those named, `all` with a recipe, or the paper's own.

    Raises:
        SelectionError: a name is no column, or the column has no recipe.
    """
    able = [column for column in table.columns if column.recipe is not None]
    if not methods:
        return tuple(column for column in able if column.own)
    if ALL_METHODS in methods:
        return tuple(able)
    unknown = set(methods) - {column.name for column in able}
    if unknown:
        names = ", ".join(repr(column.name) for column in able)
        raise SelectionError(
            f"{table.name}: no way to make {sorted(unknown)[0]!r} again; choose {names} or all"
        )
    return tuple(column for column in able if column.name in methods)


def make_plan(
    table: PublishedTable,
    columns: Sequence[Column],
    site: Site,
    *,
    only: Sequence[str] = (),
    seed: int = 0,
) -> Plan:
    """Steps for the columns of a table.

    Args:
        only: Test sets; empty takes all of the table.
        seed: Of every training.

    Raises:
        SelectionError: `only` names a set that is not in the table.
        BackboneError: a recipe's backbone is not known here.
    """
    foreign = set(only) - set(table.sets)
    if foreign:
        raise SelectionError(
            f"{table.name} has no set {sorted(foreign)[0]!r}: choose {', '.join(table.sets)}"
        )
    costs = _Costs()
    train: dict[str, TrainStep] = {}
    test: dict[Path, MeasureStep] = {}
    for column in columns:
        for test_set in _tested_sets(table, column, only):
            detecting = _detecting(column, test_set, site, seed)
            if detecting.sets and detecting.key not in train:
                folder = site.out / "trained" / detecting.key
                train[detecting.key] = TrainStep(detecting, folder, costs.training(detecting))
            result = site.out / "tested" / detecting.key / f"{test_set}.json"
            known = test[result].columns if result in test else ()
            test[result] = MeasureStep(
                detecting=detecting,
                test_set=test_set,
                columns=(*known, column.name),
                trained=train[detecting.key].folder if detecting.sets else None,
                result=result,
                cost=costs.testing(detecting, test_set),
            )
    steps = tuple(train.values()), tuple(test.values())
    return Plan(table, tuple(columns), *steps, tuple(_missing(*steps, site, costs)))


def _tested_sets(table: PublishedTable, column: Column, only: Sequence[str]) -> list[DatasetName]:
    """Where the column has a number, in the order of the rows."""
    printed = {value.row.set for value in table.values() if value.column == column}
    return [name for name in table.sets if name in printed and (not only or name in only)]


def _detecting(column: Column, test_set: DatasetName, site: Site, seed: int) -> Detecting:
    recipe = column.recipe
    assert recipe is not None, "only columns with a recipe are planned"  # noqa: S101
    sets = recipe.training_sets(test_set)
    options = {**(recipe.on_set.get(sets[0], {}) if sets else {}), **column.options}
    method = recipe.config(site.cnn_weights, **options)
    deciding = {
        "method": method.model_dump(mode="json", exclude={"sp_cnn_weights"}),
        "backbone": recipe.backbone.model_dump(mode="json", exclude={"pretrained"}),
        "sets": sets,
        "shots": recipe.shots,
        "seed": seed,
    }
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
    on = f"-on-{'+'.join(sets)}" if sets else ""
    weights = find_weights(recipe.backbone, site.pretrained)
    backbone = recipe.backbone.model_copy(update={"pretrained": weights.pretrained})
    key = f"{recipe.name}{on}-{digest[:_DIGEST_CHARS]}"
    return Detecting(key, recipe, method, backbone, sets)


class _Costs:
    """Costs of steps; outlines each network once."""

    def __init__(self) -> None:
        self._backbones: dict[BackboneConfig, Backbone] = {}
        self._detectors: dict[str, Detector] = {}

    def backbone(self, config: BackboneConfig) -> Backbone:
        plain = config.model_copy(update={"pretrained": None})
        if plain not in self._backbones:
            self._backbones[plain] = outline_backbone(plain)
        return self._backbones[plain]

    def training(self, detecting: Detecting) -> Cost:
        detector = self._detector(detecting)
        assert isinstance(detector, TrainableDetector), detecting.key  # noqa: S101
        stages = detector.stages()
        batch_sizes = tuple(stage.batch_size for stage in stages)
        costs = training_costs(detecting.method, shape_of(detector.backbone), batch_sizes)
        per_image = sum(cost.of(stage) for stage, cost in zip(stages, costs, strict=True))
        shots = detecting.recipe.shots
        images = sum(_images(named_dataset(name), shots) for name in detecting.sets)
        parameters = sum(parameter.numel() for parameter in detector.own_parameters().values())
        disk = _STATE_COPIES * 4 * parameters + images * picture_bytes(detector.backbone)
        return Cost(images * per_image, disk)

    def testing(self, detecting: Detecting, test_set: DatasetName) -> Cost:
        detector = self._detector(detecting)
        per_image = image_cost(detecting.method, shape_of(detector.backbone)).total
        passes = 2 if detector.ranks_whole_sets else 1
        return Cost(passes * per_image * _images(named_dataset(test_set)))

    def _detector(self, detecting: Detecting) -> Detector:
        if detecting.key not in self._detectors:
            backbone = self.backbone(detecting.backbone)
            self._detectors[detecting.key] = outline_detector(detecting.method, backbone)
        return self._detectors[detecting.key]


def _images(dataset: NamedDataset, shots: int | None = None) -> int:
    """How many images of a test split are used; `shots` of each label and category."""
    if shots is None:
        return dataset.total.normal + dataset.total.anomalous
    return sum(
        2 * shots
        if category.counts is None
        else min(shots, category.counts.normal) + min(shots, category.counts.anomalous)
        for category in dataset.categories
    )


def _missing(
    train: Sequence[TrainStep], test: Sequence[MeasureStep], site: Site, costs: _Costs
) -> list[Missing]:
    """Everything that open steps need and that is not here, each thing once."""
    to_train = [step.detecting for step in train if not step.is_done]
    to_test = [step.detecting for step in test if not step.is_done]
    found = _missing_weights(
        [*to_train, *to_test], site, lambda config: _parameters(costs.backbone(config))
    )
    names = [name for detecting in to_train for name in detecting.sets]
    names += [step.test_set for step in test if not step.is_done]
    for name in dict.fromkeys(names):
        dataset = named_dataset(name)
        if not dataset.is_present(site.data_root):
            where = str(site.data_root / dataset.read_folder)
            what = f"data set {dataset.title} ({dataset.licence})"
            found.append(Missing(what, where, _how_to_get(dataset), dataset.bytes_estimate))
    return found


def _how_to_get(dataset: NamedDataset) -> str:
    how = (
        f"from {dataset.home} take {dataset.download}; {dataset.folder} must hold {dataset.layout}"
    )
    if dataset.prepare is None:
        return how
    return f"{how}; then run zsad datasets {dataset.name} --prepare with the same --data"


def _missing_weights(
    needed: Sequence[Detecting], site: Site, parameters: Callable[[BackboneConfig], int]
) -> list[Missing]:
    found = []
    backbones = {detecting.recipe.backbone.name: detecting.recipe.backbone for detecting in needed}
    for backbone in backbones.values():
        weights = find_weights(backbone, site.pretrained)
        if not weights.is_here:
            size = weights.bytes_a_parameter * parameters(backbone)
            what = f"weights of {backbone.name} ({backbone.pretrained})"
            found.append(Missing(what, weights.where, weights.how, size))
    cnn = site.cnn_weights
    if any(wants_cnn(detecting.method) for detecting in needed) and not (cnn and cnn.is_file()):
        how = "give --cnn-weights FILE with ImageNet weights of resnet50, timm's or torchvision's"
        found.append(Missing("weights of ResNet-50", str(cnn or "not given"), how, BYTES_CNN))
    return found


def _parameters(backbone: Backbone) -> int:
    return sum(parameter.numel() for parameter in backbone.clip.parameters())
