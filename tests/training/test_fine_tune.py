"""A trained method goes on, also from labels that nobody outlined, beside old pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from zsad.backbone import Backbone
from zsad.build import build_detector
from zsad.config.anomaly_clip import AnomalyCLIPConfig
from zsad.config.april_gan import AprilGANConfig
from zsad.config.method import MethodConfig
from zsad.corpus import WholeImages
from zsad.datasets.layouts import read_dataset
from zsad.detector import TrainableDetector
from zsad.fine_tune import FineTuneRecipe, Lesson, StageTuning, fine_tune
from zsad.train import LOG_NAME
from zsad.train_method import embed_views
from zsad.view_store import ViewStore, build_store

BATCH_SIZE = 4
RATE = 1e-3
"""As published, of both methods."""


@pytest.fixture
def store(plates: Path, backbone: Backbone, tmp_path: Path) -> ViewStore:
    """Six sound plates, then six with a spot."""
    images = WholeImages(read_dataset(plates, "mvtec"), side=56)
    embed = embed_views(backbone, torch.device("cpu"))
    return build_store(tmp_path / "views", images, len(images), embed, identity=backbone.name)


def lesson(store: ViewStore, *, outlined: bool, replay: bool) -> Lesson:
    sound, defective = np.flatnonzero(~store.labels), np.flatnonzero(store.labels)
    is_outlined = np.ones(len(store), np.bool_)
    is_outlined[defective] = outlined
    groups = [defective] if not outlined else [sound, defective]
    return Lesson(store, groups, sound if replay else np.array([], int), is_outlined)


def tuned(
    backbone: Backbone, method: MethodConfig, taught: Lesson, work: Path, steps: int = 6
) -> TrainableDetector:
    detector = build_detector(method, backbone)
    assert isinstance(detector, TrainableDetector)
    recipe = FineTuneRecipe([StageTuning(steps, RATE)], BATCH_SIZE)
    fine_tune(detector, taught, recipe, work, seed=1, identity="test")
    return detector


def terms_of(work: Path) -> set[str]:
    lines = [json.loads(line) for line in (work / LOG_NAME).read_text().splitlines()]
    return {name for line in lines for name in line} - {"stage", "step", "total", "learning_rate"}


def changed(backbone: Backbone, method: MethodConfig, detector: TrainableDetector) -> bool:
    before = build_detector(method, backbone).trainable_state_dict()
    after = detector.trainable_state_dict()
    return any(not torch.equal(before[name], after[name]) for name in before)


def test_pictures_that_nobody_outlined_teach_the_image_score_alone(
    backbone: Backbone, store: ViewStore, tmp_path: Path
) -> None:
    taught = lesson(store, outlined=False, replay=False)
    method = AnomalyCLIPConfig()

    detector = tuned(backbone, method, taught, tmp_path / "work")

    assert terms_of(tmp_path / "work") == {"image"}
    assert changed(backbone, method, detector)


def test_a_method_without_image_loss_learns_nothing_from_them(
    backbone: Backbone, store: ViewStore, tmp_path: Path
) -> None:
    taught = lesson(store, outlined=False, replay=False)
    method = AprilGANConfig()

    detector = tuned(backbone, method, taught, tmp_path / "work")

    assert not changed(backbone, method, detector)


def test_outlined_pictures_and_replay_teach_all_losses(
    backbone: Backbone, store: ViewStore, tmp_path: Path
) -> None:
    tuned(
        backbone,
        AnomalyCLIPConfig(),
        lesson(store, outlined=True, replay=True),
        tmp_path / "work",
    )

    assert terms_of(tmp_path / "work") > {"image"}


def test_half_of_a_batch_is_replay(store: ViewStore) -> None:
    taught = lesson(store, outlined=True, replay=True)

    drawn = taught.draw(np.random.default_rng(0), 8)

    assert len(drawn) == 8
    assert not store.labels[drawn[4:]].any()  # replay is sound plates here


def test_an_interrupted_run_ends_with_the_same_weights(
    backbone: Backbone, store: ViewStore, tmp_path: Path
) -> None:
    taught, method = lesson(store, outlined=True, replay=True), AnomalyCLIPConfig()
    whole = tuned(backbone, method, taught, tmp_path / "whole")

    tuned(backbone, method, taught, tmp_path / "parts", steps=2)
    resumed = tuned(backbone, method, taught, tmp_path / "parts")

    wanted, found = (one.trainable_state_dict() for one in (whole, resumed))
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
