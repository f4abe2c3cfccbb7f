"""`torchrun` with two processes on the CPU: as one process with a batch twice as large."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from daemon.cli.main import main
from zsad.checkpoint import read_card
from zsad.train import LOG_NAME

pytestmark = pytest.mark.soak  # six processes that import torch

HERE = Path(__file__).parent


def _words(data: Path, clip: str, out: Path, batch: int) -> list[str]:
    return [
        *("train", "--method", "april_gan", "--option", "mosaic=0.3", "--data", str(data)),
        *("--layout", "mvtec", "--backbone", clip, "--every-image", "--out", str(out)),
        *("--seed", "3", "--threads", "1", "--epochs-stage1", "3", "--batch-stage1", str(batch)),
    ]


@pytest.fixture(scope="module")
def runs(plates: Path, tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two processes with a batch of 5 that are interrupted once, and one with a batch of 10."""
    folder = tmp_path_factory.mktemp("runs")
    out = {name: folder / name for name in ("one", "two")}
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = _words(plates, tiny_clip, out["two"], 5)
    for what in ([str(HERE / "two_processes.py"), "3"], ["-m", "daemon"]):
        done = subprocess.run(
            [sys.executable, *start, *what, *words], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert main(_words(plates, tiny_clip, out["one"], 10)) == 0
    return out


def test_two_processes_end_with_the_weights_of_one_with_their_batches_together(
    runs: dict[str, Path],
) -> None:
    one, two = (
        safetensors.torch.load_file(runs[name] / "weights.safetensors") for name in ("one", "two")
    )

    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-6, rtol=0)


def test_one_process_writes_the_log_and_the_losses_are_those_of_all_samples(
    runs: dict[str, Path],
) -> None:
    one, two = (
        [json.loads(line) for line in (runs[name] / "work" / LOG_NAME).read_text().splitlines()]
        for name in ("one", "two")
    )

    # 12 images: a step of 10 and one of 2 in each of 3 epochs; interrupted after the third
    assert [entry["step"] for entry in two] == [1, 2, 3, 4, 5, 6]
    assert [entry["total"] for entry in two] == pytest.approx([e["total"] for e in one], abs=1e-5)


def test_the_card_has_the_command_with_torchrun(runs: dict[str, Path]) -> None:
    command = read_card(runs["two"]).training_command

    assert command.startswith("torchrun --nproc-per-node 2 -m daemon ")
