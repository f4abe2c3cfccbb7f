"""The staged trainer: it learns, goes on after an interruption, and stops at the first NaN."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zsad.train import LOG_NAME, STATE_NAME, StepLosses, TrainingError, TrainStage, run_stages

TARGET = torch.tensor([[1.0, -2.0], [0.5, 3.0]])


def _stages(n_steps: int = 60, *, poison_at: int | None = None) -> list[TrainStage]:
    """Two stages that fit a matrix, then a vector, from noisy samples."""
    matrix, vector = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    taken = {"steps": 0}

    def fit_matrix(rng: np.random.Generator) -> StepLosses:
        x = torch.from_numpy(rng.normal(size=(8, 2)).astype(np.float32))
        loss = (x @ (matrix - TARGET)).square().mean()
        taken["steps"] += 1
        if poison_at is not None and taken["steps"] == poison_at:
            loss = loss * float("nan")
        return StepLosses(total=loss, terms={"fit": loss})

    def fit_vector(rng: np.random.Generator) -> StepLosses:
        x = torch.from_numpy(rng.normal(size=(8, 2)).astype(np.float32))
        loss = (x * (vector - TARGET[0])).square().mean()
        return StepLosses(total=loss, terms={"fit": loss})

    return [
        TrainStage("matrix", [matrix], n_steps, lambda _: 0.1, fit_matrix, weight_decay=0.01),
        TrainStage("vector", [vector], n_steps, lambda _: 0.1, fit_vector),
    ]


def _values(stages: list[TrainStage]) -> list[torch.Tensor]:
    return [p.detach().clone() for stage in stages for p in stage.parameters]


class _KilledError(Exception):
    """Stands for the process that dies between two steps."""


def _kill_at(name: str, step: int):
    def on_step(stage: str, done: int, _total: int) -> None:
        if (stage, done) == (name, step):
            raise _KilledError

    return on_step


def test_stages_reach_their_targets_in_order(tmp_path: Path) -> None:
    stages = _stages(300)

    run_stages(stages, tmp_path, seed=1, identity="a")

    matrix, vector = _values(stages)
    assert torch.allclose(matrix, TARGET, atol=0.1)
    assert torch.allclose(vector, TARGET[0], atol=0.1)
    log = [json.loads(line) for line in (tmp_path / LOG_NAME).read_text().splitlines()]
    assert [entry["stage"] for entry in log] == ["matrix"] * 3 + ["vector"] * 3
    assert not any(p.requires_grad for stage in stages for p in stage.parameters)


@pytest.mark.parametrize("killed_in", [("matrix", 37), ("vector", 12)])
def test_interrupted_run_ends_with_the_same_weights(
    tmp_path: Path, killed_in: tuple[str, int]
) -> None:
    whole, broken, resumed = _stages(), _stages(), _stages()
    run_stages(whole, tmp_path / "whole", seed=3, identity="a", save_every=10)

    with pytest.raises(_KilledError):
        run_stages(
            broken,
            tmp_path / "cut",
            seed=3,
            identity="a",
            save_every=10,
            on_step=_kill_at(*killed_in),
        )
    run_stages(resumed, tmp_path / "cut", seed=3, identity="a", save_every=10)

    for expected, found in zip(_values(whole), _values(resumed), strict=True):
        assert torch.equal(expected, found)


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    run_stages(_stages(), tmp_path, seed=3, identity="a")
    steps: list[int] = []

    run_stages(
        _stages(),
        tmp_path,
        seed=3,
        identity="a",
        on_step=lambda _name, done, _n: steps.append(done),
    )

    assert steps == []


def test_state_of_another_run_is_refused(tmp_path: Path) -> None:
    run_stages(_stages(), tmp_path, seed=3, identity="a")

    with pytest.raises(TrainingError, match="belongs to another run"):
        run_stages(_stages(), tmp_path, seed=3, identity="b")


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / STATE_NAME).write_bytes(b"not a state")

    with pytest.raises(TrainingError, match="damaged"):
        run_stages(_stages(), tmp_path, seed=3, identity="a")


def test_nan_loss_stops_with_step_and_term(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"matrix: loss is nan at step 5 \(terms \['fit'\]\)"):
        run_stages(_stages(poison_at=5), tmp_path, seed=3, identity="a")


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_train import _stages
from zsad.train import run_stages

def on_step(name, done, total):
    if (name, done) == ("vector", 25):
        print("there", flush=True)
        sys.stdin.read()  # until the parent kills

run_stages(_stages(), Path(sys.argv[2]), seed=3, identity="a", save_every=10, on_step=on_step)
"""


def test_killed_process_is_taken_up_by_the_next(tmp_path: Path) -> None:
    whole, resumed = _stages(), _stages()
    run_stages(whole, tmp_path / "whole", seed=3, identity="a", save_every=10)
    words = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path / "cut")]

    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        child.kill()
    run_stages(resumed, tmp_path / "cut", seed=3, identity="a", save_every=10)

    for expected, found in zip(_values(whole), _values(resumed), strict=True):
        assert torch.equal(expected, found)
