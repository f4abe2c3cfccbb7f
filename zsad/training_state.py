"""What a training run leaves on disk: the state to go on from, and one log line a step.

Refuses to know what a step computes.
"""

import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

STATE_NAMES = tuple(f"training_state.{slot}.safetensors" for slot in range(3))
LOG_NAME = "training_log.jsonl"

SYNCING_SHARE = 0.02
"""Of the time, at most so much goes into bringing states to the disk itself."""


class TrainingError(ValueError):
    """Training cannot start or go on; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is.

    Attributes:
        stage: Number of the stage, from 0.
        step: Steps done in it.
        extras: Optimiser moments and loss scale by name, as `StateFiles.save` got them.
    """

    stage: int
    step: int
    extras: Mapping[str, Tensor]


class StateFiles:
    """Parameters, optimiser moments and position of one run, written after every step.

    A killed process leaves what it wrote in the kernel's memory, so a state survives it without
    waiting for the disk. Only a computer that stops needs the disk: as often as that costs 2 % of
    the time, a state is brought there. Of three files one is on the disk, one is the latest and
    one is free for the next; a file is never seen half written by whoever comes after a kill, and
    a checksum tells what a power failure has torn.

    Args:
        folder: Of the three files.
        stages: The parameters of every stage.
        identity: Describes the run; the state of another one is refused.
        clock: Seconds.
    """

    def __init__(
        self,
        folder: Path,
        stages: Sequence[Sequence[nn.Parameter]],
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = [folder / name for name in STATE_NAMES]
        self._identity = identity
        self._parameters = {
            f"parameter.{number}.{index}": parameter
            for number, stage in enumerate(stages)
            for index, parameter in enumerate(stage)
        }
        self._latest: Path | None = None
        self._on_disk: Path | None = None
        self._clock = clock
        self._synced_at, self._sync_cost_s = clock(), 0.0

    def save(self, position: Position, *, is_last: bool = False) -> None:
        """Write the state of a step that is done; `is_last` brings it to the disk in any case."""
        slot = next(s for s in self._slots if s not in (self._latest, self._on_disk))
        facts = {
            "identity": self._identity,
            "stage": str(position.stage),
            "step": str(position.step),
        }
        temporary = slot.with_name(f".{slot.name}.tmp")
        if slot.exists():
            slot.replace(temporary)  # its space is used again: faster than a new file
        _write(temporary, {**self._parameters, **position.extras}, facts)
        if is_last or self._clock() - self._synced_at >= self._sync_cost_s / SYNCING_SHARE:
            self._sync(temporary)
            self._on_disk = slot
        temporary.replace(slot)
        self._latest = slot

    def restore(self) -> Position:
        """Fill the parameters from the furthest state; a run without one begins at the beginning.

        Raises:
            TrainingError: all files are damaged, or they belong to another run.
        """
        found = {slot: _read(slot) for slot in self._slots if slot.exists()}
        if not found:
            return Position(stage=0, step=0, extras={})
        whole = {slot: state for slot, state in found.items() if state is not None}
        if not whole:
            names = ", ".join(str(slot) for slot in found)
            raise TrainingError(f"damaged: {names}; remove them to start anew")
        slot, (position, identity) = max(
            whole.items(), key=lambda item: (item[1][0].stage, item[1][0].step)
        )
        if identity != self._identity:
            raise TrainingError(
                f"{slot} belongs to another run ({identity}, this one is {self._identity}): "
                f"choose another --out, or remove {', '.join(STATE_NAMES)} to start anew"
            )
        extras = dict(position.extras)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(extras.pop(name))
        self._sync(slot)  # it may have come from a killed process
        self._latest = self._on_disk = slot
        return Position(position.stage, position.step, extras)

    def _sync(self, path: Path) -> None:
        began = self._clock()
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        self._synced_at = self._clock()
        self._sync_cost_s = self._synced_at - began


_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


def _write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """A safetensors file with a checksum, straight from the tensors' memory.

    The library's own writer copies everything twice on the way: four times the time.
    """
    chunks = {
        name: tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        for name, tensor in tensors.items()
    }
    header: dict[str, object] = {}
    checksum = offset = 0
    for name, chunk in chunks.items():
        checksum = zlib.crc32(chunk, checksum)
        header[name] = {
            "dtype": _DTYPE_NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + len(chunk)],
        }
        offset += len(chunk)
    header["__metadata__"] = {**facts, "crc32": str(checksum)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("rb+" if path.exists() else "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for chunk in chunks.values():
            file.write(chunk)
        file.truncate()


def _read(path: Path) -> tuple[Position, str] | None:
    """Position with all tensors, and the run's identity; None if anything is damaged."""
    content = path.read_bytes()
    try:
        tensors = safetensors.torch.load(content)
        end = 8 + struct.unpack("<Q", content[:8])[0]
        facts = json.loads(content[8:end])["__metadata__"]
        if zlib.crc32(memoryview(content)[end:]) != int(facts["crc32"]):
            return None
        return Position(int(facts["stage"]), int(facts["step"]), tensors), facts["identity"]
    except (SafetensorError, KeyError, ValueError):
        return None


class StepLog:
    """One JSON line a step. Lines of steps that a killed run has to do again are taken out.

    Args:
        path: The file.
        stages: Names, in order.
    """

    def __init__(self, path: Path, stages: Sequence[str]) -> None:
        self._path, self._stages = path, list(stages)

    def cut(self, position: Position) -> None:
        """Keep what was logged up to `position`."""
        if not self._path.exists():
            return
        kept = [
            line
            for line in self._path.read_text(encoding="utf-8").splitlines()
            if self._is_before(line, position)
        ]
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        temporary.replace(self._path)

    def append(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Losses of one step."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")

    def _is_before(self, line: str, position: Position) -> bool:
        try:
            entry = json.loads(line)
            place = (self._stages.index(entry["stage"]), int(entry["step"]))
        except (ValueError, KeyError, TypeError):  # cut in the middle when the process died
            return False
        return place <= (position.stage, position.step)
