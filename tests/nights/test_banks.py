"""A candidate is asked with the reference banks that it would inspect with."""

from pathlib import Path

import pytest
import torch
from night_line import model_of
from night_pictures import draw

from daemon.config.categories import CategoryConfig
from daemon.inspection.loaded_model import LoadedModel
from daemon.inspection.references import bank_path
from daemon.model import open_model
from daemon.training.banks import for_thresholds, make_bank, take_over_banks
from zsad.config.linear_probe import LinearProbeConfig
from zsad.image_files import load_image
from zsad.reference_bank import BankError

PLATE = CategoryConfig(class_name="plate", references=4)
CATEGORIES = {"plate": PLATE}


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    torch.set_num_threads(1)
    return draw(tmp_path / "pictures", 16, is_ng=False, seed=2)


def opened(checkpoint: Path, folder: Path) -> LoadedModel:
    return LoadedModel(open_model(checkpoint, "cpu"), CATEGORIES, folder, max_batch=8)


def test_a_category_that_is_scored_as_before_keeps_its_bank(
    tmp_path: Path, small_model: Path, pictures: list[Path]
) -> None:
    folder = tmp_path / "references"
    probe = LinearProbeConfig(products=("grain",))  # which leaves plates as they were
    active = opened(small_model, folder)
    make_bank(active, "plate", PLATE, pictures)
    candidate = open_model(model_of(probe, tmp_path / "probe"), "cpu")

    take_over_banks(
        folder, CATEGORIES, {"plate"}, active.version, candidate.version, candidate.device
    )

    loaded = opened(tmp_path / "probe", folder)
    image = load_image(pictures[0])
    ((before, _),) = active.infer([image], [("plate", PLATE)])
    ((after, _),) = loaded.infer([image], [("plate", PLATE)])
    ((plain,), _) = loaded.predictor.predict([image], ["plate"])
    assert after == pytest.approx(before, abs=1e-6)
    assert abs(after - plain) > 0.01, "with the bank"
    active.close()
    loaded.close()


def test_a_bank_and_thresholds_are_made_of_different_images(
    tmp_path: Path, small_model: Path, pictures: list[Path]
) -> None:
    model = opened(small_model, tmp_path / "references")

    with pytest.raises(BankError, match="13 images of good parts, 14 are needed"):
        make_bank(model, "plate", PLATE, pictures[:13])
    make_bank(model, "plate", PLATE, pictures)

    bank = model.references.bank_of("plate")
    assert bank is not None
    assert bank.n_references == 4
    rest = for_thresholds(PLATE, pictures)
    assert rest == [file for n, file in enumerate(pictures) if n % 4]
    path = bank_path(tmp_path / "references", "plate", model.version, PLATE.recipe)
    written = path.read_bytes()
    make_bank(model, "plate", PLATE, rest)  # it has one
    assert path.read_bytes() == written
    model.close()
