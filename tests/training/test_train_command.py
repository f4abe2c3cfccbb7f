"""`zsad train` as a user types it, on a small generated data set."""

import json
from pathlib import Path

import pytest
import torch

from daemon.cli.main import main
from zsad.backbone import load_backbone
from zsad.checkpoint import CARD_NAME, load_detector, read_card
from zsad.config.aa_clip import AAClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.data import read_dataset
from zsad.evaluate import evaluate
from zsad.methods.aa_clip import AAClip
from zsad.predictor import Predictor
from zsad.train import LOG_NAME

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
    untrained = AAClip(backbone, AAClipConfig(), seed=3).eval()

    after = _pixel_auroc(load_detector(trained, backbone=backbone).detector, felts)

    assert after > 0.9
    assert after > _pixel_auroc(untrained, felts) + 0.05


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

    code = main([*words, "--out", str(tmp_path), "--views", "50", "--steps", "3", "--synthetic"])

    facts = json.loads((tmp_path / "compact_v1.json").read_text())
    assert code == 0
    assert (tmp_path / "compact_v1.safetensors").stat().st_size > 1_000_000
    assert [entry["licence"] for entry in facts["data"]] == ["CC0-1.0", "Apache-2.0"]
