"""The models in use: the line's, and those that single categories have. Owns the device.

The line's model is replaced between two batches; a category's own stays until the configuration
names another.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from daemon.config.categories import CategoryConfig
from daemon.config.detector import ModelConfig
from daemon.core import Event, Image
from daemon.errors import CategoryModelError, ModelError
from daemon.inspection.loaded_model import LoadedModel, views_of
from daemon.model import open_model, use_precision
from zsad.anomaly_map import AnomalyMap
from zsad.checkpoint import CheckpointError, read_card
from zsad.predictor import Predictor

Shares = Mapping[Path | None, Mapping[str, CategoryConfig]]
"""Categories by the checkpoint that inspects them; None is the line's model."""

_TORCHS_THREADS = torch.get_num_threads()
"""What it would take by itself: the cores that this process may use, or OMP_NUM_THREADS."""


class DetectorSlot:
    """Holds the models. The inspection thread uses and replaces them; any thread may ask.

    Attributes:
        model: The line's.
    """

    def __init__(
        self,
        config: ModelConfig,
        categories: Mapping[str, CategoryConfig],
        *,
        max_batch: int,
        on_batch: Callable[[], None] = lambda: None,
        predictor: Predictor | None = None,
    ) -> None:
        """Load the configured checkpoints and the banks.

        Args:
            predictor: Takes the place of the line's configured checkpoint.
            max_batch: Most views, frames or tiles, in one pass of the network.
            on_batch: Called after each pass (a heartbeat: a frame of many tiles takes long).

        Raises:
            ModelError: one is missing, damaged or for another backbone, or the device is absent or
                cannot do the precision; a CategoryModelError where it is a category's own.
        """
        torch.set_num_threads(config.threads or max(1, _TORCHS_THREADS - 1))
        self._config = config
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._own: dict[Path, LoadedModel] = {}
        self._follow(categories)
        self._prepared: set[Path | None] = {*self._shares}
        predictor = predictor or open_model(config.checkpoint, config.device)
        self.model = self._model_of(predictor, self._shares.get(None, {}))
        self._load(self._shares)
        self._versions = self._versions_of(categories)

    @property
    def models(self) -> tuple[LoadedModel, ...]:
        """The line's model, then those of single categories."""
        return self.model, *self._own.values()

    @property
    def version(self) -> str:
        """Short id of the line's model version, the same for the same weights."""
        return self.model.version

    @property
    def memory_shortages(self) -> int:
        """How often the device had no memory for a batch of the models in use."""
        return sum(model.memory_shortages for model in self.models)

    @property
    def compile_failures(self) -> int:
        """How many models were to be compiled and run as before."""
        return sum(model.compile_failures for model in self.models)

    def serving(self, category: CategoryConfig) -> LoadedModel:
        """The model that inspects a category."""
        return self.model if category.checkpoint is None else self._own[category.checkpoint]

    def prepare(self, categories: Mapping[str, CategoryConfig]) -> None:
        """Load and warm up what these categories name, before they come into force.

        One call at a time, in any thread. What neither they nor the categories before them name
        is put away.

        Raises:
            CategoryModelError: a category's own model cannot be used; those in force stay.
        """
        shares = _shares_of(categories)
        for model, share in self._load(shares):
            model.warm_up(self._max_batch, _class_names(share))
        for path in self._own.keys() - shares.keys() - self._prepared:
            self._own.pop(path).close()
        self._prepared = {*shares}

    def swap(self, model: LoadedModel) -> LoadedModel:
        """Between batches: use another line's model from now on; the old one, to be closed."""
        old, self.model = self.model, model
        self._versions = self._versions_of(self._categories)
        return old

    def infer(
        self, images: Sequence[Image], products: Sequence[tuple[str, CategoryConfig]]
    ) -> list[tuple[float, AnomalyMap]]:
        """As `LoadedModel.infer`, each image by the model of its category."""
        rows: dict[LoadedModel, list[int]] = {}
        for row, (_, category) in enumerate(products):
            rows.setdefault(self.serving(category), []).append(row)
        found: dict[int, tuple[float, AnomalyMap]] = {}
        for model, its in rows.items():
            answers = model.infer([images[row] for row in its], [products[row] for row in its])
            found |= zip(its, answers, strict=True)
        return [found[row] for row in range(len(images))]

    def version_of(self, name: str, category: CategoryConfig) -> str:
        """The model version that this category's scores are made with, its bank included."""
        return self.serving(category).references.version_of(name)

    def take_over(self, categories: Mapping[str, CategoryConfig]) -> dict[str, str]:
        """Between batches: follow the configuration and put new banks in force.

        Returns:
            The new version of each category whose version changed.
        """
        if categories is not self._categories:
            self._follow(categories)
        for share in self._shares.values():
            self.serving(next(iter(share.values()))).references.take_over(share)
        before, self._versions = self._versions, self._versions_of(categories)
        return {
            name: version for name, version in self._versions.items() if version != before.get(name)
        }

    def offer(self, name: str, category: CategoryConfig, image: Image) -> bool:
        """Show an OK frame; whether the category's bank still waits for such frames."""
        model = self.serving(category)
        return model.references.offer(name, views_of(category, image, model.predictor))

    def learn(self, name: str, category: CategoryConfig, images: Iterable[Image]) -> None:
        """Make a bank of OK frames and use it from now on; `References.keep` writes it.

        Raises:
            BankError: no bank can be made of them.
            TilingError: a frame needs too many tiles.
        """
        model = self.serving(category)
        model.references.learn(
            name, (views_of(category, image, model.predictor) for image in images)
        )

    def events(self) -> list[Event]:
        """What happened to the banks since the last call; for any thread."""
        return [event for model in self.models for event in model.references.events()]

    def warm_up(self, batch_size: int) -> None:
        """Run each class name once, in full batches: the first frame pays for no lazy set-up."""
        for share in self._shares.values():
            category = next(iter(share.values()))
            self.serving(category).warm_up(batch_size, _class_names(share))

    def close(self) -> None:
        """Wait for banks that are being made."""
        for model in self.models:
            model.close()

    def _follow(self, categories: Mapping[str, CategoryConfig]) -> None:
        self._categories = categories
        self._shares = _shares_of(categories)

    def _versions_of(self, categories: Mapping[str, CategoryConfig]) -> dict[str, str]:
        return {name: self.version_of(name, category) for name, category in categories.items()}

    def _load(self, shares: Shares) -> list[tuple[LoadedModel, Mapping[str, CategoryConfig]]]:
        """Load the checkpoints that are not loaded yet; which models are new, for whom.

        Raises:
            CategoryModelError: one of them cannot be.
        """
        new = []
        for path, share in shares.items():
            if path is None or path in self._own:
                continue
            try:
                model = self._model_of(self._open(path), share)
            except ModelError as error:
                raise CategoryModelError(next(iter(share)), str(error)) from error
            self._own[path] = model
            new.append((model, share))
        return new

    def _open(self, path: Path) -> Predictor:
        """A checkpoint on a backbone that is already loaded, where one is the same."""
        try:
            wanted = read_card(path).backbone
        except CheckpointError as error:
            raise ModelError(str(error)) from error
        loaded = (model.predictor.detector.backbone for model in self.models)
        shared = next((backbone for backbone in loaded if backbone.config == wanted), None)
        return open_model(path, self._config.device, backbone=shared)

    def _model_of(self, predictor: Predictor, share: Mapping[str, CategoryConfig]) -> LoadedModel:
        use_precision(predictor, self._config.precision)
        return LoadedModel(
            predictor,
            share,
            self._config.references_dir,
            max_batch=self._max_batch,
            on_batch=self._on_batch,
            compiles=self._config.compile,
        )


def _shares_of(categories: Mapping[str, CategoryConfig]) -> Shares:
    shares: dict[Path | None, dict[str, CategoryConfig]] = {}
    for name, category in categories.items():
        shares.setdefault(category.checkpoint, {})[name] = category
    return shares


def _class_names(share: Mapping[str, CategoryConfig]) -> list[str]:
    return [category.class_name for category in share.values()]
