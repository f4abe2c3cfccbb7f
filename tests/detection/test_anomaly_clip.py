from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from object_agnostic import assert_checkpoint_round_trip, batch_of, vit_l14_336
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.backbone_loading import load_backbone
from zsad.config.anomaly_clip import AnomalyCLIPConfig
from zsad.config.backbone import BackboneConfig
from zsad.methods.anomaly_clip import AnomalyCLIP

PRESETS = ("paper", "official")
NAMES = ["screw", "carpet", "screw"]
Make = Callable[..., AnomalyCLIP]


@pytest.fixture
def make(make_backbone: Callable[..., Backbone]) -> Make:
    def make(**options: object) -> AnomalyCLIP:
        return AnomalyCLIP(make_backbone(), AnomalyCLIPConfig.model_validate(options))

    return make


@pytest.mark.parametrize("levels", ["last", "all"])
def test_mixed_batch_equals_images_scored_alone(make: Make, images: Tensor, levels: str) -> None:
    detector = make(levels=levels)

    together = detector.predict(images, NAMES)

    assert together.image_score.shape == (3,)
    assert together.anomaly_map.shape == (3, 56, 56)
    for row, name in enumerate(NAMES):
        alone = detector.predict(images[row : row + 1], [name])
        torch.testing.assert_close(together.image_score[row], alone.image_score[0])
        torch.testing.assert_close(together.anomaly_map[row], alone.anomaly_map[0])


@pytest.mark.parametrize("levels", ["last", "all"])
def test_scores_and_maps_are_probabilities(make: Make, images: Tensor, levels: str) -> None:
    found = make(levels=levels, temperature=0.001).predict(20 * images, NAMES)

    for values in (found.image_score, found.anomaly_map):
        assert values.dtype == torch.float32
        assert 0 <= values.min() <= values.max() <= 1


def test_scores_are_the_written_out_formula(make: Make, images: Tensor) -> None:
    detector = make()

    found = detector.raw_outputs(images, NAMES)

    backbone = detector.backbone
    with torch.no_grad():
        tokens = backbone.run_dual_stream(backbone.embed_images(images), [3])
        texts = F.normalize(detector.encode_texts(), dim=-1)
        patches = F.normalize(backbone.project_vision(tokens.stages[0][:, 1:]), dim=-1)
        first = F.normalize(tokens.class_token @ backbone.clip.visual.proj, dim=-1)
    grids = (patches @ texts.T / 0.07).softmax(-1).mT.reshape(3, 2, 7, 7)
    maps = F.interpolate(grids, size=(56, 56), mode="bilinear")
    maps = ((maps[:, 1] + 1 - maps[:, 0]) / 2).double().numpy()
    smooth = torch.stack([torch.from_numpy(gaussian_filter(one, sigma=4)) for one in maps])
    torch.testing.assert_close(found.summed_map.double(), smooth, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.image_score, (first @ texts.T / 0.07).softmax(-1)[:, 1])


def test_object_names_make_no_difference(make: Make, images: Tensor) -> None:
    detector = make()

    found = [detector.predict(images, [name] * 3).image_score for name in ("screw", "carpet")]

    assert torch.equal(*found)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("levels", ["last", "all"])
def test_losses_fall_and_reach_exactly_the_listed_parameters(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor, preset: str, levels: str
) -> None:
    detector = make(preset=preset, levels=levels)
    detector.predict(images, NAMES)  # texts cached in inference mode must not hurt training
    batch = batch_of(detector.backbone, images, masks, labels)
    (stage,) = detector.stages()
    optimizer = torch.optim.Adam(stage.parameters, lr=5e-3, betas=stage.betas)

    history = []
    for _ in range(12):
        optimizer.zero_grad()
        found = stage.losses(batch)
        found.total.backward()
        optimizer.step()
        history.append(found.total.item())

    assert history[-1] < 0.98 * history[0]
    touched = {id(p) for p in detector.parameters() if p.grad is not None and p.grad.any()}
    assert touched == {id(parameter) for parameter in stage.parameters}
    listed = {name for name, p in detector.named_parameters() if id(p) in touched}
    assert listed == set(detector.trainable_state_dict())


def test_total_is_cross_entropy_plus_four_times_the_map_losses(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    one, four = (
        make(levels="all", segmentation_weight=weight)
        .stages()[0]
        .losses(batch_of(make().backbone, images, masks, labels))
        for weight in (1.0, 4.0)
    )

    image = one.terms["image"]
    torch.testing.assert_close(four.total - image, 4 * (one.total - image))
    assert {f"focal_{block}" for block in range(4)} < set(one.terms)


def test_cached_texts_follow_training(make: Make) -> None:
    detector = make()
    before = detector.texts()

    again = detector.texts()
    with torch.no_grad():
        detector.deep_tokens[0].add_(0.5)

    assert again is before
    assert not torch.equal(detector.texts(), before)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cls_ln_post", True),
        ("smoothing_sigma", 0.0),
        ("temperature", 0.01),
        ("prompt_tokens", 6),
        ("deep_tokens", 0),
        ("levels", "all"),
    ],
)
def test_every_option_has_an_effect(make: Make, images: Tensor, option: str, value: object) -> None:
    one, other = (detector.predict(images, NAMES) for detector in (make(), make(**{option: value})))

    same_score = torch.equal(one.image_score, other.image_score)
    same_map = torch.equal(one.anomaly_map, other.anomaly_map)
    assert not (same_score and same_map)


def test_official_preset_rounds_deep_tokens_and_an_option_overrides_it() -> None:
    assert AnomalyCLIPConfig(preset="official").round_deep_fp16
    assert not AnomalyCLIPConfig(preset="official", round_deep_fp16=False).round_deep_fp16
    assert not AnomalyCLIPConfig().round_deep_fp16


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValidationError, match="temperature"):
        AnomalyCLIPConfig(temperature=0.0)
    with pytest.raises(ValidationError, match="deep_tokens 4 is above prompt_tokens 3"):
        AnomalyCLIPConfig(prompt_tokens=3)


def test_checkpoint_gives_the_same_scores(make: Make, images: Tensor, tmp_path: Path) -> None:
    assert_checkpoint_round_trip(make(preset="official"), images, NAMES, tmp_path)


def test_parameter_count_on_vit_l_14_336_is_the_effective_one() -> None:
    backbone = vit_l14_336()
    with torch.device("meta"):
        detector = AnomalyCLIP(backbone, AnomalyCLIPConfig())

    found = sum(tensor.numel() for tensor in detector.trainable_state_dict().values())

    dead = 8 * (768 * 896 + 896)
    assert (found, found + dead) == (43_008, 5_555_200)


def test_runs_on_the_compact_backbone() -> None:
    backbone = load_backbone(BackboneConfig(name="compact-v1"))
    detector = AnomalyCLIP(backbone, AnomalyCLIPConfig())

    found = detector.predict(torch.zeros(1, 3, 320, 320), ["screw"])

    assert found.anomaly_map.shape == (1, 320, 320)
    assert len(detector.deep_tokens) == 2


def test_official_preset_counts_the_rows_of_a_batch_of_one_as_samples(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    totals = {}
    for preset in PRESETS:
        detector = make(preset=preset, round_deep_fp16=False)
        features = detector.frozen_features(detector.backbone.embed_images(images))
        first = type(features)(features.levels[:, :1], features.class_feature[:1])
        totals[preset] = [
            detector.losses_of(features, masks, labels).total.item(),
            detector.losses_of(first, masks[:1], labels[:1]).total.item(),
        ]

    assert totals["paper"][0] == totals["official"][0]
    assert totals["paper"][1] != totals["official"][1]
