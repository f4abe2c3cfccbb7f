from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from object_agnostic import assert_checkpoint_round_trip
from torch import Tensor

from zsad.backbone import Backbone
from zsad.build import build_detector
from zsad.config.clip_zero_shot import CLIPZeroShotConfig
from zsad.config.linear_probe import LinearProbeConfig
from zsad.methods.linear_probe import LinearProbe, Readings
from zsad.probe_fit import Labelled, ProbeRecipe, fit_probe, ridge_logistic

NAMES = ["metal_nut", "carpet", "metal_nut"]


@pytest.fixture
def backbone(make_backbone: Callable[..., Backbone]) -> Backbone:
    return make_backbone()


def probe_on(backbone: Backbone, *products: str) -> LinearProbe:
    detector = build_detector(LinearProbeConfig(products=products), backbone)
    assert isinstance(detector, LinearProbe)
    return detector


@torch.no_grad()
def scramble(detector: LinearProbe) -> None:
    for number, parameter in enumerate(detector.own_parameters().values()):
        generator = torch.Generator().manual_seed(number)
        parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def test_a_product_without_probe_is_scored_exactly_as_before(
    backbone: Backbone, images: Tensor
) -> None:
    plain = build_detector(CLIPZeroShotConfig(), backbone).predict(images, NAMES)
    detector = probe_on(backbone, "carpet")
    scramble(detector)

    found = detector.predict(images, NAMES)

    for row, name in enumerate(NAMES):
        same = name != "carpet"
        if same:
            assert torch.equal(found.image_score[row], plain.image_score[row])
        assert torch.equal(found.anomaly_map[row], plain.anomaly_map[row]) is same


def test_a_probe_begins_as_the_zero_shot_detector(backbone: Backbone, images: Tensor) -> None:
    plain = build_detector(CLIPZeroShotConfig(), backbone).predict(images, NAMES)

    found = probe_on(backbone, "carpet", "metal_nut").predict(images, NAMES)

    assert torch.equal(found.image_score, plain.image_score)
    assert torch.equal(found.anomaly_map, plain.anomaly_map)


def test_mixed_batch_equals_images_scored_alone(backbone: Backbone, images: Tensor) -> None:
    detector = probe_on(backbone, "carpet")
    scramble(detector)

    together = detector.predict(images, NAMES)

    for row, name in enumerate(NAMES):
        alone = detector.predict(images[row : row + 1], [name])
        torch.testing.assert_close(
            together.image_score[row], alone.image_score[0], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            together.anomaly_map[row], alone.anomaly_map[0], atol=1e-4, rtol=0
        )


def test_checkpoint_gives_the_same_scores(
    backbone: Backbone, images: Tensor, tmp_path: Path
) -> None:
    assert_checkpoint_round_trip(probe_on(backbone, "carpet"), images, NAMES, tmp_path)


def test_a_probe_is_taken_over_from_an_older_model(backbone: Backbone, images: Tensor) -> None:
    old, new = probe_on(backbone, "carpet"), probe_on(backbone, "bolt", "carpet")
    scramble(old)

    with torch.no_grad():
        new.take_probe(old, "carpet")

    wanted, found = (one.predict(images, ["carpet"] * 3) for one in (old, new))
    assert torch.equal(found.image_score, wanted.image_score)
    assert torch.equal(found.anomaly_map, wanted.anomaly_map)


def labelled(n: int, width: int, *, outlined: bool) -> Labelled:
    """Sound images, and as many whose patches all lean to one side; nothing in the logits."""
    generator = torch.Generator().manual_seed(5)
    patches = torch.randn(2 * n, 9, width, generator=generator)
    is_defective = torch.arange(2 * n) >= n
    patches[is_defective, :, 3] += 1.0
    shares = torch.zeros(2 * n, 9)
    shares[is_defective] = 1.0 if outlined else torch.nan
    readings = Readings(torch.zeros(2 * n), torch.zeros(2 * n, 9), patches)
    return Labelled(readings, is_defective, shares)


@pytest.mark.parametrize("outlined", [True, False])
def test_labels_teach_with_and_without_outlines(backbone: Backbone, outlined: bool) -> None:
    detector = probe_on(backbone, "carpet")
    seen = labelled(16, backbone.vision_width, outlined=outlined)

    fit_probe(detector, "carpet", seen, ProbeRecipe())

    patch, image = detector.corrected(seen.readings, ["carpet"] * 32)
    assert image[16:].min() > image[:16].max()
    assert bool(detector.patch_weight.any()) is outlined
    assert (patch[16:].mean() > patch[:16].mean()) == outlined


def test_one_kind_of_label_alone_is_refused(backbone: Backbone) -> None:
    seen = labelled(4, backbone.vision_width, outlined=False)
    sound = Labelled(seen.readings, torch.zeros(8, dtype=torch.bool), seen.defect_shares)

    with pytest.raises(ValueError, match="all 8 labelled images are sound"):
        fit_probe(probe_on(backbone, "carpet"), "carpet", sound, ProbeRecipe())


def test_the_fit_is_the_optimum_of_its_loss() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(40, 6, generator=generator)
    target = torch.rand(40, generator=generator) < 0.5
    weights = torch.full((40,), 1 / 40)
    offset = torch.randn(40, generator=generator)

    weight, bias = ridge_logistic(features, offset, target, weights, 0.3)

    def loss(w: Tensor, b: Tensor) -> float:
        spread = features.std(0) + 0.02
        logits = offset + features @ w + b
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target.float())
        return (entropy + 0.3 * (w * spread).square().sum()).item()

    best = loss(weight, bias)
    for _ in range(20):
        step = 0.05 * torch.randn(7, generator=generator)
        assert loss(weight + step[:6], bias + step[6]) > best
