"""What a training run leaves on disk: the state to go on from, and one log line a step.

Refuses to know what a step computes.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

STATE_NAME = "training_state.safetensors"
LOG_NAME = "training_log.jsonl"

SAVING_SHARE = 0.02
"""Of the time, at most so much goes into saving states."""


class TrainingError(ValueError):
    """Training cannot start or go on; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is.

    Attributes:
        stage: Number of the stage, from 0.
        step: Steps done in it.
        extras: Optimiser moments and loss scale by name, as `StateFile.save` got them.
    """

    stage: int
    step: int
    extras: Mapping[str, Tensor]


class StateFile:
    """Parameters, optimiser moments and position of one run, complete or as they were before.

    Args:
        path: The file.
        stages: The parameters of every stage.
        identity: Describes the run; the state of another one is refused.
    """

    def __init__(self, path: Path, stages: Sequence[Sequence[nn.Parameter]], identity: str) -> None:
        self._path = path
        self._identity = identity
        self._parameters = {
            f"parameter.{number}.{index}": parameter
            for number, stage in enumerate(stages)
            for index, parameter in enumerate(stage)
        }

    def save(self, position: Position) -> None:
        """Write atomically: a process that dies meanwhile leaves the state before."""
        tensors = {
            name: value.detach().clone(memory_format=torch.contiguous_format).cpu()
            for name, value in {**self._parameters, **position.extras}.items()
        }
        facts = {
            "identity": self._identity,
            "stage": str(position.stage),
            "step": str(position.step),
        }
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        safetensors.torch.save_file(tensors, temporary, metadata=facts)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def restore(self) -> Position:
        """Fill the parameters; a run without a state begins at the beginning.

        Raises:
            TrainingError: the file is damaged or belongs to another run.
        """
        if not self._path.exists():
            return Position(stage=0, step=0, extras={})
        try:
            with safe_open(self._path, framework="pt") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stage, step = int(facts["stage"]), int(facts["step"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise TrainingError(
                f"{self._path} is damaged ({error}): remove it to start anew"
            ) from error
        if facts.get("identity") != self._identity:
            raise TrainingError(
                f"{self._path} belongs to another run ({facts.get('identity')}, this one is "
                f"{self._identity}): choose another --out, or remove the file to start anew"
            )
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors.pop(name))
        return Position(stage=stage, step=step, extras=tensors)


class Saver:
    """Saves a state every so many steps, or as often as it costs 2 % of the time.

    Whatever ends the run, `save_last` still saves the last step that was completed.

    Args:
        state: None in a process that writes nothing.
        every: Steps between two states; None adapts.
        clock: Seconds.
    """

    def __init__(
        self,
        state: StateFile | None,
        every: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._every, self._clock = state, every, clock
        self._pending: Position | None = None
        self._steps, self._cost_s, self._saved_at = 0, 0.0, clock()

    def forget(self) -> None:
        """Weights are about to change: the last step's state can no longer be saved."""
        self._pending = None

    def complete(self, position: Position, *, is_last: bool) -> None:
        """A step is done; `position.extras` may be views of what the next one changes."""
        self._pending = position
        self._steps += 1
        if self._every is None:
            is_due = self._clock() - self._saved_at >= self._cost_s / SAVING_SHARE
        else:
            is_due = self._steps >= self._every
        if is_due or is_last:
            self.save_last()

    def save_last(self) -> None:
        """Save the last completed step unless that is done."""
        if self._pending is None or self._state is None:
            return
        began = self._clock()
        self._state.save(self._pending)
        self._pending = None
        self._steps, self._saved_at = 0, self._clock()
        self._cost_s = self._saved_at - began


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
