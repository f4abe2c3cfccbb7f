from collections.abc import Callable
from typing import Any

import pytest
import torch
from one_stage import losses_of
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.mfp_clip import MFPClipConfig
from zsad.losses import dice_loss
from zsad.methods.mfp_clip import MFPClip
from zsad.patch_aggregation import aggregate_patches
from zsad.self_prompting import image_features

NAMES = ["metal nut", "woven fabric", "metal nut"]
Make = Callable[..., MFPClip]


@pytest.fixture
def make(backbone: Backbone) -> Make:
    def build(**options: Any) -> MFPClip:
        return MFPClip(backbone, MFPClipConfig.model_validate(options))

    return build


def share_weights(target: MFPClip, source: MFPClip) -> None:
    """Give the target what both have; each draws its own start otherwise."""
    state = source.state_dict()
    own = target.state_dict()
    target.load_state_dict({name: state.get(name, value) for name, value in own.items()})


def leave_identity(layer: torch.nn.Linear) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))


def test_identity_started_mask_prompting_equals_the_model_without_it(
    make: Make, images: Tensor
) -> None:
    with_mp, without = make(), make(mp=False)
    share_weights(without, with_mp)

    found, wanted = (detector.raw_outputs(images, NAMES) for detector in (with_mp, without))

    for stage, other in zip(found.refined.stage_grids, wanted.coarse.stage_grids, strict=True):
        torch.testing.assert_close(stage, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.refined.image_score, wanted.refined.image_score)


@pytest.mark.parametrize("options", [{}, {"mp_tokens": "all"}, {"mp_place": "after_ln_pre"}])
def test_identity_started_second_pass_equals_the_first(
    make: Make, images: Tensor, options: dict[str, Any]
) -> None:
    raw = make(**options).raw_outputs(images, NAMES)

    torch.testing.assert_close(raw.refined.fused_map, raw.coarse.fused_map, atol=1e-5, rtol=0)


def test_identity_started_image_to_text_equals_the_model_without_it(
    make: Make, images: Tensor
) -> None:
    with_i2tp, without = make(), make(i2tp=False)
    share_weights(without, with_i2tp)

    found, wanted = (detector.predict(images, NAMES) for detector in (with_i2tp, without))

    torch.testing.assert_close(found.anomaly_map, wanted.anomaly_map, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.image_score, wanted.image_score, atol=1e-4, rtol=0)


def test_its_few_words_are_encoded_in_float32_also_where_patches_are_not(
    make: Make, images: Tensor
) -> None:
    detector = make()
    features = detector.backbone.embed_images(images)[:, 1:].mean(1)
    names = ["nut"] * len(images)

    with torch.inference_mode(), detector.backbone.executing(half=torch.bfloat16):
        found = detector.text_features(names, features)
        patches = detector.raw_outputs(images, names).coarse.stage_grids

    with torch.inference_mode():
        assert torch.equal(found, detector.text_features(names, features))
        assert not torch.equal(patches, detector.raw_outputs(images, names).coarse.stage_grids)


def test_both_passes_equal_the_written_out_equations(make: Make, images: Tensor) -> None:
    detector = make(temperature=0.5)
    backbone = detector.backbone
    leave_identity(detector.mask_projection)
    leave_identity(detector.image_to_text.token_projection)

    found = detector.raw_outputs(images, NAMES)

    def one_pass(entering: Tensor, texts: Tensor) -> Tensor:
        tokens = detector.self_prompting.run_vision(backbone, entering, features)
        maps = []
        for adapter, stage in zip(detector.stage_adapters, tokens.stages, strict=True):
            first, act, second, _ = adapter
            patches = act(second(act(first(stage[:, 1:]))))
            G = F.normalize(aggregate_patches(patches, 3), dim=-1)
            grid = (G @ texts.mT / 0.5).softmax(-1)[..., 1].reshape(3, 1, 7, 7)
            maps.append(F.interpolate(grid, size=(56, 56), mode="bilinear")[:, 0])
        return torch.stack(maps).mean(0)

    with torch.no_grad():
        features = image_features(None, images, backbone.embed_images(images))
        texts = detector.text_features(NAMES, features)
        M = one_pass(backbone.embed_images(images), texts)
        F_I, F_masked = (backbone.embed_patches(x) for x in (images, images * M[:, None]))
        merged = detector.mask_projection(torch.cat([F_I, F_masked], dim=-1))
        merged = torch.cat([F_I[:, :1], merged[:, 1:]], dim=1)
        refined = one_pass(backbone.norm_input(merged), texts)
    torch.testing.assert_close(found.coarse.fused_map, M, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.refined.fused_map, refined, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.refined.image_score, refined.amax((1, 2)), atol=1e-5, rtol=0)


def test_rgb_masking_darkens_and_normalised_masking_greys(make: Make, images: Tensor) -> None:
    black, grey = make(mask_space="rgb"), make()
    nothing = torch.zeros(3, 56, 56)
    embed = black.backbone.embed_patches(images)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (black.backbone.mean, black.backbone.std))
    for detector, masked in ((black, (-mean / std).expand_as(images)), (grey, 0 * images)):
        leave_identity(detector.mask_projection)

        found = detector.merge_masked(images, embed, embed, nothing)

        joined = torch.cat([embed, detector.backbone.embed_patches(masked)], dim=-1)
        merged = torch.cat([embed[:, :1], detector.mask_projection(joined)[:, 1:]], dim=1)
        torch.testing.assert_close(found, detector.backbone.norm_input(merged))


def test_stretched_masks_span_zero_to_one_image_by_image(make: Make, images: Tensor) -> None:
    detector = make(mask_range="min_max")
    leave_identity(detector.mask_projection)
    embed = detector.backbone.embed_patches(images)
    narrow = torch.rand(3, 56, 56)
    low, high = narrow.amin((1, 2), keepdim=True), narrow.amax((1, 2), keepdim=True)

    found = detector.merge_masked(images, embed, embed, 0.3 + 0.1 * narrow)

    plain = make()
    share_weights(plain, detector)
    wanted = plain.merge_masked(images, embed, embed, (narrow - low) / (high - low))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mask_gradient", [False, True])
def test_the_second_pass_trains_the_map_only_when_asked(
    make: Make, images: Tensor, mask_gradient: bool
) -> None:
    detector = make(mask_gradient=mask_gradient)
    leave_identity(detector.mask_projection)
    embed = detector.backbone.embed_patches(images)
    fused_map = torch.rand(3, 56, 56, requires_grad=True)

    merged = detector.merge_masked(images, embed, embed, fused_map)
    merged.square().sum().backward()

    assert (fused_map.grad is not None) == mask_gradient


def test_both_passes_are_supervised_unless_only_the_refined_one_is(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    refined = {"focal", "dice_abnormal", "image"}

    both = losses_of(make(), images, masks, labels, NAMES).terms
    one = losses_of(make(supervision="refined"), images, masks, labels, NAMES).terms
    no_mp = losses_of(make(mp=False), images, masks, labels, NAMES).terms

    assert set(both) == refined | {f"{name}_coarse" for name in refined}
    assert set(one) == set(no_mp) == refined


@pytest.mark.parametrize("dice", ["abnormal", "both"])
def test_rowwise_dice_takes_rows_for_samples_in_a_batch_of_one(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor, dice: str
) -> None:
    detector = make(dice_rowwise_b1=True, dice=dice)
    M = detector.raw_outputs(images[:1], NAMES[:1]).refined.fused_map

    found = losses_of(detector, images[:1], masks[:1], labels[:1], NAMES[:1]).terms

    rows = [dice_loss(M[0, [row]], masks[0, [row]]) for row in range(56)]
    torch.testing.assert_close(found["dice_abnormal"], torch.stack(rows).mean())
    assert ("dice_normal" in found) == (dice == "both")
    assert found["dice_abnormal"].item() != pytest.approx(dice_loss(M, masks[:1]).item())
