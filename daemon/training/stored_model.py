"""Opens a model of the store, which must still answer as it did when it was stored."""

from pathlib import Path

from sqlalchemy import Engine

from daemon.config.detector import ModelConfig
from daemon.config.line import Config
from daemon.errors import ModelError
from daemon.model import open_model
from daemon.storage import models
from daemon.training.golden import replay_golden
from daemon.training.model_store import GOLDEN_NAME, ModelStore
from zsad.backbone import Backbone
from zsad.checkpoint import CheckpointError, read_card
from zsad.predictor import DeviceName, Predictor


def store_of(config: Config) -> ModelStore:
    """The models of a configured line.

    Raises:
        ModelError: it has no `training:` section, so no place for models.
    """
    if config.training is None:
        raise ModelError(
            f"line {config.line!r} keeps no models: add a `training:` section with models_dir to "
            "its configuration"
        )
    return ModelStore(config.training.models_dir, config.model.checkpoint, config.own_checkpoints)


def open_stored(
    store: ModelStore, version: str, device: DeviceName, *, backbone: Backbone | None = None
) -> Predictor:
    """Verify, load and try a model; the configured one has no golden images to try.

    Args:
        backbone: An already loaded one, shared where the model was trained on it.

    Raises:
        ModelError: it is missing, damaged, for another backbone, or answers otherwise.
    """
    card = store.verify(version)
    is_shared = backbone is not None and backbone.config == card.backbone
    path, has_golden = store.path_of(version), store.golden_of(version) is not None
    shared = backbone if is_shared else None
    return try_model(path, version, device, backbone=shared, has_golden=has_golden)


def try_model(
    path: Path,
    version: str,
    device: DeviceName,
    *,
    backbone: Backbone | None = None,
    has_golden: bool = True,
) -> Predictor:
    """Load a model's folder and show it its golden images.

    Raises:
        ModelError: it is damaged, another one, for another backbone, or answers otherwise.
    """
    try:
        predictor = open_model(path, device, backbone=backbone)
        if predictor.version != version:
            raise ModelError(f"{path}: holds model {predictor.version}, {version} was promised")
        if has_golden:
            replay_golden(predictor, path / GOLDEN_NAME)
    except RuntimeError as error:  # torch's class for out of memory and device faults
        raise ModelError(f"model {version} does not run on this device: {error}") from error
    return predictor


def refuse_other_backbone(store: ModelStore, path: Path) -> None:
    """Raise ModelError unless a model's folder is for the configured model's backbone."""
    try:
        theirs, ours = read_card(path), read_card(store.base)
    except CheckpointError as error:
        raise ModelError(str(error)) from error
    if theirs.backbone_sha256 != ours.backbone_sha256:
        raise ModelError(
            f"the model was trained on backbone {theirs.backbone.name} "
            f"({theirs.backbone_sha256[:12]}), this line has {ours.backbone.name} "
            f"({ours.backbone_sha256[:12]}): it cannot run here; import a model of a line with the "
            "same backbone"
        )


def configured_for(config: Config, engine: Engine, version: str | None) -> ModelConfig:
    """`model:` with the checkpoint of one of the line's models.

    Args:
        version: None is the active one.

    Raises:
        ModelError: it is not there.
    """
    if version is None:
        if config.training is None:
            return config.model
        with engine.connect() as connection:
            active = models.active(connection, config.line)
        if active is None:
            return config.model
        version = active.version
    path = store_of(config).path_of(version)
    return config.model.model_copy(update={"checkpoint": path})
