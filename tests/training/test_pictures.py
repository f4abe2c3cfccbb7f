"""What a step sees: every image once an epoch, mosaics, cached features, parts of a batch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsad.augment import Augmentation, augmented, mosaic, mosaic_mask
from zsad.backbone import Backbone
from zsad.build import build_detector
from zsad.config.aa_clip import AAClipConfig
from zsad.config.anomaly_clip import AnomalyCLIPConfig
from zsad.config.april_gan import AprilGANConfig
from zsad.config.coop import CoOpConfig
from zsad.config.fa_prompt import FAPromptConfig
from zsad.config.method import MethodConfig
from zsad.corpus import WholeImages
from zsad.data import Sample
from zsad.datasets.layouts import read_dataset
from zsad.detector import TrainableDetector
from zsad.processes import Processes
from zsad.train import TrainStage, run_stages
from zsad.train_method import (
    CachePlan,
    Pictures,
    StageBatches,
    StageSchedule,
    embed_views,
    method_stages,
)
from zsad.view_store import ViewStore, build_store

CPU = torch.device("cpu")
SIDE = 56


@pytest.fixture
def samples(plates: Path, felts: Path) -> list[Sample]:
    """13 images of two categories."""
    return read_dataset(plates, "mvtec") + read_dataset(felts, "mvtec")[:1]


@pytest.fixture
def store(samples: list[Sample], backbone: Backbone, tmp_path: Path) -> ViewStore:
    images = WholeImages(samples, side=SIDE)
    return build_store(
        tmp_path, images, len(images), embed_views(backbone, CPU), identity=backbone.name
    )


@pytest.fixture
def make_pictures(store: ViewStore) -> Callable[..., Pictures]:
    def make(**options: object) -> Pictures:
        return Pictures(**{"store": store, "seed": 1, "every_image": True, "device": CPU} | options)

    return make


def test_a_store_holds_every_image_once_as_it_is(samples: list[Sample], store: ViewStore) -> None:
    assert len(store) == len(samples) == 13
    assert store.labels.tolist() == [sample.is_anomalous for sample in samples]
    assert store.masks_of(np.arange(13)).any(axis=(1, 2)).tolist() == store.labels.tolist()


def test_a_defect_that_vanishes_from_the_small_mask_leaves_the_image_anomalous(
    samples: list[Sample],
) -> None:
    images = WholeImages([s for s in samples if s.is_anomalous], side=4)

    view = images(0)

    assert not view.mask.any()
    assert view.is_anomalous


@given(
    batch_size=st.integers(1, 9),
    count=st.integers(1, 4),
    stage=st.integers(0, 2),
    epoch=st.integers(0, 5),
)
def test_an_epoch_shows_every_image_once_between_all_processes(
    batch_size: int, count: int, stage: int, epoch: int
) -> None:
    store = ViewStore([], [], np.zeros((13, 1)), np.zeros(13, np.bool_), [], SIDE)
    parts = [
        Pictures(store, 1, True, CPU, processes=Processes(rank, count)) for rank in range(count)
    ]
    per_epoch = parts[0].steps_per_epoch(batch_size)
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    rng = np.random.default_rng(0)

    shown = [
        [part.chosen(stage, step, batch_size, rng)[0].tolist() for part in parts] for step in steps
    ]

    flat = [picture for step in shown for part in step for picture in part]
    assert len(set(flat)) == len(flat)
    assert len(flat) > 13 - count
    assert all(part for step in shown for part in step)


def test_epochs_and_stages_have_orders_of_their_own(
    make_pictures: Callable[..., Pictures],
) -> None:
    pictures, rng = make_pictures(), np.random.default_rng(0)

    orders = [pictures.chosen(stage, step, 13, rng)[0].tolist() for stage, step in [(0, 0), (0, 1)]]
    orders.append(pictures.chosen(1, 0, 13, rng)[0].tolist())

    assert len({tuple(order) for order in orders}) == 3
    assert orders[0] == pictures.chosen(0, 0, 13, rng)[0].tolist()


@given(count=st.integers(1, 5), n=st.integers(0, 40))
def test_the_parts_of_the_processes_make_the_whole(count: int, n: int) -> None:
    items = list(range(n))

    parts = [items[Processes(rank, count).part(n)] for rank in range(count)]

    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def _train(
    detector_of: MethodConfig,
    backbone: Backbone,
    pictures: Pictures,
    out: Path,
    **schedule: object,
) -> tuple[dict[str, torch.Tensor], list[TrainStage]]:
    detector = build_detector(detector_of, backbone, seed=2)
    assert isinstance(detector, TrainableDetector)
    stages = method_stages(detector, pictures, [StageSchedule(**schedule)])
    run_stages(stages, out, seed=1, identity="test")
    return {name: t.clone() for name, t in detector.trainable_state_dict().items()}, stages


@pytest.mark.parametrize(
    "method",
    [
        AnomalyCLIPConfig(),
        FAPromptConfig(patches=4),
        AprilGANConfig(mosaic=0.5),
        CoOpConfig(),
    ],
    ids=lambda config: config.method,
)
def test_training_from_cached_features_gives_the_same_weights(
    method: MethodConfig,
    backbone: Backbone,
    make_pictures: Callable[..., Pictures],
    tmp_path: Path,
) -> None:
    plan = CachePlan(tmp_path / "cache", 10**8)
    schedule = {"epochs": 3, "batch_size": 5}

    fresh, stages = _train(method, backbone, make_pictures(), tmp_path / "a", **schedule)
    cached, _ = _train(method, backbone, make_pictures(cache=plan), tmp_path / "b", **schedule)

    assert stages[0].n_steps == 9
    for name, tensor in fresh.items():  # batch by batch or one by one: equal up to rounding
        torch.testing.assert_close(cached[name], tensor, atol=2e-5, rtol=1e-3)
    assert list((tmp_path / "cache").iterdir()) == []


def test_mosaics_come_with_their_probability_and_from_one_class(
    backbone: Backbone, make_pictures: Callable[..., Pictures]
) -> None:
    detector = build_detector(AprilGANConfig(mosaic=0.2), backbone)
    assert isinstance(detector, TrainableDetector)
    pictures = make_pictures()
    plain = {tuple(mask.flatten().tolist()) for mask in pictures.store.masks_of(np.arange(13))}
    (stage,) = detector.stages()
    batches = StageBatches(stage, 0, pictures, backbone, 13)

    seen = [batches.batch(step, np.random.default_rng(0))[0] for step in range(40)]

    mosaics = sum(
        tuple(mask.flatten().tolist()) not in plain for batch in seen for mask in batch.masks
    )
    anomalous = sum(batch.labels.sum().item() for batch in seen)
    assert 0.12 < mosaics / (40 * 13) < 0.25  # four normal pictures are not told apart here
    assert anomalous > 40 * 6
    assert all(sorted(batch.class_names) == ["felt", *["plate"] * 12] for batch in seen)


def test_an_augmented_picture_is_new_every_epoch_and_the_same_at_every_call(
    backbone: Backbone, make_pictures: Callable[..., Pictures]
) -> None:
    detector = build_detector(AAClipConfig(), backbone)
    assert isinstance(detector, TrainableDetector)
    stage = detector.stages()[1]
    batches = StageBatches(stage, 1, make_pictures(), backbone, 13)
    rng = np.random.default_rng(0)

    first, again, later = (batches.batch(step, rng)[0] for step in (0, 0, 1))

    assert torch.equal(first.embedded, again.embedded)
    assert torch.equal(first.masks, again.masks)
    assert not torch.equal(first.images, later.images)
    assert len(first.labels) == 13
    assert first.labels.sum() == later.labels.sum() > 0


def test_mask_and_image_are_changed_together() -> None:
    mask = np.zeros((64, 64), np.float32)
    mask[20:30, 35:50] = 1
    image = np.repeat((mask * 200).astype(np.uint8)[..., None], 3, axis=2)
    plan = Augmentation(turn_deg=30, turn_p=0.5, shift=0.15, shift_p=0.5, flip_p=0.5)

    changed = [augmented(np.random.default_rng(s), image, mask, plan, (0, 0, 0)) for s in range(40)]

    assert all(np.array_equal(picture[..., 0] == 200, new > 0) for picture, new in changed)
    assert all(set(np.unique(new)) <= {0.0, 1.0} for _, new in changed)
    assert sum(np.array_equal(new, mask) for _, new in changed) < 10


def test_colour_changes_leave_the_mask_alone() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
    mask = rng.integers(0, 2, (16, 16)).astype(np.float32)
    plan = Augmentation(0, 0, 0, 0, 0, colour=0.5, colour_p=1.0)

    picture, same = augmented(rng, image, mask, plan, (0, 0, 0))

    assert np.array_equal(same, mask)
    assert not np.array_equal(picture, image)


def test_a_mosaic_keeps_four_pictures_in_their_quarters() -> None:
    images = [np.full((8, 8, 3), 10 * (index + 1), np.uint8) for index in range(4)]
    masks = [np.full((8, 8), index == 2, np.float32) for index in range(4)]

    whole, mask = mosaic(images), mosaic_mask(masks)

    quarters = [whole[:4, :4], whole[:4, 4:], whole[4:, :4], whole[4:, 4:]]
    assert [set(quarter.flatten().tolist()) for quarter in quarters] == [{10}, {20}, {30}, {40}]
    assert mask[4:, :4].all()
    assert mask.sum() == 16


def test_views_never_become_mosaics(
    backbone: Backbone, make_pictures: Callable[..., Pictures], tmp_path: Path
) -> None:
    schedule = {"epochs": 2, "batch_size": 6}
    views = make_pictures(every_image=False)

    with_, _ = _train(AprilGANConfig(mosaic=1.0), backbone, views, tmp_path / "a", **schedule)
    without, _ = _train(AprilGANConfig(), backbone, views, tmp_path / "b", **schedule)

    assert all(torch.equal(with_[name], without[name]) for name in without)
