"""Trains listed parameters in stages; killed at any moment, the same call goes on where it was.

Every step draws its randomness from (seed, stage, step) alone, and the state file holds parameters
and optimiser moments, so an interrupted run ends with the same weights as an uninterrupted one.
Refuses to know methods and data: a stage brings its own loss.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zsad.processes import ALONE, Processes
from zsad.training_state import LOG_NAME as LOG_NAME
from zsad.training_state import STATE_NAMES as STATE_NAMES
from zsad.training_state import Position, StateFiles, StepLog
from zsad.training_state import TrainingError as TrainingError

OnStep = Callable[[str, int, int, float], None]
"""Called with stage name, steps done, steps in all, loss."""


@dataclass(frozen=True, slots=True)
class StepLosses:
    """`total` is back-propagated, `terms` are logged.

    Attributes:
        share: Of the step's samples, how many this process had; the shares of all processes add
            up to 1.
    """

    total: Tensor
    terms: dict[str, Tensor]
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class TrainStage:
    """One run of an optimiser over some parameters.

    Attributes:
        name: For the log.
        parameters: What changes; nothing else does.
        n_steps: How many optimiser steps.
        learning_rate: Step number -> learning rate.
        step_losses: Step number and its generator -> losses of this process's samples.
        betas: Adam's.
        weight_decay: Decoupled, on matrices only.
        max_gradient_norm: Clip above it; infinity never clips.
        on_end: Called when the stage is over, and again when the run is, however it ends.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    n_steps: int
    learning_rate: Callable[[int], float]
    step_losses: Callable[[int, np.random.Generator], StepLosses]
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_gradient_norm: float = math.inf
    on_end: Callable[[], None] = lambda: None


def run_stages(
    stages: Sequence[TrainStage],
    out: Path,
    *,
    seed: int,
    identity: str,
    on_step: OnStep | None = None,
    scaler: torch.amp.GradScaler | None = None,
    processes: Processes = ALONE,
) -> None:
    """Run all stages, going on from `out` if an earlier call with the same identity left a state.

    Killed at any moment, a run loses at most the step that was under way; when the computer itself
    stops, what came after the last state on the disk.

    Args:
        stages: In order.
        out: Folder for state and log; made if missing.
        seed: Of every random draw.
        identity: Describes the run; a state with another one is refused.
        on_step: Told of every step.
        scaler: Scales the loss of a float16 run; None is none.
        processes: Between which every step's samples are divided; the first one writes.

    Raises:
        TrainingError: a loss or gradient is not finite, or the state is of another run or damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    state = StateFiles(out, [stage.parameters for stage in stages], identity)
    reached = state.restore()
    log = StepLog(out / LOG_NAME, [stage.name for stage in stages])
    processes.wait_for_all()  # nobody writes what another one is still reading
    if processes.is_first:
        log.cut(reached)
    try:
        for number, stage in enumerate(stages[reached.stage :], start=reached.stage):
            trainer = _StageTrainer(stage, number, seed, scaler, processes)
            _train_mode(stages, stage)
            trainer.resume(reached.extras)
            for step in range(reached.step, stage.n_steps):
                values = trainer.prepare(step)
                trainer.update(step)
                done = step + 1
                if processes.is_first:
                    log.append(stage.name, done, values)
                    position = Position(number, done, trainer.extras())
                    state.save(position, is_last=done == stage.n_steps)
                if on_step is not None:
                    on_step(stage.name, done, stage.n_steps, values["total"])
            reached = Position(number + 1, 0, {})
            stage.on_end()
    finally:
        for stage in stages:
            stage.on_end()
    _train_mode(stages, None)


class _StageTrainer:
    """The optimiser of one stage, and its steps in two halves: gradients, then weights."""

    def __init__(
        self,
        stage: TrainStage,
        number: int,
        seed: int,
        scaler: torch.amp.GradScaler,
        processes: Processes,
    ) -> None:
        self._stage, self._number, self._seed = stage, number, seed
        self._scaler, self._processes = scaler, processes
        self._optimizer = _optimizer(stage)

    def prepare(self, step: int) -> dict[str, float]:
        """Losses and gradients of all processes' samples.

        Returns:
            `total`, every term and the learning rate, for the log.
        """
        rng = np.random.default_rng([self._seed, self._number, step])
        losses = self._stage.step_losses(step, rng)
        named = {"total": losses.total, **losses.terms}
        stacked = torch.stack([value.detach().float() for value in named.values()])
        means = self._processes.sum(stacked * losses.share).tolist()
        values = dict(zip(named, means, strict=True))
        self._refuse_infinite(values, step)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(losses.total * losses.share).backward()  # type: ignore[no-untyped-call]
        self._processes.sum_gradients(self._stage.parameters)
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._stage.parameters, self._stage.max_gradient_norm)
        if not self._scaler.is_enabled() and not torch.isfinite(norm):
            raise TrainingError(
                f"{self._stage.name}: the gradient's norm is {norm.item()} at step {step + 1}, "
                f"the losses are {values}; lower the learning rate, or use --precision fp32; "
                "the state before this step is kept"
            )
        return {**values, "learning_rate": self._stage.learning_rate(step)}

    def update(self, step: int) -> None:
        """Change the weights; a float16 gradient that overflowed only lowers the loss scale."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._stage.learning_rate(step)
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def extras(self) -> dict[str, Tensor]:
        """What `resume` needs beside the parameters."""
        found = {
            f"{name}.{index}": value
            for index, parameter in enumerate(self._stage.parameters)
            for name, value in self._optimizer.state.get(parameter, {}).items()
        }
        for name, value in self._scaler.state_dict().items():
            found[f"loss_scale.{name}"] = torch.tensor(value, dtype=torch.float64)
        return found

    def resume(self, extras: Mapping[str, Tensor]) -> None:
        """Take over what an earlier run's `extras` were."""
        for index, parameter in enumerate(self._stage.parameters):
            if f"step.{index}" in extras:  # a parameter without gradient has no moments
                self._optimizer.state[parameter] = {
                    "step": extras[f"step.{index}"],
                    "exp_avg": extras[f"exp_avg.{index}"].to(parameter.device),
                    "exp_avg_sq": extras[f"exp_avg_sq.{index}"].to(parameter.device),
                }
        scale = {
            name.removeprefix("loss_scale."): value.item()
            for name, value in extras.items()
            if name.startswith("loss_scale.")
        }
        if scale and self._scaler.is_enabled():
            counts = ("growth_interval", "_growth_tracker")
            whole = {name: int(scale[name]) for name in counts}
            self._scaler.load_state_dict({**scale, **whole})

    def _refuse_infinite(self, values: Mapping[str, float], step: int) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            terms = [name for name in bad if name != "total"]
            raise TrainingError(
                f"{self._stage.name}: loss is {values['total']} at step {step + 1} (terms {terms});"
                " lower the learning rate or check the data; the state before this step is kept"
            )


def _train_mode(stages: Sequence[TrainStage], active: TrainStage | None) -> None:
    """Only the active stage's parameters collect gradients."""
    for stage in stages:
        for parameter in stage.parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
    for parameter in active.parameters if active is not None else ():
        parameter.requires_grad_(True)


def _optimizer(stage: TrainStage) -> torch.optim.AdamW:
    matrices = [p for p in stage.parameters if p.ndim > 1]
    vectors = [p for p in stage.parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": stage.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=stage.betas)
