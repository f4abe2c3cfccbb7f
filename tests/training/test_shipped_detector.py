"""The detector in the repository: loads, scores as pinned, sees what it is meant to see."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from zsad.checkpoint import read_card
from zsad.compact import default_checkpoint
from zsad.predictor import Predictor, load_predictor

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def rule() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pinned_images", HERE / "pinned_images.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor(None, "cpu")


def test_scores_and_maps_are_as_pinned(predictor: Predictor, rule: ModuleType) -> None:
    pinned = json.loads((HERE / "shipped_detector.json").read_text())

    scores, maps = predictor.predict(rule.pinned_images(), rule.CLASS_NAMES)

    assert predictor.version == pinned["version"]
    assert scores == pytest.approx(pinned["scores"], abs=2e-3)
    assert [m.mean() for m in maps] == pytest.approx(pinned["map_means"], abs=2e-3)
    assert [m.max() for m in maps] == pytest.approx(pinned["map_peaks"], abs=5e-3)


def test_a_crack_raises_the_score_and_the_map_there(predictor: Predictor, rule: ModuleType) -> None:
    clean, _, marked, _ = rule.pinned_images()

    scores, maps = predictor.predict([clean, marked], ["object", "object"])

    row, column = np.unravel_index(maps[1].argmax(), maps[1].shape)
    assert scores[1] > scores[0] + 0.1
    assert 70 <= row <= 150
    assert 140 <= column <= 205


def test_the_same_images_give_the_same_scores_twice(predictor: Predictor, rule: ModuleType) -> None:
    first, _ = predictor.predict(rule.pinned_images(), rule.CLASS_NAMES)
    second, _ = predictor.predict(rule.pinned_images(), rule.CLASS_NAMES)

    assert first == second


def test_the_card_names_data_licences_and_command() -> None:
    card = read_card(default_checkpoint())

    drawn = {"procedural surfaces", "procedural parts"}
    assert {source.name for source in card.data} == {"piped", "deeppcb", *drawn}
    assert all(source.licence for source in card.data)
    assert card.training_command.startswith("zsad train --method compact_backbone")
