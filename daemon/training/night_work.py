"""What a night keeps on disk until it is over, so that a killed one goes on where it was.

    <models_dir>/.night/lock          held while a night runs
    <models_dir>/.night/<identity>/   of one snapshot, active model and configuration

A file is there complete or not at all. Refuses to know what the steps compute.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from daemon.lock_file import only_one_in
from zsad.checkpoint import CheckpointError, check_weights, read_card

WORK_NAME = ".night"
Kept = TypeVar("Kept", bound=BaseModel)


@contextlib.contextmanager
def only_night(models_dir: Path) -> Iterator[None]:
    """Hold the lock; the kernel frees it however the process ends.

    Raises:
        ConfigError: another night is running, or `models_dir` cannot be written.
    """
    taken = (
        f"another night is running with {models_dir}: wait for its end, `zsad status` shows how "
        "far it is"
    )
    with only_one_in(models_dir / WORK_NAME, "training.models_dir", taken):
        yield


def work_folder(models_dir: Path, identity: Mapping[str, object]) -> Path:
    """The folder of this very night, made if missing; those of others are removed."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = models_dir / WORK_NAME
    for other in folder.glob("*"):
        if other.name != digest and other.is_dir():
            shutil.rmtree(other)
    work = folder / digest
    work.mkdir(parents=True, exist_ok=True)
    return work


def start_clean(models_dir: Path) -> None:
    """Nothing of any night is taken up by the next."""
    for work in (models_dir / WORK_NAME).glob("*"):
        if work.is_dir():
            shutil.rmtree(work, ignore_errors=True)


def read_kept(file: Path, kind: type[Kept]) -> Kept | None:
    """What `keep` wrote; None where there is nothing whole."""
    try:
        return kind.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def keep(file: Path, found: BaseModel) -> None:
    """Write it, complete or not at all. Raises OSError."""
    temporary = file.with_name(f".{file.name}")
    temporary.write_text(found.model_dump_json(), encoding="utf-8")
    temporary.replace(file)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is there and undamaged."""
    try:
        check_weights(checkpoint, read_card(checkpoint))
    except CheckpointError:
        return False
    return True
