"""A trained detector on disk: `weights.safetensors` (what training changed) and `card.json`.

Refuses everything that does not fit: a detector comes back exactly as it was trained, or not.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from pydantic import AwareDatetime, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from zsad.backbone import Backbone, BackboneError
from zsad.backbone_loading import load_backbone
from zsad.build import build_detector
from zsad.config.backbone import BackboneConfig
from zsad.config.method import MethodConfig
from zsad.config.section import Section
from zsad.detector import Detector

WEIGHTS_NAME = "weights.safetensors"
CARD_NAME = "card.json"
_MAX_CARD_BYTES = 1 << 20
_SHORT = 12


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, what it holds, what is wanted."""


class DataSource(Section):
    """One data set that a detector was trained on.

    Attributes:
        name: Of the data set.
        licence: SPDX identifier or the licence's own name.
        source: Where it comes from (URL or citation).
        images: How many of its images were used.
    """

    name: str
    licence: str
    source: str
    images: int


class CheckpointCard(Section):
    """What a checkpoint is, how it was made, and what it was trained on.

    Attributes:
        backbone_sha256: `Backbone.content_hash()` of the backbone it was trained on.
        activation: `Backbone.activation` it was trained with.
        data: Training data with licences.
        metrics: For example `textile/image_AUROC`.
        seed: Of the training run.
        git_revision: Of the code that trained it; None outside a repository.
        created: UTC.
        training_command: Makes it again.
        weights_sha256: Of `weights.safetensors`; filled in by `save_checkpoint`.
    """

    format: Literal[1] = 1
    method: MethodConfig
    backbone: BackboneConfig
    backbone_sha256: str
    activation: str
    data: tuple[DataSource, ...]
    metrics: dict[str, float]
    seed: int
    git_revision: str | None
    created: AwareDatetime
    training_command: str
    weights_sha256: str = ""


@dataclass(frozen=True, slots=True)
class LoadedDetector:
    """A detector ready to predict.

    Attributes:
        version: `<method>-<12 hex>`; the same files always give the same version.
    """

    detector: Detector
    card: CheckpointCard
    version: str


def new_card(
    detector: Detector,
    *,
    data: tuple[DataSource, ...],
    metrics: dict[str, float],
    seed: int,
    git_revision: str | None,
    created: datetime,
    training_command: str,
) -> CheckpointCard:
    """The card of a detector; what can be read off the detector is."""
    backbone = detector.backbone
    return CheckpointCard(
        method=detector.config,
        backbone=backbone.config,
        backbone_sha256=backbone.content_hash(),
        activation=backbone.activation,
        data=data,
        metrics=metrics,
        seed=seed,
        git_revision=git_revision,
        created=created,
        training_command=training_command,
    )


def save_checkpoint(directory: Path, detector: Detector, card: CheckpointCard) -> str:
    """Write both files, each complete or not at all; the card comes last and vouches.

    Returns:
        The version.

    Raises:
        CheckpointError: the weights hold NaN or infinite values.
    """
    state = {name: t.cpu().contiguous() for name, t in detector.trainable_state_dict().items()}
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"not saved to {directory}: {name} holds NaN or infinite values")
    weights = safetensors.torch.save(state)
    card = card.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    directory.mkdir(parents=True, exist_ok=True)
    _write_atomically(directory / WEIGHTS_NAME, weights)
    _write_atomically(directory / CARD_NAME, (card.model_dump_json(indent=2) + "\n").encode())
    return version_of(card)


def load_detector(
    directory: Path, device: torch.device | str = "cpu", *, backbone: Backbone | None = None
) -> LoadedDetector:
    """Load a detector that `save_checkpoint` wrote.

    Args:
        directory: Holds `weights.safetensors` and `card.json`.
        device: Where the detector goes.
        backbone: An already loaded backbone to share; None loads the one that the card names.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit method or backbone.
    """
    card = read_card(directory)
    state = _read_weights(directory / WEIGHTS_NAME, card.weights_sha256)
    detector = _build(directory / CARD_NAME, card, backbone)
    try:
        detector.load_trainable_state_dict(state)
    except ValueError as error:
        raise CheckpointError(f"{directory / WEIGHTS_NAME}: {error}") from error
    detector.to(device).eval()
    return LoadedDetector(detector=detector, card=card, version=version_of(card))


def read_card(directory: Path) -> CheckpointCard:
    """Read and validate `card.json`.

    Raises:
        CheckpointError: it is missing, too large, or not a card that this program knows.
    """
    path = directory / CARD_NAME
    content = _read(path, limit=_MAX_CARD_BYTES)
    try:
        return CheckpointCard.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        found = repr(first["input"])[:80]
        raise CheckpointError(f"{path}: {where} is {found}: {first['msg']}") from error


def check_weights(directory: Path, card: CheckpointCard) -> None:
    """Compare the weights' hash with the card's, without loading anything.

    Raises:
        CheckpointError: they are missing, damaged or belong to another card.
    """
    _verified_weights(directory / WEIGHTS_NAME, card.weights_sha256)


def version_of(card: CheckpointCard) -> str:
    """`<method>-<12 hex>` of what decides the detector's answers: weights, method, backbone."""
    deciding = card.model_dump(
        mode="json", include={"method", "backbone", "backbone_sha256", "weights_sha256"}
    )
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
    return f"{card.method.method}-{digest[:_SHORT]}"


def _build(card_path: Path, card: CheckpointCard, backbone: Backbone | None) -> Detector:
    """The untrained detector on the backbone that the card wants."""
    if backbone is None:
        try:
            backbone = load_backbone(card.backbone)
        except BackboneError as error:
            raise CheckpointError(f"{card_path}: {error}") from error
    elif backbone.config != card.backbone:
        raise CheckpointError(
            f"{card_path}: trained on {card.backbone!r}, the given backbone is {backbone.config!r}"
        )
    if backbone.activation != card.activation:
        raise CheckpointError(
            f"{card_path}: trained with activation {card.activation}, backbone {backbone.name} "
            f"uses {backbone.activation}"
        )
    if backbone.content_hash() != card.backbone_sha256:
        raise CheckpointError(
            f"{card_path}: trained on backbone {card.backbone_sha256[:_SHORT]}, but "
            f"{backbone.name} here is {backbone.content_hash()[:_SHORT]}; install the weights "
            "that it was trained on"
        )
    try:
        detector = build_detector(card.method, backbone)
    except ValueError as error:
        raise CheckpointError(f"{card_path}: {error}") from error
    return detector


def _read_weights(path: Path, wanted_sha256: str) -> dict[str, Tensor]:
    content = _verified_weights(path, wanted_sha256)
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error


def _verified_weights(path: Path, wanted_sha256: str) -> bytes:
    content = _read(path)
    found = hashlib.sha256(content).hexdigest()
    if found != wanted_sha256:
        raise CheckpointError(
            f"{path}: SHA-256 is {found[:_SHORT]}, the card wants {wanted_sha256[:_SHORT]}; "
            "the file is damaged or belongs to another card"
        )
    return content


def _read(path: Path, limit: int | None = None) -> bytes:
    try:
        if limit is not None and path.stat().st_size > limit:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, limit {limit}")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)
