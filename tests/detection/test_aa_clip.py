from collections.abc import Callable

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.aa_clip import AAClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.losses import segmentation_terms
from zsad.methods.aa_clip import BLURS, AAClip
from zsad.scoring import upsample, upsample_matrix

PRESETS = ("paper", "official")
NAMES = ["metal nut", "woven fabric", "metal nut"]
Make = Callable[..., AAClip]


@pytest.mark.parametrize("preset", PRESETS)
def test_mixed_batch_equals_images_scored_alone(
    make_detector: Make, images: Tensor, preset: str
) -> None:
    detector = make_detector(preset=preset)

    together = detector.predict(images, NAMES)

    for row, name in enumerate(NAMES):
        alone = detector.predict(images[row : row + 1], [name])
        torch.testing.assert_close(
            together.image_score[row], alone.image_score[0], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            together.anomaly_map[row], alone.anomaly_map[0], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("preset", PRESETS)
def test_scores_and_maps_are_probabilities(
    make_detector: Make, images: Tensor, preset: str
) -> None:
    found = make_detector(preset=preset).predict(20 * images, NAMES)

    assert found.image_score.shape == (3,)
    assert found.anomaly_map.shape == (3, 56, 56)
    for values in (found.image_score, found.anomaly_map):
        assert values.dtype == torch.float32
        assert 0 <= values.min() <= values.max() <= 1


def test_streaming_score_is_the_softmax_of_mean_cosines_blurred_and_upsampled(
    make_detector: Make, images: Tensor
) -> None:
    detector = make_detector()

    found = detector.predict(images, NAMES)

    with torch.no_grad():
        features = detector.visual_features(detector.backbone.embed_images(images))
        anchors = detector.anchors(NAMES)
    mean_cosines = torch.stack([level @ anchors.mT for level in features.levels]).mean(0)
    probability = (100 * mean_cosines).softmax(-1)[..., 1].reshape(3, 7, 7)
    maps = upsample(probability, upsample_matrix(7, 56, BLURS["industrial"]))
    q = ((features.detection * anchors[:, 1]).sum(-1) + 1) / 2
    torch.testing.assert_close(found.anomaly_map, maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.image_score, (maps.amax((1, 2)) + q) / 2, atol=1e-5, rtol=0)


def test_phrase_decides_between_two_readings_of_one_image(
    make_detector: Make, images: Tensor
) -> None:
    same = images[:1].expand(2, -1, -1, -1)

    found = make_detector().predict(same, ["screw", "carpet"])

    assert found.image_score[0] != found.image_score[1]


def test_blank_class_name_reads_object(make_detector: Make, images: Tensor) -> None:
    detector = make_detector()

    blank = detector.predict(images, ["", " ", "object"])

    assert torch.equal(blank.image_score, detector.predict(images, ["object"] * 3).image_score)


def test_switched_off_text_side_equals_plain_clip(
    make_detector: Make, make_clip: Callable[[], CLIP]
) -> None:
    detector = make_detector(residual_ratio=0.0)
    sentences = ["a photo of a broken screw.", "wood."]

    found = detector.encode_sentences(sentences)

    tokens = open_clip.tokenizer.SimpleTokenizer()(sentences)
    torch.testing.assert_close(found, make_clip().encode_text(tokens), atol=1e-5, rtol=0)


def test_anchors_are_the_normalised_mean_of_normalised_sentences(make_detector: Make) -> None:
    detector = make_detector()

    found = detector.anchors(["screw"])[0]

    normal = ["screw.", "a screw.", "the screw."]
    normal += [f"a photo of {sentence}" for sentence in normal]
    rows = F.normalize(detector.encode_sentences(normal), dim=-1)
    torch.testing.assert_close(found[0], F.normalize(rows.mean(0), dim=-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["foreach", "fused"])
def test_anchor_cache_follows_training_and_loading(make_detector: Make, form: str) -> None:
    detector = make_detector()
    before = detector.anchors(["screw"])
    saved = {name: tensor.clone() for name, tensor in detector.trainable_state_dict().items()}

    optimizer = torch.optim.Adam(detector.stage1_parameters(), lr=1e-2, **{form: True})
    detector.encode_anchors(["screw"])[0, 0].sum().backward()
    optimizer.step()
    trained = detector.anchors(["screw"])
    detector.load_trainable_state_dict(saved)

    assert not torch.equal(before, trained)
    assert torch.equal(detector.anchors(["screw"]), before)


def test_cached_anchors_equal_fresh_ones(make_detector: Make) -> None:
    detector = make_detector()
    detector.anchors(["a", "b", "c"])

    cached = detector.anchors(["c", "a"])

    torch.testing.assert_close(cached, detector.encode_anchors(["c", "a"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_reach_exactly_the_listed_parameters(
    make_detector: Make, images: Tensor, masks: Tensor, labels: Tensor, preset: str
) -> None:
    for stage in (1, 2):
        detector = make_detector(preset=preset)
        detector.predict(images, NAMES)  # anchors cached in inference mode must not hurt training
        losses = (detector.stage1_losses, detector.stage2_losses)[stage - 1]
        listed = (detector.stage1_parameters(), detector.stage2_parameters())[stage - 1]

        losses(images, masks, labels, NAMES).total.backward()

        touched = {id(p) for p in detector.parameters() if p.grad is not None and p.grad.any()}
        assert touched == {id(parameter) for parameter in listed}


@pytest.mark.parametrize("preset", PRESETS)
def test_both_stages_lower_their_loss(
    make_detector: Make, images: Tensor, masks: Tensor, labels: Tensor, preset: str
) -> None:
    detector = make_detector(preset=preset)

    for losses, parameters, rate in (
        (detector.stage1_losses, detector.stage1_parameters(), 1e-3),
        (detector.stage2_losses, detector.stage2_parameters(), 1e-3),
    ):
        optimizer = torch.optim.Adam(parameters, lr=rate, betas=(0.5, 0.999))
        history = []
        for _ in range(12):
            found = losses(images, masks, labels, NAMES)
            history.append(found.total.item())
            optimizer.zero_grad()
            found.total.backward()
            optimizer.step()
        assert history[-1] < 0.9 * history[0]


def test_losses_of_cached_features_equal_losses_of_images(
    make_detector: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    detector = make_detector()
    embedded = detector.backbone.embed_images(images)
    features = detector.reference_features(embedded)

    first = detector.stage1_losses_of(features, masks, labels, NAMES)
    second = detector.stage2_losses_of(embedded, masks, labels, NAMES)

    assert torch.equal(first.total, detector.stage1_losses(images, masks, labels, NAMES).total)
    assert torch.equal(second.total, detector.stage2_losses(images, masks, labels, NAMES).total)


def test_total_is_the_sum_of_the_named_terms(
    make_detector: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    found = make_detector().stage1_losses(images, masks, labels, NAMES)

    assert {"focal_0", "dice_normal_3", "dice_abnormal_3", "image", "disentangle"} < set(
        found.terms
    )
    torch.testing.assert_close(found.total, torch.stack(list(found.terms.values())).sum())


def test_disentangle_forms_weigh_a_mixed_batch_differently(
    make_detector: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    names = ["a", "b", "a"]
    detectors = {
        form: make_detector(disentangle=form, disentangle_weight=1.0)
        for form in ("mean_of_squares", "square_of_mean")
    }

    found = {
        form: detector.stage1_losses(images, masks, labels, names).terms["disentangle"].item()
        for form, detector in detectors.items()
    }

    anchors = detectors["square_of_mean"].anchors(["a", "b"])
    a, b = (anchors[:, 0] * anchors[:, 1]).sum(-1).tolist()
    assert found["mean_of_squares"] == pytest.approx((a**2 + b**2) / 2, rel=1e-5)
    assert found["square_of_mean"] == pytest.approx(((2 * a + b) / 3) ** 2, rel=1e-5)


def test_fused_segmentation_uses_the_renormalised_sum_of_levels(
    make_detector: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    detector = make_detector()

    found = detector.stage2_losses(images, masks, labels, NAMES).terms

    features = detector.visual_features(detector.backbone.embed_images(images))
    fused = features.levels.sum(0)
    fused = fused / fused.norm(dim=-1, keepdim=True)
    logits = 100 * fused @ detector.anchors(NAMES).mT  # [B, N, 2]
    grids = logits.mT.reshape(3, 2, 7, 7)
    maps = F.interpolate(grids, size=(56, 56), mode="bilinear", align_corners=True).softmax(1)
    for name, wanted in segmentation_terms(maps[:, 1], masks).items():
        torch.testing.assert_close(found[name], wanted, atol=1e-5, rtol=0)
    cosines = (features.detection[:, None] * detector.anchors(NAMES)).sum(-1)
    torch.testing.assert_close(found["image"], F.cross_entropy(cosines, labels))


@pytest.mark.parametrize(
    ("option", "value", "stage"),
    [
        ("stage1_reference", "batch_axis", 1),
        ("stage1_levels", "last", 1),
        ("stage1_class_feature", "added", 1),
        ("text_projector", "fresh", 1),
        ("disentangle_weight", 0.5, 1),
        ("image_loss_temperature", 0.1, 1),
        ("text_adapters", 3, 1),
        ("stage2_segmentation", "per_level", 2),
        ("residual_ratio", 0.5, 2),
        ("vision_adapters", 3, 2),
    ],
)
def test_every_training_option_has_an_effect(
    make_detector: Make,
    images: Tensor,
    masks: Tensor,
    labels: Tensor,
    option: str,
    value: object,
    stage: int,
) -> None:
    totals = []
    for detector in (make_detector(), make_detector(**{option: value})):
        losses = (detector.stage1_losses, detector.stage2_losses)[stage - 1]
        totals.append(losses(images, masks, labels, NAMES).total.item())

    assert totals[0] != pytest.approx(totals[1], rel=1e-4)


def test_one_upsampling_of_the_sum_equals_the_sum_of_four(
    make_detector: Make, images: Tensor
) -> None:
    detector = make_detector(preset="official")

    raw = detector.raw_outputs(images, NAMES)

    matrix = upsample_matrix(7, 56, BLURS["industrial"])
    four = sum(upsample(raw.level_grids[:, level], matrix) for level in range(4))
    torch.testing.assert_close(raw.linear_map, four, atol=1e-4, rtol=0)


def test_whole_set_scores_are_scaled_over_the_set_and_streaming_ones_are_not(
    make_detector: Make, images: Tensor
) -> None:
    official = make_detector(preset="official")
    parts = [official.unscaled(images[i : i + 1], NAMES[i : i + 1]) for i in range(3)]

    found = official.whole_set_scores(torch.cat([part.terms for part in parts]))

    raw = official.raw_outputs(images, NAMES)
    low, high = raw.linear_map.min(), raw.linear_map.max()
    q = raw.image_term
    wanted = (raw.linear_map - low) / (high - low)
    scores = 0.5 * wanted.amax((1, 2)) + 0.5 * (q - q.min()) / (q.max() - q.min())
    torch.testing.assert_close(found.image_scores, scores, atol=1e-4, rtol=0)
    maps = found.scaled(torch.cat([part.anomaly_map for part in parts]))
    torch.testing.assert_close(maps, wanted, atol=1e-4, rtol=0)
    assert (maps.min(), maps.max()) == (0, 1)
    assert not torch.allclose(official.predict(images, NAMES).image_score, scores, atol=1e-2)


def test_the_probability_map_is_ranked_where_the_paper_decides(
    make_detector: Make, images: Tensor
) -> None:
    paper, official = make_detector(), make_detector(preset="official")

    found = paper.unscaled(images, NAMES).anomaly_map

    assert torch.equal(found, paper.predict(images, NAMES).anomaly_map)
    assert official.ranks_whole_sets
    assert not paper.ranks_whole_sets


def test_a_set_of_one_image_has_scores(make_detector: Make, images: Tensor) -> None:
    detector = make_detector(preset="official")

    found = detector.whole_set_scores(detector.unscaled(images[:1], NAMES[:1]).terms)

    assert found.image_scores.tolist() == [0.5]


def test_medical_domain_smooths_more_and_scores_by_the_map_alone(
    make_detector: Make, images: Tensor
) -> None:
    medical = make_detector(preset="official", domain="medical")
    raw = medical.raw_outputs(images, NAMES)

    found = medical.whole_set_scores(medical.unscaled(images, NAMES).terms)

    matrix = upsample_matrix(7, 56, BLURS["medical"])
    torch.testing.assert_close(
        raw.linear_map, upsample(raw.level_grids.sum(1), matrix), atol=1e-4, rtol=1e-5
    )
    low, high = raw.linear_map.min(), raw.linear_map.max()
    peaks = raw.linear_map.amax((1, 2))
    torch.testing.assert_close(found.image_scores, (peaks - low) / (high - low))


def test_predicting_and_training_leave_no_hooks(
    make_detector: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    detector = make_detector()

    detector.predict(images, NAMES)
    detector.stage2_losses(images, masks, labels, NAMES).total.backward()

    for module in detector.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


def test_published_depths_are_a_quarter_of_the_tower(make_detector: Make) -> None:
    detector = make_detector()

    assert len(detector.text_adapters) == 1
    assert len(detector.vision_adapters) == 1
    with pytest.raises(ValueError, match="vision_adapters 5 is above the 4 blocks"):
        make_detector(vision_adapters=5)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_count_on_vit_l_14_336_is_the_published_one(preset: str) -> None:
    config = BackboneConfig(name="x", image_size=518)
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    with torch.device("meta"):
        clip = CLIP(**open_clip.get_model_config("ViT-L-14-336"))
        backbone = Backbone(clip, config, (0, 0, 0), (1, 1, 1), tokenizer)
        detector = AAClip(backbone, AAClipConfig(preset=preset))

    text = sum(parameter.numel() for parameter in detector.stage1_parameters())
    vision = sum(parameter.numel() for parameter in detector.stage2_parameters())

    assert (text, vision) == (2_359_296, 10_223_616)
    assert sum(p.numel() for p in detector.trainable_state_dict().values()) == 12_582_912


def test_same_seed_gives_the_same_detector(backbone: Backbone) -> None:
    one, same, other = (AAClip(backbone, AAClipConfig(), seed=seed) for seed in (1, 1, 2))

    for name, tensor in one.trainable_state_dict().items():
        assert torch.equal(tensor, same.trainable_state_dict()[name])
    assert not torch.equal(one.det_projector.weight, other.det_projector.weight)


def test_images_that_do_not_fit_are_refused(make_detector: Make, images: Tensor) -> None:
    detector = make_detector()

    with pytest.raises(ValueError, match=r"images must be \[B, 3, 56, 56\], got \[3, 3, 48, 56\]"):
        detector.predict(images[:, :, :48], NAMES)
    with pytest.raises(ValueError, match="3 images but 2 class names"):
        detector.predict(images, NAMES[:2])
