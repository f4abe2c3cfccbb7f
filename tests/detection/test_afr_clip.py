from collections.abc import Callable
from typing import Any

import pytest
import torch
from one_stage import losses_of
from torch import Tensor
from torch.nn import functional as F

from zsad.backbone import Backbone
from zsad.config.afr_clip import AFRClipConfig
from zsad.losses import dice_loss, focal_loss
from zsad.methods.afr_clip import AFRClip
from zsad.patch_aggregation import aggregate_patches

NAMES = ["metal nut", "woven fabric", "metal nut"]
Make = Callable[..., AFRClip]


@pytest.fixture
def make(backbone: Backbone) -> Make:
    def build(**options: Any) -> AFRClip:
        return AFRClip(backbone, AFRClipConfig.model_validate(options))

    return build


def explicit_grids(detector: AFRClip, images: Tensor) -> list[Tensor]:
    """Eqs. 1-13 of the default configuration with every vector written out."""
    embedded = detector.backbone.embed_images(images)
    texts = detector.text_features(NAMES)
    F_n, F_a, F_s = (texts[:, row] for row in range(3))
    grids = []
    for i, stage in enumerate(detector.vision(images, embedded).stages):
        G = F.normalize(aggregate_patches(detector.stage_adapters[i](stage[:, 1:]), 3), dim=-1)
        cmfr = detector.rectification[i]
        U = cmfr.linear(torch.cat([G, F_s[:, None].expand_as(G)], dim=-1))
        grid = U.mT.reshape(3, -1, 7, 7)
        W_v = cmfr.conv2(cmfr.conv1(grid).relu()).sigmoid()[:, 0].reshape(3, 49, 1)
        F_rec = F_s[:, None] + W_v * G
        cosines = torch.stack(
            [F.cosine_similarity(F_rec, F_c[:, None], dim=-1) for F_c in (F_n, F_a)], dim=-1
        )
        grids.append((cosines / 0.01).softmax(-1)[..., 1].reshape(3, 7, 7))
    return grids


def test_maps_equal_the_written_out_equations(make: Make, images: Tensor) -> None:
    detector = make()

    raw = detector.raw_outputs(images, NAMES)

    with torch.no_grad():
        grids = torch.stack(explicit_grids(detector, images))
    torch.testing.assert_close(raw.stage_grids, grids, atol=1e-4, rtol=0)
    maps = F.interpolate(grids, size=(56, 56), mode="bilinear", align_corners=False)
    found = detector.predict(images, NAMES)
    torch.testing.assert_close(found.anomaly_map, maps.mean(0), atol=1e-4, rtol=0)


def test_image_score_is_the_rectified_class_token_against_both_states(
    make: Make, images: Tensor
) -> None:
    detector = make()

    found = detector.predict(images, NAMES).image_score

    with torch.no_grad():
        tokens = detector.vision(images, detector.backbone.embed_images(images))
        G = F.normalize(detector.backbone.project_vision(tokens.class_token), dim=-1)
        texts = detector.text_features(NAMES)
        W_v = detector.rectification[-1](G[:, None], texts[:, 2])[:, 0, :1]
        F_rec = texts[:, 2] + W_v * G
        cosines = F.cosine_similarity(F_rec[:, None], texts[:, :2], dim=-1)
    torch.testing.assert_close(found, (cosines / 0.01).softmax(-1)[:, 1], atol=1e-4, rtol=0)


def test_other_image_scores_are_what_they_say(make: Make, images: Tensor) -> None:
    token, peak, mean = (
        make(image_score=form).raw_outputs(images, NAMES)
        for form in ("class_token", "map_max", "mean")
    )

    torch.testing.assert_close(peak.image_score, peak.fused_map.amax((1, 2)))
    torch.testing.assert_close(mean.image_score, (token.image_score + peak.image_score) / 2)


def test_without_rectification_patches_meet_the_stateful_prompts(
    make: Make, images: Tensor
) -> None:
    detector = make(cmfr=False)

    raw = detector.raw_outputs(images, NAMES)

    with torch.no_grad():
        tokens = detector.vision(images, detector.backbone.embed_images(images))
        G = detector.patch_features(tokens.stages)[2]
        logits = 100 * G @ detector.text_features(NAMES)[:, :2].mT
    wanted = logits.softmax(-1)[..., 1].reshape(3, 7, 7)
    torch.testing.assert_close(raw.stage_grids[2], wanted, atol=1e-4, rtol=0)


def test_text_starts_at_clips_own_embeddings(make: Make) -> None:
    detector = make()

    found = detector.text_features(["metal_nut"])[0]

    sentences = [f"A photo of a {state}metal nut" for state in ("normal ", "defective ", "")]
    wanted = F.normalize(detector.backbone.encode_text(sentences), dim=-1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_all_ablations_together_are_adapters_on_plain_clip(make: Make, images: Tensor) -> None:
    detector = make(cmfr=False, sp=False, mpfa=False)

    found = detector.raw_outputs(images, NAMES).stage_grids

    with torch.no_grad():
        backbone = detector.backbone
        tokens = backbone.run_vision(backbone.embed_images(images), backbone.stage_blocks)
        texts = detector.text_features(NAMES)[:, :2]
        for stage, adapter, grid in zip(tokens.stages, detector.stage_adapters, found, strict=True):
            patches = F.normalize(adapter(stage[:, 1:]), dim=-1)
            wanted = (100 * patches @ texts.mT).softmax(-1)[..., 1].reshape(3, 7, 7)
            torch.testing.assert_close(grid, wanted, atol=1e-4, rtol=0)


def test_losses_are_focal_dice_and_image_cross_entropy(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    detector = make(temperature=1.0)

    found = losses_of(detector, images, masks, labels, NAMES).terms

    raw = detector.raw_outputs(images, NAMES)
    assert set(found) == {"focal", "dice_abnormal", "image"}
    torch.testing.assert_close(found["focal"], focal_loss(raw.fused_map, masks))
    torch.testing.assert_close(found["dice_abnormal"], dice_loss(raw.fused_map, masks))
    torch.testing.assert_close(
        found["image"], F.binary_cross_entropy(raw.image_score, labels.float())
    )


def test_per_stage_losses_add_up_over_stages(
    make: Make, images: Tensor, masks: Tensor, labels: Tensor
) -> None:
    detector = make(loss_on="stages", dice="both")

    found = losses_of(detector, images, masks, labels, NAMES).terms

    names = {
        f"{name}_{stage}"
        for name in ("focal", "dice_normal", "dice_abnormal")
        for stage in range(1, 5)
    }
    assert set(found) == names | {"image"}
    grids = detector.raw_outputs(images, NAMES).stage_grids[1]
    maps = F.interpolate(grids[None], size=(56, 56), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(found["dice_normal_2"], dice_loss(1 - maps, 1 - masks))
