"""Categories with a model of their own, beside the line's: loading, mixed batches, reloads."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from daemon.cli.main import main
from daemon.config.categories import CategoryConfig
from daemon.config.detector import ModelConfig
from daemon.config_file import load_config
from daemon.core import Calibration
from daemon.errors import CategoryModelError
from daemon.inspection import detector_slot
from daemon.inspection.calibration_book import CalibrationBook
from daemon.inspection.detector_slot import DetectorSlot
from daemon.inspection.loaded_model import LoadedModel
from daemon.inspection.model_swap import ModelSwap, NextModel
from zsad.build import build_detector
from zsad.checkpoint import new_card, save_checkpoint
from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.predictor import Predictor, load_predictor

pytestmark = pytest.mark.usefixtures("one_thread")

NOW = datetime(2026, 11, 22, tzinfo=UTC)
TILE = CategoryConfig(class_name="floor tile")
IMAGES = [
    np.random.default_rng(seed).integers(0, 256, (48, 48, 3), dtype=np.uint8) for seed in range(4)
]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor(None, "cpu")


@pytest.mark.parametrize(("configured", "threads"), [(None, 3), (2, 2)])
def test_a_core_is_left_for_what_else_a_frame_needs(
    predictor: Predictor,
    monkeypatch: pytest.MonkeyPatch,
    configured: int | None,
    threads: int,
) -> None:
    monkeypatch.setattr(detector_slot, "_TORCHS_THREADS", 4)

    DetectorSlot(
        ModelConfig(threads=configured), {"tile": TILE}, max_batch=2, predictor=predictor
    ).close()

    assert torch.get_num_threads() == threads


@pytest.fixture(scope="module")
def folder(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that answer otherwise than the line's: `warm` and `cold`."""
    folder = tmp_path_factory.mktemp("models")
    for name, temperature in (("warm", 0.5), ("cold", 0.02)):
        detector = build_detector(
            CLIPZeroShotConfig(temperature=temperature), predictor.detector.backbone
        )
        card = new_card(
            detector,
            data=(),
            metrics={},
            seed=0,
            git_revision=None,
            created=NOW,
            training_command="",
        )
        save_checkpoint(folder / name, detector, card)
    return folder


def with_own(path: Path) -> CategoryConfig:
    return TILE.model_copy(update={"checkpoint": path})


@pytest.fixture
def slot(predictor: Predictor, folder: Path) -> Iterator[DetectorSlot]:
    """A line whose category `wood` has the model `warm`."""
    categories = {"tile": TILE, "wood": with_own(folder / "warm")}
    slot = DetectorSlot(ModelConfig(device="cpu"), categories, max_batch=4, predictor=predictor)
    yield slot
    slot.close()


def test_each_frame_of_a_mixed_batch_is_scored_by_the_model_of_its_category(
    slot: DetectorSlot, predictor: Predictor, folder: Path
) -> None:
    wood = with_own(folder / "warm")
    products = [("wood", wood), ("tile", TILE), ("wood", wood), ("tile", TILE)]
    found = [score for score, _ in slot.infer(IMAGES, products)]

    warm = load_predictor(folder / "warm", "cpu", backbone=predictor.detector.backbone)
    by_warm, _ = warm.predict(IMAGES, ["floor tile"] * 4)
    by_line, _ = predictor.predict(IMAGES, ["floor tile"] * 4)
    assert found == pytest.approx([by_warm[0], by_line[1], by_warm[2], by_line[3]], abs=1e-5)
    assert abs(by_warm[0] - by_line[0]) > 0.01
    assert slot.version_of("wood", wood) == warm.version
    assert slot.version_of("tile", TILE) == slot.version == predictor.version


def test_models_share_the_backbone_that_is_loaded(slot: DetectorSlot) -> None:
    backbones = {id(model.predictor.detector.backbone) for model in slot.models}
    assert (len(slot.models), len(backbones)) == (2, 1)


def test_a_reload_changes_the_model_of_a_category_and_puts_the_old_one_away(
    slot: DetectorSlot, folder: Path
) -> None:
    assert slot.take_over({"tile": TILE, "wood": with_own(folder / "warm")}) == {}
    cold = {"tile": TILE, "wood": with_own(folder / "cold")}
    slot.prepare(cold)
    assert len(slot.models) == 3  # a batch may still be inspected by the one before
    expected = slot.version_of("wood", cold["wood"])

    assert slot.take_over(cold) == {"wood": expected}
    assert slot.take_over(cold) == {}
    plain = {"tile": TILE, "wood": TILE}
    slot.prepare(plain)
    assert slot.take_over(plain) == {"wood": slot.version}
    slot.prepare(plain)
    assert [model.version for model in slot.models] == [slot.version]


def test_a_folder_that_holds_no_model_is_told_by_its_key_and_nothing_changes(
    slot: DetectorSlot, folder: Path
) -> None:
    before = slot.models
    with pytest.raises(CategoryModelError, match=r"^categories\.wood\.checkpoint: .*nothing"):
        slot.prepare({"tile": TILE, "wood": with_own(folder / "nothing")})
    assert slot.models == before
    with pytest.raises(CategoryModelError):
        DetectorSlot(
            ModelConfig(device="cpu"),
            {"wood": with_own(folder / "nothing")},
            max_batch=4,
            predictor=before[0].predictor,
        )


def thresholds(category: str, version: str, policy: CategoryConfig) -> Calibration:
    return Calibration(
        category, version, 0.7, 0.8, 0.5, 100, 0.05, 0.01, True, "test", NOW, recipe=policy.recipe
    )


def test_another_model_of_the_line_leaves_such_a_category_its_thresholds_and_its_learning(
    slot: DetectorSlot, predictor: Predictor, folder: Path
) -> None:
    wood = with_own(folder / "warm").model_copy(update={"learn_frames": 10})
    categories = {"tile": TILE, "wood": wood, "oak": wood}
    slot.take_over(categories)
    versions = {name: slot.version_of(name, each) for name, each in categories.items()}
    book = CalibrationBook(
        model_version=slot.version,
        categories=categories,
        calibrations=[thresholds(name, versions[name], TILE) for name in ("tile", "wood")],
        learned={},
        now=lambda: NOW,
        variants=versions,
    )
    book.learn("oak", wood, 0.1, 0.1)
    backbone = predictor.detector.backbone
    coming = LoadedModel(
        load_predictor(folder / "cold", "cpu", backbone=backbone), {"tile": TILE}, None, max_batch=4
    )

    swap = ModelSwap(slot, book)
    swap.put(NextModel(coming, [thresholds("tile", coming.version, TILE)], {}))
    swap.take_over()

    assert slot.version == coming.version
    assert slot.take_over(categories) == {}
    tile = book.get("tile", TILE)
    assert tile is not None
    assert tile.model_version == coming.version
    kept = book.get("wood", wood)
    assert kept is not None
    assert kept.model_version == versions["wood"]
    assert book.progress("oak") == (1, 10)


def test_thresholds_of_a_coming_version_wait_until_it_begins() -> None:
    book = CalibrationBook(
        model_version="m1", categories={"tile": TILE}, calibrations=(), learned={}, now=lambda: NOW
    )
    coming = thresholds("tile", "m2", TILE)
    assert book.replace([coming]) == []
    assert book.get("tile", TILE) is None
    book.begin("tile", "m2")
    assert book.get("tile", TILE) is coming


CONFIG = """\
line: L1
timezone: Europe/Berlin
run_dir: run
sources: [{endpoint: "ipc:///tmp/frames", mode: bind}]
cameras: {cam1: {}}
categories:
  tile: {class_name: floor tile}
  wood: {class_name: wooden board, checkpoint: models/winclip}
storage: {url: "sqlite:///zsad.db"}
shifts: [{name: day, start: "06:00"}]
model: {device: cpu, threads: 1}
http: {listen: off}
"""


def test_from_a_method_without_training_to_thresholds_by_commands_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    config = tmp_path / "daemon.yaml"
    config.write_text(CONFIG)
    for number in range(12):
        image = np.random.default_rng(number).integers(90, 140, (40, 40, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), image)
    assert main(["check-config", str(config)]) == 2
    assert "categories.wood.checkpoint: there is no card.json" in capsys.readouterr().err

    out = tmp_path / "models" / "winclip"
    assert main(["model", "new", "winclip", "--out", str(out)]) == 0
    assert main(["model", "new", "winclip", "--out", str(out)]) == 2
    assert main(["check-config", str(config)]) == 0
    assert f"by a model of its own, {out}" in capsys.readouterr().out.replace("\n", "")
    calibrate = ["calibrate", "--config", str(config), "--category", "wood", str(tmp_path)]
    assert main(calibrate) == 0
    assert "winclip-" in capsys.readouterr().out
    assert main([*calibrate, "--model", "winclip-000000000000"]) == 2
    assert "has a model of its own" in capsys.readouterr().err
    read = load_config(config)
    assert list(read.shared_categories) == ["tile"]
    assert read.own_checkpoints == (out,)
