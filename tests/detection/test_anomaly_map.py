"""Maps that stay on their device give the numbers that they would give here."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from zsad.anomaly_map import AnomalyMap
from zsad.detector import Detector, Prediction
from zsad.methods.aa_clip import AAClip
from zsad.predictor import Predictor


def predictor_of(detector: Detector) -> Predictor:
    backbone = detector.backbone
    return Predictor(detector, backbone.mean, backbone.std, torch.device("cpu"), "m")


def noise(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (50, 70, 3)).astype(np.uint8) for _ in range(count)]


def test_looking_gives_what_predicting_gives(make_detector: Callable[..., AAClip]) -> None:
    predictor = predictor_of(make_detector())

    scores, maps = predictor.predict(noise(3), ["screw"] * 3)
    found = predictor.look(noise(3), ["screw"] * 3)

    assert [score for score, _ in found] == scores
    for (_, anomaly_map), pixels in zip(found, maps, strict=True):
        assert anomaly_map.peak == pixels.max()
        np.testing.assert_array_equal(anomaly_map.here(), pixels)


def test_a_network_that_failed_somewhere_has_no_peak(
    make_detector: Callable[..., AAClip], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = make_detector()

    def fail(images: Tensor, class_names: object) -> Prediction:
        maps = torch.zeros(len(images), 8, 8)
        maps[1, 3, 4] = math.nan
        return Prediction(torch.zeros(len(images)), maps)

    monkeypatch.setattr(detector, "predict", fail)

    (_, good), (_, bad) = predictor_of(detector).look(noise(2), ["screw"] * 2)

    assert good.peak == 0
    assert math.isnan(bad.peak)


def test_pixels_are_fetched_once_and_only_when_asked_for() -> None:
    fetched = []

    def fetch() -> np.ndarray:
        fetched.append(1)
        return np.zeros((2, 2), np.float32)

    anomaly_map = AnomalyMap(fetch, 0.0)

    assert not fetched
    assert anomaly_map.here() is anomaly_map.here()
    assert len(fetched) == 1
