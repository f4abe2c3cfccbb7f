"""`kill -9` of the real `zsad train`, three times at random moments; the last start finishes."""

import contextlib
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from daemon.cli.main import main
from zsad.train import LOG_NAME, STATE_NAMES

pytestmark = pytest.mark.soak  # test_train.py kills a smaller run in every test run

POLL_S = 0.02


def _words(data: Path, clip: str, out: Path) -> list[str]:
    return [
        *("train", "--method", "aa_clip", "--data", str(data), "--layout", "mvtec"),
        *("--backbone", clip, "--every-image", "--out", str(out), "--seed", "3", "--threads", "1"),
        *("--epochs-stage1", "10", "--batch-stage1", "5"),
        *("--epochs-stage2", "10", "--batch-stage2", "5"),
    ]


def _lines(out: Path) -> list[str]:
    log = out / "work" / LOG_NAME
    return log.read_text().splitlines() if log.exists() else []


def _saved_steps(out: Path) -> int:
    """Of both stages together, by the furthest state."""
    found = []
    for path in (out / "work" / name for name in STATE_NAMES):
        if path.exists():
            with safe_open(path, framework="pt") as state:
                facts = state.metadata()
            found.append(30 * int(facts["stage"]) + int(facts["step"]))
    return max(found, default=0)


def _kill_after(words: list[str], out: Path, n_lines: int) -> None:
    """Start the command; kill it as soon as the log has so many lines."""
    command = [sys.executable, "-m", "daemon", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and len(_lines(out)) < n_lines:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "finished before it was killed"


def test_a_run_killed_three_times_ends_with_the_weights_of_an_uninterrupted_one(
    plates: Path, tiny_clip: str, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    moments = sorted(random.sample(range(1, 55), 3))

    for moment in moments:
        _kill_after(_words(plates, tiny_clip, cut), cut, moment)
        assert _saved_steps(cut) >= len(_lines(cut)) - 1  # a step is logged, then saved
    codes = [main(_words(plates, tiny_clip, out)) for out in (cut, whole)]

    assert codes == [0, 0]
    expected, found = (
        safetensors.torch.load_file(out / "weights.safetensors") for out in (whole, cut)
    )
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), f"{name}, killed at {moments}"
    steps = [(entry["stage"], entry["step"]) for entry in map(json.loads, _lines(cut))]
    assert steps == [(stage, step) for stage in ("stage1", "stage2") for step in range(1, 31)]
