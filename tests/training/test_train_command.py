"""`zsad train` as a user types it, on a small generated data set."""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from daemon.cli.main import main
from daemon.cli.output import Advance
from zsad.backbone_loading import load_backbone
from zsad.checkpoint import CARD_NAME, load_detector, read_card
from zsad.config.aa_clip import AAClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.datasets.layouts import read_dataset
from zsad.evaluate import evaluate
from zsad.methods.aa_clip import AAClip
from zsad.predictor import Predictor
from zsad.train import LOG_NAME, STATE_NAMES

SETTINGS = ["--layout", "mvtec", "--backbone", "compact-v1", "--views", "50", "--seed", "3"]
STEPS = ["--epochs-stage1", "1", "--epochs-stage2", "4", "--batch-stage2", "10"]


def _words(data: Path, out: Path) -> list[str]:
    return ["train", "--method", "aa_clip", "--data", str(data), "--out", str(out), *SETTINGS]


@pytest.fixture(scope="module")
def trained(plates: Path, felts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run")
    words = [*_words(plates, out), *STEPS, "--lr-stage2", "2e-3", "--unseen", str(felts)]
    assert main(words) == 0
    return out


def _pixel_auroc(detector: AAClip, root: Path) -> float:
    backbone = detector.backbone
    predictor = Predictor(
        detector, backbone.mean, backbone.std, torch.device("cpu"), version="test"
    )
    samples = read_dataset(root, "mvtec")
    return evaluate(predictor, samples, batch_size=6, warn=pytest.fail).mean()["pixel_AUROC"]


def test_training_beats_the_untrained_detector_on_a_category_it_never_saw(
    trained: Path, felts: Path
) -> None:
    backbone = load_backbone(BackboneConfig(name="compact-v1"))
    untrained = [AAClip(backbone, AAClipConfig(), seed=seed).eval() for seed in range(3)]

    after = _pixel_auroc(load_detector(trained, backbone=backbone).detector, felts)
    before = [_pixel_auroc(detector, felts) for detector in untrained]

    assert after > 0.9
    assert after > np.mean(before) + 0.05  # one random direction may point the right way


def test_losses_fall(trained: Path) -> None:
    log = [json.loads(line) for line in (trained / "work" / LOG_NAME).read_text().splitlines()]

    stage2 = [entry for entry in log if entry["stage"] == "stage2"]

    assert stage2[-1]["dice_abnormal"] < 0.9


def test_the_card_says_what_it_was_trained_on_and_how_it_does_elsewhere(trained: Path) -> None:
    card = read_card(trained)

    assert [(d.name.rstrip("0123456789"), d.licence, d.images) for d in card.data] == [
        ("plates", "CC0-1.0", 12)
    ]
    assert card.seed == 3
    assert any(name.endswith("felt/pixel_AUROC") for name in card.metrics)


def test_the_same_command_again_changes_nothing(trained: Path, plates: Path, felts: Path) -> None:
    before = load_detector(trained).version
    words = [*_words(plates, trained), *STEPS, "--lr-stage2", "2e-3", "--unseen", str(felts)]

    assert main(words) == 0

    assert load_detector(trained).version == before


def test_another_run_in_the_same_folder_is_refused(
    trained: Path, plates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*_words(plates, trained), "--epochs-stage1", "9"])

    assert code == 2
    assert "belongs to another run" in capsys.readouterr().err


def test_a_method_without_a_backbone_is_refused(
    plates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--method", "aa_clip", "--data", str(plates), "--layout", "mvtec"]

    code = main([*words, "--out", str(tmp_path)])

    assert code == 2
    assert "--backbone is missing" in capsys.readouterr().err
    assert not (tmp_path / CARD_NAME).exists()


def test_the_compact_backbone_trains_by_the_same_command(plates: Path, tmp_path: Path) -> None:
    words = ["train", "--method", "compact_backbone", "--data", str(plates), "--layout", "mvtec"]

    code = main([*words, "--out", str(tmp_path), "--views", "20", "--synthetic"])

    facts = json.loads((tmp_path / "compact_v1.json").read_text())
    assert code == 0
    assert (tmp_path / "compact_v1.safetensors").stat().st_size > 600_000
    assert [entry["licence"] for entry in facts["data"]] == ["CC0-1.0", *2 * ["Apache-2.0"]]
    assert (tmp_path / "clip_compact_v1" / CARD_NAME).is_file()


def _every_image(data: Path, clip: str, out: Path, *more: str) -> list[str]:
    return [
        *("train", "--method", "april_gan", "--data", str(data), "--layout", "mvtec"),
        *("--backbone", clip, "--every-image", "--out", str(out), "--epochs-stage1", "2"),
        *more,
    ]


def _weights(out: Path) -> torch.Tensor:
    tensors = safetensors.torch.load_file(out / "weights.safetensors")
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def test_every_image_is_seen_once_an_epoch(plates: Path, tiny_clip: str, tmp_path: Path) -> None:
    assert main(_every_image(plates, tiny_clip, tmp_path)) == 0

    log = (tmp_path / "work" / LOG_NAME).read_text().splitlines()
    assert len(log) == 2 * 2  # 12 images, batch 8
    assert read_card(tmp_path).data[0].images == 12


def test_bfloat16_blocks_end_with_nearly_the_same_weights(
    plates: Path, tiny_clip: str, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ("fp32", "bf16")]
    for out in outs:
        assert main(_every_image(plates, tiny_clip, out, "--precision", out.name)) == 0

    exact, near = (_weights(out) for out in outs)
    assert not torch.equal(exact, near)
    assert (exact - near).abs().mean() < 1e-4  # four Adam steps of 1e-3 moved them
    assert torch.cosine_similarity(exact, near, dim=0) > 0.999


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--precision", "fp16"], "--precision fp16 on cpu: float16 products need a CUDA device"),
        (["--views", "50"], "not allowed with argument --every-image"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(
    plates: Path,
    tiny_clip: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    reason: str,
) -> None:
    try:
        code = main(_every_image(plates, tiny_clip, tmp_path, *more))
    except SystemExit as exit_:
        code = exit_.code

    assert code == 2
    assert reason in capsys.readouterr().err


def test_pictures_that_do_not_fit_on_the_disk_are_refused_before_they_are_drawn(
    plates: Path, tiny_clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--method", "april_gan", "--data", str(plates), "--layout", "mvtec"]

    code = main([*words, "--backbone", tiny_clip, "--out", str(tmp_path), "--views", "9" * 12])

    assert code == 2
    assert "999999999999 training pictures need" in capsys.readouterr().err


def test_sigterm_ends_a_run_with_its_last_step_saved(
    plates: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def stopped_at_the_third_step(label: str) -> Iterator[Advance]:
        def advance(done: int, total: int, note: str = "") -> None:
            if label == "Training" and done == 3:
                signal.raise_signal(signal.SIGTERM)

        yield advance

    monkeypatch.setattr("daemon.cli.train.progress_bar", stopped_at_the_third_step)
    with pytest.raises(SystemExit) as exit_:
        main(_every_image(plates, tiny_clip, tmp_path))

    steps = set()
    for name in STATE_NAMES:
        with safe_open(tmp_path / "work" / name, framework="pt") as state:
            steps.add(state.metadata()["step"])
    assert steps == {"1", "2", "3"}
    assert exit_.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_bar_shows_stage_and_loss(
    plates: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    @contextmanager
    def noted(_: str) -> Iterator[Advance]:
        yield lambda done, total, note="": notes.append(note)

    monkeypatch.setattr("daemon.cli.train.progress_bar", noted)
    main(_every_image(plates, tiny_clip, tmp_path))

    assert any(re.fullmatch(r"linears, loss \d+\.\d{4}", note) for note in notes)
