"""The staged trainer: it learns, goes on after an interruption, and stops at the first NaN."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from zsad.train import LOG_NAME, STATE_NAME, StepLosses, TrainingError, TrainStage, run_stages
from zsad.training_state import Position, Saver

TARGET = torch.tensor([[1.0, -2.0], [0.5, 3.0]])


def _stages(n_steps: int = 60, *, poison_at: int | None = None) -> list[TrainStage]:
    """Two stages that fit a matrix, then a vector, from noisy samples."""
    matrix, vector = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    taken = {"steps": 0}

    def fit_matrix(_: int, rng: np.random.Generator) -> StepLosses:
        x = torch.from_numpy(rng.normal(size=(8, 2)).astype(np.float32))
        loss = (x @ (matrix - TARGET)).square().mean()
        taken["steps"] += 1
        if poison_at is not None and taken["steps"] == poison_at:
            loss = loss * float("nan")
        return StepLosses(total=loss, terms={"fit": loss})

    def fit_vector(_: int, rng: np.random.Generator) -> StepLosses:
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
    def on_step(stage: str, done: int, _total: int, _loss: float) -> None:
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
    assert [(entry["stage"], entry["step"]) for entry in log] == [
        (name, step) for name in ("matrix", "vector") for step in range(1, 301)
    ]
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
        on_step=lambda _name, done, _n, _loss: steps.append(done),
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


def test_nan_loss_stops_with_step_and_term_and_loses_no_step_before(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"matrix: loss is nan at step 5 \(terms \['fit'\]\)"):
        run_stages(_stages(poison_at=5), tmp_path, seed=3, identity="a", save_every=1000)

    with safe_open(tmp_path / STATE_NAME, framework="pt") as state:
        assert state.metadata()["step"] == "4"


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.tensor([0.0]))

    def steep(_: int, rng: np.random.Generator) -> StepLosses:
        loss = weight.sqrt().sum()
        return StepLosses(total=loss, terms={"root": loss})

    with pytest.raises(TrainingError, match=r"the gradient's norm is (nan|inf) at step 1"):
        run_stages(
            [TrainStage("steep", [weight], 3, lambda _: 0.1, steep)],
            tmp_path,
            seed=0,
            identity="a",
        )

    assert weight.item() == 0.0


def test_a_log_line_of_a_step_that_is_done_again_is_taken_out(tmp_path: Path) -> None:
    with pytest.raises(_KilledError):
        run_stages(_stages(), tmp_path, seed=3, identity="a", on_step=_kill_at("vector", 12))
    with (tmp_path / LOG_NAME).open("a") as log:
        log.write('{"stage": "vector", "step": 13, "total": 1.0}\n{"stage": "vec')

    run_stages(_stages(), tmp_path, seed=3, identity="a")

    entries = [json.loads(line) for line in (tmp_path / LOG_NAME).read_text().splitlines()]
    assert [(entry["stage"], entry["step"]) for entry in entries] == [
        (name, step) for name in ("matrix", "vector") for step in range(1, 61)
    ]
    assert {"total", "fit", "learning_rate"} <= entries[0].keys()


def test_a_parameter_without_gradient_does_not_hinder_going_on(tmp_path: Path) -> None:
    def idle(stages: list[TrainStage]) -> list[TrainStage]:
        unread = nn.Parameter(torch.ones(2))
        return [replace(stage, parameters=[unread, *stage.parameters]) for stage in stages]

    with pytest.raises(_KilledError):
        run_stages(idle(_stages()), tmp_path, seed=3, identity="a", on_step=_kill_at("matrix", 9))

    run_stages(idle(_stages()), tmp_path, seed=3, identity="a")


def _scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=7)


def test_loss_scaling_goes_on_after_an_interruption(tmp_path: Path) -> None:
    whole, cut, resumed = _scaler(), _scaler(), _scaler()
    expected, found = _stages(), _stages()
    run_stages(expected, tmp_path / "whole", seed=3, identity="a", scaler=whole)

    with pytest.raises(_KilledError):
        run_stages(
            _stages(),
            tmp_path / "cut",
            seed=3,
            identity="a",
            scaler=cut,
            on_step=_kill_at("matrix", 37),
        )
    run_stages(found, tmp_path / "cut", seed=3, identity="a", scaler=resumed)

    assert whole.get_scale() == 2.0 ** (4 + 120 // 7)
    assert resumed.state_dict() == whole.state_dict()
    for one, other in zip(_values(expected), _values(found), strict=True):
        assert torch.equal(one, other)


def test_scaled_losses_give_the_same_weights(tmp_path: Path) -> None:
    plain, scaled = _stages(), _stages()

    run_stages(plain, tmp_path / "a", seed=3, identity="a")
    run_stages(scaled, tmp_path / "b", seed=3, identity="a", scaler=_scaler())

    for one, other in zip(_values(plain), _values(scaled), strict=True):
        torch.testing.assert_close(one, other)


class _Clock:
    """Seconds that pass only when told, and by `cost_s` while a state is written."""

    def __init__(self, state: "_State") -> None:
        self._state, self.now = state, 0.0

    def __call__(self) -> float:
        return self.now + self._state.spent_s


class _State:
    """Takes the place of the state file; saving costs so many seconds."""

    def __init__(self, cost_s: float) -> None:
        self.cost_s, self.spent_s = cost_s, 0.0
        self.saved: list[int] = []

    def save(self, position: Position) -> None:
        self.spent_s += self.cost_s
        self.saved.append(position.step)


@pytest.mark.parametrize("cost_s", [0.001, 0.02, 0.5])
def test_saving_costs_two_percent_of_the_time_at_most(cost_s: float) -> None:
    state = _State(cost_s)
    clock = _Clock(state)
    saver = Saver(state, None, clock)  # type: ignore[arg-type]

    for step in range(1, 1001):
        clock.now += 0.1
        saver.complete(Position(0, step, {}), is_last=False)

    assert state.spent_s <= 0.02 * clock() + cost_s
    if cost_s == 0.001:  # cheap: every step is saved
        assert state.saved == list(range(1, 1001))
    else:
        assert len(state.saved) >= 0.9 * min(1000, 0.02 * clock() / cost_s) - 1


def test_a_step_that_is_under_way_is_never_saved() -> None:
    state = _State(0.0)
    saver = Saver(state, 1000)  # type: ignore[arg-type]
    saver.complete(Position(0, 1, {}), is_last=False)

    saver.forget()
    saver.save_last()

    assert state.saved == []


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_train import _stages
from zsad.train import run_stages

def on_step(name, done, total, loss):
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
