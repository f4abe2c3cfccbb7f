"""Trained models on disk: `<models_dir>/<method>/<version>/` with weights, card and golden images.

A folder is there complete or not at all, and is never changed afterwards; every look at one
verifies its hashes. Refuses to know which model is active: the database says that.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from daemon.errors import ModelError
from daemon.lock_file import only_one_in
from daemon.training.golden import BOOK_NAME, read_golden
from zsad.checkpoint import (
    CARD_NAME,
    WEIGHTS_NAME,
    CheckpointCard,
    CheckpointError,
    check_weights,
    read_card,
    version_of,
)
from zsad.compact import default_checkpoint

GOLDEN_NAME = "golden"
_VERSION = re.compile(r"[a-z0-9_]{1,64}-[0-9a-f]{12}")
SCRATCH_NAME = ".import"
_LOCK_NAME = ".lock"
_HALF = ".half-"
"""Folders that begin so are being written or removed; what is left of a crash goes."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One model of the store.

    Attributes:
        n_bytes: Of all its files.
    """

    version: str
    path: Path
    card: CheckpointCard
    n_bytes: int

    @property
    def created(self) -> datetime:
        """When its training ended."""
        return self.card.created


class ModelStore:
    """The models of one line: those in `models_dir`, and the configured one.

    Attributes:
        folder: `training.models_dir`.
        base: Folder of the configured model; it is never removed.
    """

    def __init__(self, folder: Path, base: Path | None, in_use: Collection[Path] = ()) -> None:
        """`base` None is the detector that ships with the package.

        Args:
            in_use: Folders of models that single categories have; never removed either.
        """
        self.folder = folder
        self._in_use = in_use
        self.base = base or default_checkpoint()

    def base_version(self) -> str:
        """The version of the configured model.

        Raises:
            ModelError: it has no readable card.
        """
        return version_of(self._card(self.base))

    def add(self, source: Path) -> str:
        """Copy a model in, complete or not at all; one that is there undamaged is left as it is.

        Args:
            source: Holds weights.safetensors and card.json as `save_checkpoint` wrote them, and a
                folder golden/ as `write_golden` did.

        Returns:
            Its version.

        Raises:
            ModelError: something of it is missing or damaged, or the disk takes no more.
        """
        version = self._verified(source)
        try:
            with self._locked():
                target = self._place(version)
                if target.exists():
                    with contextlib.suppress(ModelError):
                        self._verified(target)
                        return version
                    self._remove(target)
                half = target.with_name(f"{_HALF}{version}")
                half.mkdir(parents=True)
                names = [WEIGHTS_NAME, CARD_NAME, f"{GOLDEN_NAME}/{BOOK_NAME}"]
                golden = read_golden(source / GOLDEN_NAME, version)
                names += [f"{GOLDEN_NAME}/{image.file}" for image in golden.images]
                (half / GOLDEN_NAME).mkdir()
                for name in names:
                    _copy(source / name, half / name)
                _sync_folder(half / GOLDEN_NAME)
                _sync_folder(half)
                self._verified(half)
                half.rename(target)
                _sync_folder(target.parent)
        except OSError as error:
            raise ModelError(
                f"training.models_dir {self.folder}: model {version} cannot be stored: "
                f"{error.strerror} ({error.filename})"
            ) from error
        return version

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder for a model that is being imported; gone afterwards.

        What a killed import left there goes with the next one.

        Raises:
            ConfigError: Another import is running, or the store cannot be written.
            ModelError: What was left cannot be removed.
        """
        folder = self.folder / SCRATCH_NAME
        taken = f"another model is being imported into {self.folder}: wait for its end"
        with only_one_in(folder, "training.models_dir", taken):
            scratch = folder / "model"
            try:
                if scratch.exists():
                    shutil.rmtree(scratch)
                scratch.mkdir()
            except OSError as error:
                raise ModelError(f"{scratch}: cannot be made anew: {error.strerror}") from error
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def path_of(self, version: str) -> Path:
        """Where a model lies; nothing is verified.

        Raises:
            ModelError: it is not there, or this is no version.
        """
        path = self._place(version)
        if path.is_dir():
            return path
        with contextlib.suppress(ModelError):  # without a readable card it is not the one wanted
            if self.base_version() == version:
                return self.base
        raise ModelError(
            f"model {version} is neither in {self.folder} nor the configured one: "
            "`zsad model list` shows what is there, `zsad model import` brings one"
        )

    def verify(self, version: str) -> CheckpointCard:
        """Check every hash of a model; what its card says.

        Raises:
            ModelError: it is not there, or damaged.
        """
        path = self.path_of(version)
        if path == self.base:
            card = self._card(path)
            self._check_weights(path, card)
            return card
        if (found := self._verified(path)) != version:
            raise ModelError(f"{path}: holds model {found}; the folder was changed")
        return self._card(path)

    def golden_of(self, version: str) -> Path | None:
        """The folder of its golden images; None for the configured model, which has none."""
        path = self.path_of(version)
        return None if path == self.base else path / GOLDEN_NAME

    def models(self) -> list[StoredModel]:
        """What is in the folder, newest first; one without a readable card is left out."""
        found = []
        for path in self.folder.glob("*/*"):
            if not _VERSION.fullmatch(path.name) or path.parent.name != _method_of(path.name):
                continue
            with contextlib.suppress(ModelError):
                found.append(StoredModel(path.name, path, self._card(path), _size_of(path)))
        return sorted(found, key=lambda model: (_added_at(model.path), model.version), reverse=True)

    def prune(self, keep: Collection[str], last: int) -> list[str]:
        """Remove all but `keep` and the `last` that were added last; which went.

        Raises:
            OSError: one cannot be removed.
        """
        others = [
            model
            for model in self.models()
            if model.version not in keep and model.path not in self._in_use
        ]
        gone = []
        with self._locked():
            for model in others[last:]:
                self._remove(model.path)
                gone.append(model.version)
        return gone

    def _remove(self, path: Path) -> None:
        """Never half in sight."""
        half = path.with_name(f"{_HALF}{path.name}")
        path.rename(half)
        shutil.rmtree(half)

    def _place(self, version: str) -> Path:
        if not _VERSION.fullmatch(version):
            raise ModelError(
                f"{version!r} is not a model version such as aa_clip-0123456789ab: "
                "`zsad model list` shows them"
            )
        return self.folder / _method_of(version) / version

    def _verified(self, path: Path) -> str:
        """The version of what lies in a folder, every hash checked."""
        card = self._card(path)
        self._check_weights(path, card)
        version = version_of(card)
        read_golden(path / GOLDEN_NAME, version)
        return version

    def _card(self, path: Path) -> CheckpointCard:
        try:
            return read_card(path)
        except CheckpointError as error:
            raise ModelError(str(error)) from error

    def _check_weights(self, path: Path, card: CheckpointCard) -> None:
        try:
            check_weights(path, card)
        except CheckpointError as error:
            raise ModelError(str(error)) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; what a crash left half is removed first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK_NAME).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self.folder.glob(f"*/{_HALF}*"):
                shutil.rmtree(left)
            yield


def _method_of(version: str) -> str:
    return version.rpartition("-")[0]


def _added_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # removed meanwhile
        return 0


def _size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing)
        writing.flush()
        os.fsync(writing.fileno())


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
