"""A model is in the store complete or not at all, and what was touched since is not used."""

import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

import daemon.training.model_store as model_store
from daemon.errors import ModelError
from daemon.training.golden import GoldenImage, replay_golden, write_golden
from daemon.training.model_store import ModelStore
from daemon.training.stored_model import open_stored
from zsad.predictor import Predictor, load_predictor


@pytest.fixture
def store(tmp_path: Path, made: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", made / "base")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_a_stored_model_answers_as_it_did(store: ModelStore, made: Path) -> None:
    version = store.add(made / "a")
    predictor = open_stored(store, version, "cpu")

    assert predictor.version == version
    assert [model.version for model in store.models()] == [version]
    assert store.add(made / "a") == version, "adding it again changes nothing"
    golden = store.golden_of(version)
    assert golden is not None
    assert replay_golden(predictor, golden).worst < 1e-5


def test_adding_a_model_again_mends_what_was_damaged(store: ModelStore, made: Path) -> None:
    version = store.add(made / "a")
    damage(store.path_of(version) / "weights.safetensors")

    assert store.add(made / "a") == version
    assert store.verify(version)


def test_the_configured_model_is_found_without_being_stored(store: ModelStore, made: Path) -> None:
    version = store.base_version()

    assert store.path_of(version) == made / "base"
    assert open_stored(store, version, "cpu").version == version


@pytest.mark.parametrize("file", ["weights.safetensors", "golden/000.png", "golden/golden.json"])
def test_a_damaged_file_is_refused_on_the_way_in_and_later(
    store: ModelStore, made: Path, tmp_path: Path, file: str
) -> None:
    version = store.add(made / "a")
    damage(store.path_of(version) / file)
    shutil.copytree(made / "b", tmp_path / "b")
    damage(tmp_path / "b" / file)

    with pytest.raises(ModelError):
        store.verify(version)
    with pytest.raises(ModelError):
        store.add(tmp_path / "b")
    assert [model.version for model in store.models()] == [version]


def test_a_card_of_another_method_is_not_the_version_that_the_folder_names(
    store: ModelStore, made: Path
) -> None:
    version = store.add(made / "a")
    card = store.path_of(version) / "card.json"
    card.write_text(card.read_text().replace("0.5", "0.4"))

    with pytest.raises(ModelError):
        store.verify(version)


def test_a_crash_in_the_middle_leaves_nothing_that_counts(
    store: ModelStore, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = []

    def dies_at_the_third(source: Path, target: Path) -> None:
        copied.append(target)
        if len(copied) == 3:
            raise KeyboardInterrupt
        shutil.copyfile(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(model_store, "_copy", dies_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            store.add(made / "a")

    assert store.models() == []
    version = store.add(made / "a")
    assert store.verify(version)
    assert list(store.folder.glob("*/.half-*")) == []


def test_pruning_keeps_what_is_needed_and_the_newest(store: ModelStore, made: Path) -> None:
    a, b = store.add(made / "a"), store.add(made / "b")

    assert store.prune({a}, last=1) == []
    assert store.prune({a}, last=0) == [b]
    assert [model.version for model in store.models()] == [a]
    assert (made / "base").is_dir()


@pytest.mark.parametrize("name", ["../../etc", "a", "a-0123456789ab/..", "", "A-0123456789ab"])
def test_a_name_that_is_no_version_never_becomes_a_path(store: ModelStore, name: str) -> None:
    with pytest.raises(ModelError, match="not a model version"):
        store.path_of(name)


def test_a_model_that_answers_otherwise_is_refused(made: Path, tmp_path: Path) -> None:
    right, wrong = (load_predictor(made / name, "cpu") for name in ("a", "b"))
    as_a = Predictor(wrong.detector, wrong.mean, wrong.std, wrong.device, right.version)

    with pytest.raises(ModelError, match="does not reproduce itself"):
        replay_golden(as_a, made / "a" / "golden")


def test_nan_never_becomes_golden_nor_reproduces(made: Path, tmp_path: Path) -> None:
    predictor = load_predictor(made / "a", "cpu")
    with torch.no_grad():
        predictor.detector.backbone.clip.visual.proj.fill_(float("nan"))
    picture = torch.zeros(40, 40, 3, dtype=torch.uint8).numpy()

    with pytest.raises(ModelError, match="nan"):
        write_golden(predictor, [(picture, "woven fabric")], tmp_path / "golden")
    with pytest.raises(ModelError, match="does not reproduce"):
        replay_golden(predictor, made / "a" / "golden")
    with pytest.raises(ValidationError):
        GoldenImage(file="000.png", sha256="0" * 64, class_name="x", score=float("nan"), map_peak=0)
