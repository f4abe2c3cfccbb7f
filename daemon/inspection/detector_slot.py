"""The model in use, and how another one takes its place between two batches. Owns the device."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from daemon.config.categories import CategoryConfig
from daemon.config.detector import ModelConfig
from daemon.core import Event, Image, ScoreMap
from daemon.inspection.loaded_model import LoadedModel, views_of
from daemon.model import open_model, use_precision
from zsad.predictor import Predictor


class DetectorSlot:
    """Holds one model. The inspection thread uses and replaces it; any thread may ask who it is."""

    def __init__(
        self,
        config: ModelConfig,
        categories: Mapping[str, CategoryConfig],
        *,
        max_batch: int,
        on_batch: Callable[[], None] = lambda: None,
        predictor: Predictor | None = None,
    ) -> None:
        """Load the configured checkpoint and the banks.

        Args:
            predictor: Takes the place of the configured checkpoint.
            max_batch: Most views, frames or tiles, in one pass of the network.
            on_batch: Called after each pass (a heartbeat: a frame of many tiles takes long).

        Raises:
            ModelError: it is missing, damaged or for another backbone, or the device is absent or
                cannot do the precision.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        predictor = predictor or open_model(config.checkpoint, config.device)
        use_precision(predictor, config.precision)
        self.model = LoadedModel(
            predictor,
            categories,
            config.references_dir,
            max_batch=max_batch,
            on_batch=on_batch,
        )

    @property
    def version(self) -> str:
        """Short id of the model version, the same for the same weights."""
        return self.model.version

    @property
    def method(self) -> str:
        """Detection method and preset, for the record."""
        return self.model.method

    @property
    def backbone(self) -> str:
        """Name of its backbone."""
        return self.model.backbone

    @property
    def card_json(self) -> str:
        """What the checkpoint says about itself."""
        return self.model.card_json

    @property
    def memory_shortages(self) -> int:
        """How often the device had no memory for a batch of the model in use."""
        return self.model.memory_shortages

    def swap(self, model: LoadedModel) -> LoadedModel:
        """Between batches: use another model from now on; the old one, to be closed."""
        old, self.model = self.model, model
        return old

    def infer(
        self, images: Sequence[Image], products: Sequence[tuple[str, CategoryConfig]]
    ) -> list[tuple[float, ScoreMap]]:
        """As `LoadedModel.infer`."""
        return self.model.infer(images, products)

    def version_of(self, category: str) -> str:
        """The model version that this category's scores are made with, its bank included."""
        return self.model.references.version_of(category)

    def take_over(self, categories: Mapping[str, CategoryConfig]) -> dict[str, str]:
        """Between batches: put new banks in force; new versions of the categories that changed."""
        return self.model.references.take_over(categories)

    def offer(self, name: str, category: CategoryConfig, image: Image) -> bool:
        """Show an OK frame; whether the category's bank still waits for such frames."""
        views = views_of(category, image, self.model.predictor)
        return self.model.references.offer(name, views)

    def learn(self, name: str, category: CategoryConfig, images: Iterable[Image]) -> None:
        """Make a bank of OK frames and use it from now on; `keep` writes it.

        Raises:
            BankError: no bank can be made of them.
            TilingError: a frame needs too many tiles.
        """
        predictor = self.model.predictor
        self.model.references.learn(
            name, (views_of(category, image, predictor) for image in images)
        )

    def keep(self, name: str) -> None:
        """Write the bank in force; a running daemon takes it over. Raises OSError."""
        self.model.references.keep(name)

    def events(self) -> list[Event]:
        """What happened to the banks since the last call; for any thread."""
        return self.model.references.events()

    def warm_up(self, batch_size: int, class_names: Sequence[str]) -> None:
        """Run each class name once, in full batches: the first frame pays for no lazy set-up."""
        self.model.warm_up(batch_size, class_names)

    def close(self) -> None:
        """Wait for a bank that is being made."""
        self.model.close()
