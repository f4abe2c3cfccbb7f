"""A reference bank on disk: one safetensors file that names its model and vouches for itself.

Refuses a bank that is damaged, was changed, or belongs to another model.
"""

import hashlib
import os
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from zsad.config.section import Section
from zsad.reference_bank import MAX_PATCHES, BankError, ReferenceBank
from zsad.reference_statistics import Appearance, Spread

_ADVICE = "learn the references again"
_MAX_BYTES = 64 << 20
_PLAIN = ("centre", "projection", "patches", "trust")
_SPREADS = ("distance", "opinion", "peak", "level", "whole", "verdict")


class _Header(Section):
    """What the file says of itself, as strings; safetensors knows no others."""

    format: Literal["zsad reference bank 3"] = "zsad reference bank 3"
    version: str
    n_references: int
    sha256: str


def save_bank(path: Path, bank: ReferenceBank) -> None:
    """Write a bank, complete or not at all."""
    tensors = _tensors_of(bank)
    header = _Header(
        version=bank.version,
        n_references=bank.n_references,
        sha256=_digest(bank.version, bank.n_references, tensors),
    )
    metadata = {name: str(value) for name, value in header.model_dump().items()}
    content = safetensors.torch.save(tensors, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
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


def load_bank(path: Path, *, version: str, device: torch.device | str = "cpu") -> ReferenceBank:
    """Read a bank that `save_bank` wrote.

    Args:
        version: Of the model that will use it.
        device: Where the bank goes.

    Raises:
        BankError: it cannot be read, is damaged or changed, or belongs to another model.
    """
    header, tensors = _read(path)
    if header.version != version:
        raise BankError(
            f"{path}: made by model {header.version}, the model here is {version}; {_ADVICE}"
        )
    if header.sha256 != _digest(header.version, header.n_references, tensors):
        raise BankError(f"{path}: its content does not fit its SHA-256; {_ADVICE}")
    # whoever wrote the digest wrote everything: what is left is a file of an older program
    if tensors.keys() != _names() or len(tensors["patches"]) > MAX_PATCHES:
        raise BankError(f"{path}: holds other tensors than this program writes; {_ADVICE}")
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    spreads = {
        name: Spread(tensors[f"{name}_mean"], tensors[f"{name}_deviation"]) for name in _SPREADS
    }
    return ReferenceBank(
        version=header.version,
        n_references=header.n_references,
        centre=tensors["centre"],
        projection=tensors["projection"],
        patches=tensors["patches"],
        trust=tensors["trust"],
        appearance=Appearance(tensors["appearance_mean"], tensors["appearance_variance"]),
        **spreads,
    )


def bank_id(bank: ReferenceBank) -> str:
    """Twelve digits of its content: scores with two banks do not compare."""
    return _digest(bank.version, bank.n_references, _tensors_of(bank))[:12]


def _read(path: Path) -> tuple[_Header, dict[str, Tensor]]:
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise BankError(f"{path}: {size} bytes, limit {_MAX_BYTES}; {_ADVICE}")
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise BankError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise BankError(f"{path}: not a safetensors file: {error}; {_ADVICE}") from error
    try:
        return _Header.model_validate_strings(metadata), tensors
    except ValidationError as error:
        raise BankError(f"{path}: {error.errors()[0]['msg']}; {_ADVICE}") from error


def _names() -> set[str]:
    parts = {f"{name}_{part}" for name in _SPREADS for part in ("mean", "deviation")}
    return {*_PLAIN, "appearance_mean", "appearance_variance"} | parts


def _tensors_of(bank: ReferenceBank) -> dict[str, Tensor]:
    spreads = {name: getattr(bank, name) for name in _SPREADS}
    scalars = {f"{name}_mean": spread.mean for name, spread in spreads.items()}
    scalars |= {f"{name}_deviation": spread.deviation for name, spread in spreads.items()}
    tensors = {name: getattr(bank, name) for name in _PLAIN}
    tensors["appearance_mean"] = bank.appearance.mean
    tensors["appearance_variance"] = bank.appearance.variance
    return {name: t.detach().cpu().contiguous() for name, t in (tensors | scalars).items()}


def _digest(version: str, n_references: int, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{version}\n{n_references}\n".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
