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
from zsad.config.fa_prompt import FAPromptConfig
from zsad.learned_prompts import encode_prompts, overwrite_deep, place_tokens
from zsad.losses import binary_focal_loss, segmentation_terms
from zsad.methods.anomaly_clip import AnomalyCLIP
from zsad.methods.fa_prompt import FAPrompt

PRESETS = ("paper", "official")
NAMES = ["screw", "carpet", "screw"]
Make = Callable[..., FAPrompt]


@pytest.fixture
def make(make_backbone: Callable[..., Backbone]) -> Make:
    def make(**options: object) -> FAPrompt:
        return FAPrompt(make_backbone(), FAPromptConfig.model_validate(options))

    return make


@pytest.mark.parametrize("options", [{}, {"preset": "official"}, {"cap": False}, {"dap": False}])
def test_mixed_batch_equals_images_scored_alone(
    make: Make, images: Tensor, options: dict[str, object]
) -> None:
    detector = make(**options)

    together = detector.predict(images, NAMES)

    assert together.image_score.shape == (3,)
    assert together.anomaly_map.shape == (3, 56, 56)
    for row, name in enumerate(NAMES):
        alone = detector.predict(images[row : row + 1], [name])
        torch.testing.assert_close(
            together.image_score[row], alone.image_score[0], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            together.anomaly_map[row], alone.anomaly_map[0], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("preset", PRESETS)
def test_scores_and_maps_are_probabilities(make: Make, images: Tensor, preset: str) -> None:
    found = make(preset=preset, temperature=0.001).predict(20 * images, NAMES)

    for values in (found.image_score, found.anomaly_map):
        assert values.dtype == torch.float32
        assert 0 <= values.min() <= values.max() <= 1


@torch.no_grad()
@pytest.mark.parametrize(("preset", "plain_weight"), [("paper", 1 / 2), ("official", 2 / 3)])
def test_scores_are_the_written_out_formula(
    make: Make, images: Tensor, preset: str, plain_weight: float
) -> None:
    detector = make(preset=preset)

    found = detector.raw_outputs(images, NAMES)

    texts, prior = detector.encode_texts(), found.prior
    assert prior is not None
    features = detector.frozen_features(detector.backbone.embed_images(images))
    normal = F.normalize(texts.normal_raw, dim=-1)
    abnormal = F.normalize(texts.abnormal_each.mean(0), dim=-1)
    first = features.class_feature

    def probability(feature: Tensor, text: Tensor) -> Tensor:
        return (torch.stack([feature @ normal, feature @ text], dim=-1) / 0.07).softmax(-1)[..., 1]

    for row in range(3):
        patches, refined = features.levels[0, row], prior.anchors[row, 1]
        plain, with_prior = probability(patches, abnormal), probability(patches, refined)
        peak = plain_weight * plain.max() + (1 - plain_weight) * with_prior.max()
        score = (probability(first[row], refined) + peak) / 2
        grids = torch.stack([plain, with_prior]).reshape(2, 1, 7, 7)
        maps = F.interpolate(grids, size=(56, 56), mode="bilinear")[:, 0].mean(0)
        smooth = torch.from_numpy(gaussian_filter(maps.double().numpy(), sigma=10))
        torch.testing.assert_close(found.image_score[row], score)
        torch.testing.assert_close(found.anomaly_map[row].double(), smooth, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_b_times_k_prompts_in_one_call_equal_the_loop_over_whole_prompts(
    make: Make, preset: str
) -> None:
    detector = make(preset=preset)
    omega = 0.1 * torch.randn(3, 48, generator=torch.Generator().manual_seed(5))

    found = detector.refined(omega, detector.encode_texts().prefix)

    config = detector.config
    deep = overwrite_deep(detector.deep_tokens, round_fp16=config.round_deep_fp16)
    words = "X " * 7 + config.abnormal_words
    ids = detector.backbone.tokenizer([words])  # all 77 places
    for row in range(3):
        each = []
        for own in detector.abnormal_tokens:
            learned = torch.cat([detector.normal_tokens, own + omega[row]])[None]
            tokens = place_tokens(detector.backbone, ids, learned)
            each.append(encode_prompts(detector.backbone, ids, tokens, deep)[0])
        wanted = F.normalize(torch.stack(each).mean(0), dim=-1)
        torch.testing.assert_close(found[row], wanted, atol=5e-6, rtol=0)


@torch.no_grad()
def test_without_omega_the_refined_prompts_are_the_plain_ones(make: Make, images: Tensor) -> None:
    detector = make()
    assert detector.prior is not None
    for parameter in detector.prior[2].parameters():
        parameter.zero_()

    found = detector.raw_outputs(images, NAMES)

    assert found.prior is not None
    torch.testing.assert_close(found.prior.grid, found.plain_grid, atol=1e-6, rtol=0)


def test_top_patches_come_in_descending_order_and_ties_by_lowest_index(make: Make) -> None:
    plain = torch.full((1, 49), 0.5)
    plain[0, 30], plain[0, 7] = 0.9, 0.7

    top, first = (make(selection=how, patches=5).selected(plain) for how in ("top", "first"))

    assert top.tolist() == [[30, 7, 0, 1, 2]]
    assert first.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preset": "official"},
        {"cap": False},
        {"dap": False},
        {"dap": False, "preset": "official"},
        {"prior_weight": 0.0},
        {"orthogonality_weight": 0.0},
        {"normal_tokens": 2, "abnormal_tokens": 1, "deep_tokens": 2},
    ],
)
def test_losses_fall_and_reach_exactly_the_listed_parameters(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor, options: dict[str, object]
) -> None:
    detector = make(**options)
    detector.predict(images, NAMES)  # texts cached in inference mode must not hurt training
    batch = batch_of(detector.backbone, images, masks, labels)
    (stage,) = detector.stages()
    optimizer = torch.optim.Adam(stage.parameters, lr=2e-3, betas=stage.betas)

    history = []
    for _ in range(12):
        optimizer.zero_grad()
        found = stage.losses(batch)
        found.total.backward()
        optimizer.step()
        history.append(found.total.item())

    assert history[-1] < 0.99 * history[0]
    touched = {id(p) for p in detector.parameters() if p.grad is not None and p.grad.any()}
    assert touched == {id(parameter) for parameter in stage.parameters}
    listed = {name for name, p in detector.named_parameters() if id(p) in touched}
    assert listed == set(detector.trainable_state_dict())


def test_paper_losses_are_the_written_out_terms(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    detector = make()
    batch = batch_of(detector.backbone, images, masks, labels)

    found = detector.stages()[0].losses(batch)

    features, texts = detector.frozen_features(batch.embedded), detector.encode_texts()
    outputs = detector.outputs_of(features, texts)
    assert outputs.prior is not None
    wanted = {}
    for name, weight, grid in (
        ("plain", 1.0, outputs.plain_grid),
        ("prior", 0.5, outputs.prior.grid),
    ):
        maps = F.interpolate(grid[:, None], size=(56, 56), mode="bilinear")[:, 0]
        for term, value in segmentation_terms(maps, masks).items():
            wanted[f"{term}_{name}"] = weight * value
    pairs = [(i, j) for i in range(10) for j in range(i)]
    each = texts.abnormal_each
    cosines = [F.cosine_similarity(each[i], each[j], dim=0).abs() for i, j in pairs]
    wanted["orthogonality"] = 0.1 * torch.stack(cosines).sum()
    wanted["prior"] = (outputs.prior.omega[1] ** 2).mean()  # the second image is normal
    p_t = torch.where(labels == 1, outputs.image_score, 1 - outputs.image_score)
    wanted["image_focal"] = (-((1 - p_t) ** 2) * p_t.log()).mean()
    assert found.terms.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found.terms[name], value, atol=1e-6, rtol=1e-5, msg=name)
    torch.testing.assert_close(found.total, torch.stack(list(found.terms.values())).sum())


def test_focal_loss_of_logits_is_that_of_their_sigmoid() -> None:
    scores, labels = torch.tensor([0.2, 0.9, 0.5]), torch.tensor([0, 1, 1])

    found = binary_focal_loss(scores, labels, logits=True)

    wanted = binary_focal_loss(scores.sigmoid(), labels, logits=False)
    torch.testing.assert_close(found, wanted)


def test_without_dap_there_is_no_prior_network_and_one_map(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    detector = make(dap=False)

    raw = detector.raw_outputs(images, NAMES)
    terms = detector.stages()[0].losses(batch_of(detector.backbone, images, masks, labels)).terms

    assert raw.prior is None
    assert torch.equal(raw.grid, raw.plain_grid)
    peak = raw.plain_grid.amax(dim=(1, 2))
    torch.testing.assert_close(raw.image_score, (raw.class_probability + peak) / 2)
    assert not any("prior" in name for name in [*terms, *detector.trainable_state_dict()])


def test_without_cap_one_abnormality_prompt_has_no_pair(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    detector = make(cap=False)

    terms = detector.stages()[0].losses(batch_of(detector.backbone, images, masks, labels)).terms

    assert detector.abnormal_tokens.shape == (1, 12, 48)
    assert terms["orthogonality"] == 0


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_without_cap_and_dap_the_prompts_and_maps_are_anomaly_clips(
    make: Make, make_backbone: Callable[..., Backbone], images: Tensor, preset: str
) -> None:
    detector = make(cap=False, dap=False, preset=preset)
    base = AnomalyCLIP(make_backbone(), AnomalyCLIPConfig.model_validate({"preset": preset}))
    base.normal_tokens.copy_(detector.normal_tokens)
    base.abnormal_tokens.copy_(detector.abnormal_tokens[0])
    for own, other in zip(detector.deep_tokens, base.deep_tokens, strict=True):
        other.copy_(own)

    found = detector.raw_outputs(images, NAMES)

    wanted = base.raw_outputs(images, NAMES)
    torch.testing.assert_close(detector.texts().anchors[0], base.texts(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.plain_grid, wanted.grids[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.class_probability, wanted.image_score, atol=1e-5, rtol=0)


def test_without_cap_the_prior_shifts_all_tokens_of_the_abnormal_prompt(make: Make) -> None:
    detector, shifted = make(cap=False), make(cap=False)
    omega = 0.1 * torch.randn(2, 48, generator=torch.Generator().manual_seed(5))

    with torch.no_grad():
        found = detector.refined(omega, None)
        for row in range(2):
            shifted.abnormal_tokens.copy_(detector.abnormal_tokens + omega[row])
            wanted = shifted.texts().anchors[0, 1]
            torch.testing.assert_close(found[row], wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_official_preset_takes_rows_for_samples_in_a_batch_of_one(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor, preset: str
) -> None:
    detector = make(preset=preset)
    one = batch_of(detector.backbone, images[:1], masks[:1], labels[:1])

    found = detector.stages()[0].losses(one).terms["dice_normal_plain"]

    grid = detector.raw_outputs(images[:1], NAMES[:1]).plain_grid
    normal = 1 - F.interpolate(grid[:, None], size=(56, 56), mode="bilinear")[:, 0]
    samples = zip(normal[0], 1 - masks[0], strict=True) if preset == "official" else None
    pairs = list(samples) if samples else [(normal, 1 - masks[:1])]
    wanted = [1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1) for p, t in pairs]
    torch.testing.assert_close(found, torch.stack(wanted).mean(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cap", False),
        ("dap", False),
        ("selection", "first"),
        ("abnormal_words", "damaged object."),
        ("peaks", "two_to_one"),
        ("image_loss", "cross_entropy_and_logit_focal"),
        ("plain_map_weight", 0.5),
        ("prior_map_weight", 1.0),
        ("orthogonality_weight", 0.0),
        ("prior_weight", 0.0),
        ("image_weight", 2.0),
        ("prior_reduction", "mean"),
        ("prototype", "normalised"),
        ("cls_ln_post", True),
        ("temperature", 0.01),
        ("normal_tokens", 8),
        ("abnormal_tokens", 4),
        ("prompts", 3),
        ("patches", 5),
        ("deep_tokens", 0),
    ],
)
def test_every_training_option_has_an_effect(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor, option: str, value: object
) -> None:
    totals = []
    for detector in (make(), make(**{option: value})):
        (stage,) = detector.stages()
        batch = batch_of(detector.backbone, images, masks, labels)
        totals.append(stage.losses(batch).total.item())

    assert totals[0] != pytest.approx(totals[1], rel=1e-7)


def test_smoothing_and_rounding_have_an_effect(make: Make, images: Tensor) -> None:
    plain = make().predict(images, NAMES)

    rough = make(smoothing_sigma=0.0).predict(images, NAMES)
    rounded = make(round_deep_fp16=True).predict(images, NAMES)

    assert rough.anomaly_map.std() > plain.anomaly_map.std()
    assert torch.equal(rough.image_score, plain.image_score)
    assert not torch.equal(rounded.image_score, plain.image_score)


def test_cached_texts_follow_training(make: Make) -> None:
    detector = make()
    before = detector.texts()

    again = detector.texts()
    with torch.no_grad():
        detector.abnormal_tokens.add_(0.5)

    assert again is before
    assert not torch.equal(detector.texts().anchors, before.anchors)


def test_settings_that_cannot_work_are_refused(make: Make) -> None:
    with pytest.raises(ValidationError, match="deep_tokens 4 is above normal_tokens 2"):
        FAPromptConfig(normal_tokens=2)
    with pytest.raises(ValueError, match="patches 50 is above the 49 patches"):
        make(patches=50)


def test_official_preset_is_the_released_code_and_options_override_it() -> None:
    found = FAPromptConfig.model_validate({"preset": "official", "peaks": "equal"})

    assert (found.selection, found.abnormal_words, found.peaks) == (
        "first",
        "damaged object.",
        "equal",
    )
    assert found.image_loss == "cross_entropy_and_logit_focal"
    assert found.round_deep_fp16


def test_checkpoint_gives_the_same_scores(make: Make, images: Tensor, tmp_path: Path) -> None:
    assert_checkpoint_round_trip(make(preset="official"), images, NAMES, tmp_path)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_count_on_vit_l_14_336_is_the_effective_one(preset: str) -> None:
    backbone = vit_l14_336()
    with torch.device("meta"):
        detector = FAPrompt(backbone, FAPromptConfig(preset=preset))

    found = sum(tensor.numel() for tensor in detector.trainable_state_dict().values())

    dead = 8 * (768 * 896 + 896)
    assert (found, found + dead) == (4_100_064, 9_612_256)


def test_runs_on_the_compact_backbone() -> None:
    backbone = load_backbone(BackboneConfig(name="compact-v1"))
    detector = FAPrompt(backbone, FAPromptConfig())

    found = detector.predict(torch.zeros(1, 3, 320, 320), ["screw"])

    assert found.anomaly_map.shape == (1, 320, 320)
