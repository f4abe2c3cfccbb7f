"""Trains listed parameters in stages; killed at any moment, the same call goes on where it was.

Every step draws its randomness from (seed, stage, step) alone, and the state file holds parameters
and optimiser moments, so an interrupted run ends with the same weights as an uninterrupted one.
Refuses to know methods and data: a stage brings its own loss.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

STATE_NAME = "training_state.safetensors"
LOG_NAME = "training_log.jsonl"


class TrainingError(ValueError):
    """Training cannot start or go on; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class StepLosses:
    """`total` is back-propagated, `terms` are logged."""

    total: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class TrainStage:
    """One run of an optimiser over some parameters.

    Attributes:
        name: For the log.
        parameters: What changes; nothing else does.
        n_steps: How many optimiser steps.
        learning_rate: Step number -> learning rate.
        step_losses: Draws a batch with the generator and computes its losses.
        betas: Adam's.
        weight_decay: Decoupled, on matrices only.
        max_gradient_norm: Clip above it; infinity never clips.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    n_steps: int
    learning_rate: Callable[[int], float]
    step_losses: Callable[[np.random.Generator], StepLosses]
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_gradient_norm: float = math.inf


def run_stages(
    stages: Sequence[TrainStage],
    out: Path,
    *,
    seed: int,
    identity: str,
    save_every: int = 100,
    on_step: Callable[[str, int, int], None] | None = None,
) -> None:
    """Run all stages, going on from `out` if an earlier call with the same identity left a state.

    Args:
        stages: In order.
        out: Folder for state and log; made if missing.
        seed: Of every random draw.
        identity: Describes the run; a state with another one is refused.
        save_every: Steps between two states.
        on_step: Called with stage name, steps done, steps in all.

    Raises:
        TrainingError: a loss is not finite, or the state is of another run or damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    first_stage, first_step, moments = _restore(out / STATE_NAME, stages, identity)
    for number, stage in enumerate(stages[first_stage:], start=first_stage):
        optimizer = _optimizer(stage, moments)
        _train_mode(stages, stage)
        for step in range(first_step, stage.n_steps):
            losses = _step(stage, optimizer, np.random.default_rng([seed, number, step]), step)
            done = step + 1
            if done % save_every == 0 or done == stage.n_steps:
                values = {
                    name: round(value.detach().item(), 6) for name, value in losses.terms.items()
                }
                entry: dict[str, object] = {
                    "stage": stage.name,
                    "step": done,
                    "total": losses.total.detach().item(),
                    **values,
                }
                _append_line(out / LOG_NAME, entry)
                _save(out / STATE_NAME, stages, number, done, optimizer, identity)
            if on_step is not None:
                on_step(stage.name, done, stage.n_steps)
        first_step, moments = 0, {}
    _train_mode(stages, None)


def _train_mode(stages: Sequence[TrainStage], active: TrainStage | None) -> None:
    """Only the active stage's parameters collect gradients."""
    for stage in stages:
        for parameter in stage.parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
    for parameter in active.parameters if active is not None else ():
        parameter.requires_grad_(True)


def _optimizer(stage: TrainStage, moments: dict[str, Tensor]) -> torch.optim.AdamW:
    matrices = [p for p in stage.parameters if p.ndim > 1]
    vectors = [p for p in stage.parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": stage.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=stage.betas)
    if moments:
        for index, parameter in enumerate(stage.parameters):
            optimizer.state[parameter] = {
                "step": moments[f"step.{index}"],
                "exp_avg": moments[f"exp_avg.{index}"],
                "exp_avg_sq": moments[f"exp_avg_sq.{index}"],
            }
    return optimizer


def _step(
    stage: TrainStage, optimizer: torch.optim.AdamW, rng: np.random.Generator, step: int
) -> StepLosses:
    losses = stage.step_losses(rng)
    if not torch.isfinite(losses.total):
        bad = [name for name, value in losses.terms.items() if not torch.isfinite(value)]
        raise TrainingError(
            f"{stage.name}: loss is {losses.total.item()} at step {step + 1} (terms {bad}); "
            "lower the learning rate or check the data; the last saved state is kept"
        )
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()  # type: ignore[no-untyped-call]
    if math.isfinite(stage.max_gradient_norm):
        torch.nn.utils.clip_grad_norm_(stage.parameters, stage.max_gradient_norm)
    for group in optimizer.param_groups:
        group["lr"] = stage.learning_rate(step)
    optimizer.step()
    return losses


def _save(
    path: Path,
    stages: Sequence[TrainStage],
    stage_number: int,
    step: int,
    optimizer: torch.optim.AdamW,
    identity: str,
) -> None:
    tensors: dict[str, Tensor] = {}
    for number, stage in enumerate(stages):
        for index, parameter in enumerate(stage.parameters):
            tensors[f"parameter.{number}.{index}"] = parameter.detach().clone(
                memory_format=torch.contiguous_format
            )
    for index, parameter in enumerate(stages[stage_number].parameters):
        for name, value in optimizer.state[parameter].items():
            tensors[f"{name}.{index}"] = value.detach().clone(memory_format=torch.contiguous_format)
    position = {"identity": identity, "stage": str(stage_number), "step": str(step)}
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(safetensors.torch.save(tensors, metadata=position))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _restore(
    path: Path, stages: Sequence[TrainStage], identity: str
) -> tuple[int, int, dict[str, Tensor]]:
    """Fill the parameters from a state; (stage, step, optimiser moments) to go on from."""
    if not path.exists():
        return 0, 0, {}
    try:
        with safe_open(path, framework="pt") as file:
            position = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stage_number, step = int(position["stage"]), int(position["step"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} is damaged ({error}): remove it to start anew") from error
    if position.get("identity") != identity:
        raise TrainingError(
            f"{path} belongs to another run ({position.get('identity')}, this one is {identity}): "
            "choose another --out, or remove the file to start anew"
        )
    with torch.no_grad():
        for number, stage in enumerate(stages):
            for index, parameter in enumerate(stage.parameters):
                parameter.copy_(tensors.pop(f"parameter.{number}.{index}"))
    return stage_number, step, tensors


def _append_line(path: Path, entry: dict[str, object]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
