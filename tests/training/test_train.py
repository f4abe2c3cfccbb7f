"""The staged trainer: it learns, goes on after an interruption, and stops at the first NaN."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zsad.train import LOG_NAME, STATE_NAMES, StepLosses, TrainingError, TrainStage, run_stages
from zsad.training_state import Position, StateFiles

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


def _reached(folder: Path, stages: list[TrainStage], identity: str = "a") -> tuple[int, int]:
    """Stage and step of the state that a next run would go on from."""
    position = StateFiles(folder, [stage.parameters for stage in stages], identity).restore()
    return position.stage, position.step


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
    run_stages(whole, tmp_path / "whole", seed=3, identity="a")

    with pytest.raises(_KilledError):
        run_stages(
            broken,
            tmp_path / "cut",
            seed=3,
            identity="a",
            on_step=_kill_at(*killed_in),
        )
    run_stages(resumed, tmp_path / "cut", seed=3, identity="a")

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
    run_stages(_stages(3), tmp_path, seed=3, identity="a")
    for name in STATE_NAMES:
        (tmp_path / name).write_bytes(b"not a state")

    with pytest.raises(TrainingError, match="damaged"):
        run_stages(_stages(), tmp_path, seed=3, identity="a")


def test_nan_loss_stops_with_step_and_term_and_loses_no_step_before(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"matrix: loss is nan at step 5 \(terms \['fit'\]\)"):
        run_stages(_stages(poison_at=5), tmp_path, seed=3, identity="a")

    assert _reached(tmp_path, _stages()) == (0, 4)


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


class _Disk:
    """A clock of seconds that pass only when told, and by `cost_s` at every `os.fsync`."""

    def __init__(self, cost_s: float) -> None:
        self.cost_s, self.now, self.synced = cost_s, 0.0, 0

    def fsync(self, _: int) -> None:
        self.now += self.cost_s
        self.synced += 1


@pytest.mark.parametrize("cost_s", [0.001, 0.02, 0.5])
def test_bringing_states_to_the_disk_costs_two_percent_of_the_time_at_most(
    cost_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _Disk(cost_s)
    monkeypatch.setattr("os.fsync", disk.fsync)
    state = StateFiles(tmp_path, [[nn.Parameter(torch.ones(2))]], "a", clock=lambda: disk.now)

    for step in range(1, 301):
        disk.now += 0.1
        state.save(Position(0, step, {}))

    assert disk.synced * cost_s <= 0.02 * disk.now + cost_s
    if cost_s == 0.001:  # cheap: every step
        assert disk.synced == 300
    else:
        assert disk.synced >= 0.9 * min(300, 0.02 * disk.now / cost_s) - 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_state_comes_back_bit_by_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.randn(4, 6).to(dtype)
    written = nn.Parameter(values.T)  # not contiguous
    moments = {"step.0": torch.tensor(7.0), "exp_avg.0": torch.randn(3), "none": torch.zeros(0)}
    StateFiles(tmp_path, [[written]], "a").save(Position(1, 7, moments))

    read = nn.Parameter(torch.zeros(6, 4, dtype=dtype))
    position = StateFiles(tmp_path, [[read]], "a").restore()

    assert torch.equal(read, written)
    assert (position.stage, position.step) == (1, 7)
    assert position.extras.keys() == moments.keys()
    for name, tensor in moments.items():
        assert torch.equal(position.extras[name], tensor)


@pytest.mark.parametrize("kept_bytes", [0, 5, 100, 4000])
def test_a_power_failure_that_tears_the_latest_files_leaves_the_one_on_the_disk(
    kept_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _Disk(cost_s=1.0)
    monkeypatch.setattr("os.fsync", disk.fsync)
    weight = nn.Parameter(torch.zeros(2000))
    state = StateFiles(tmp_path, [[weight]], "a", clock=lambda: disk.now)
    for step in range(1, 6):  # the first is brought to the disk; then it would cost too much
        with torch.no_grad():
            weight.fill_(step)
        state.save(Position(0, step, {}))

    for name in STATE_NAMES[1:]:  # pages that never reached the disk read as zeros
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:kept_bytes].ljust(path.stat().st_size, b"\0"))

    position = StateFiles(tmp_path, [[weight]], "a").restore()
    assert (position.step, weight[0].item()) == (1, 1.0)


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_train import _stages
from zsad.train import run_stages

def on_step(name, done, total, loss):
    print(["matrix", "vector"].index(name), done, flush=True)

run_stages(_stages(150), Path(sys.argv[2]), seed=3, identity="a", on_step=on_step)
"""


def test_a_run_killed_at_any_moment_loses_at_most_the_step_under_way(tmp_path: Path) -> None:
    whole, resumed = _stages(150), _stages(150)
    run_stages(whole, tmp_path / "whole", seed=3, identity="a")
    words = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path / "cut")]

    for n_steps in (1, 100):
        with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            said = [child.stdout.readline() for _ in range(n_steps)]  # it goes on meanwhile
            child.kill()
            said += child.stdout.readlines()
        last = next(line for line in reversed(said) if line.endswith(b"\n"))
        stage, step = map(int, last.split())
        assert _reached(tmp_path / "cut", _stages()) in {(stage, step), (stage, step + 1)}
    run_stages(resumed, tmp_path / "cut", seed=3, identity="a")

    for expected, found in zip(_values(whole), _values(resumed), strict=True):
        assert torch.equal(expected, found)
