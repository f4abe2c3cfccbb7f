from collections.abc import Callable

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor

from zsad.backbone import Backbone
from zsad.config.afr_clip import AFRClipConfig
from zsad.config.backbone import BackboneConfig
from zsad.self_prompting import SelfPrompting, image_features

WIDTH = 64


@pytest.fixture
def deep_backbone(tiny_config: dict[str, dict[str, object]]) -> Backbone:
    """Twelve vision blocks, three a stage."""
    vision = {**tiny_config["vision_cfg"], "layers": 12}
    with torch.random.fork_rng():
        torch.manual_seed(11)
        clip = CLIP(**{**tiny_config, "vision_cfg": vision})
    return Backbone(
        clip,
        BackboneConfig(name="deep"),
        (0.5,) * 3,
        (0.2,) * 3,
        open_clip.tokenizer.SimpleTokenizer(),
    )


def new_prompting(**options: object) -> SelfPrompting:
    config = AFRClipConfig.model_validate({"sp_adapters": 3, **options})
    return SelfPrompting(WIDTH, WIDTH, config, torch.Generator().manual_seed(2))


def blocks_of(backbone: Backbone) -> list[Callable[[Tensor], Tensor]]:
    return list(backbone.clip.visual.transformer.resblocks)


def test_prompts_are_k_projections_followed_by_the_unified_tokens() -> None:
    module, features = new_prompting(), torch.randn(2, WIDTH)

    found = module.prompts(features)

    assert found.shape == (2, 6, WIDTH)
    for k in range(3):
        rows = slice(k * WIDTH, (k + 1) * WIDTH)
        weight, bias = module.adapters.weight[rows], module.adapters.bias[rows]
        torch.testing.assert_close(found[:, k], features @ weight.T + bias)
    assert torch.equal(found[1, 3:], module.unified)


def test_kinds_and_combination_decide_the_number_of_prompts() -> None:
    features = torch.randn(2, WIDTH)
    both, summed = new_prompting(), new_prompting(sp_combine="sum")

    assert new_prompting(sp_tokens="image").prompts(features).shape[1] == 3
    assert new_prompting(sp_tokens="unified").prompts(features).shape[1] == 3
    parts = both.prompts(features)
    torch.testing.assert_close(summed.prompts(features), parts[:, :3] + parts[:, 3:])


def test_prompts_are_appended_overwritten_and_dropped_as_printed(
    deep_backbone: Backbone, images: Tensor
) -> None:
    module = new_prompting()
    embedded = deep_backbone.embed_images(images)
    features = image_features(None, images, embedded)

    found = module.run_vision(deep_backbone, embedded, features)

    P_v, T = module.prompts(features), embedded.shape[1]
    tokens, stages = embedded, []
    for layer, block in enumerate(blocks_of(deep_backbone), start=1):
        if layer in (2, 3):  # the rest of stage 1
            tokens = torch.cat([tokens[:, :T], P_v], dim=1)
        if layer == 4:
            tokens = tokens[:, :T]
        tokens = block(tokens)
        if layer % 3 == 0:
            stages.append(tokens[:, :T])
    for one, wanted in zip(found.stages, stages, strict=True):
        torch.testing.assert_close(one, wanted)
    torch.testing.assert_close(found.class_token, stages[-1][:, 0])


def test_kept_prompts_live_on_and_stay_out_of_the_stages(
    deep_backbone: Backbone, images: Tensor
) -> None:
    module = new_prompting(sp_placement="keep")
    embedded = deep_backbone.embed_images(images)
    features = image_features(None, images, embedded)

    found = module.run_vision(deep_backbone, embedded, features)

    P_v, T = module.prompts(features), embedded.shape[1]
    tokens = embedded
    for layer, block in enumerate(blocks_of(deep_backbone), start=1):
        if layer in (2, 3):
            tokens = torch.cat([tokens[:, :T], P_v], dim=1)
        tokens = block(tokens)
    torch.testing.assert_close(found.stages[-1], tokens[:, :T])


def test_literal_text_puts_prompts_in_place_of_the_last_patches(
    deep_backbone: Backbone, images: Tensor
) -> None:
    module = new_prompting(sp_placement="overwrite")
    embedded = deep_backbone.embed_images(images)
    features = image_features(None, images, embedded)

    found = module.run_vision(deep_backbone, embedded, features)

    P_v = module.prompts(features)
    tokens = embedded
    for layer, block in enumerate(blocks_of(deep_backbone), start=1):
        if layer in (2, 3):
            tokens = torch.cat([tokens[:, :-6], P_v], dim=1)
        tokens = block(tokens)
    torch.testing.assert_close(found.stages[-1], tokens)


@pytest.mark.parametrize("n_stages", [2, 4])
def test_later_stages_can_be_prompted_too(
    deep_backbone: Backbone, images: Tensor, n_stages: int
) -> None:
    embedded = deep_backbone.embed_images(images)
    features = image_features(None, images, embedded)

    one = new_prompting().run_vision(deep_backbone, embedded, features)
    more = new_prompting(sp_stages=n_stages).run_vision(deep_backbone, embedded, features)

    assert torch.equal(one.stages[0], more.stages[0])
    assert not torch.allclose(one.stages[1], more.stages[1])


def test_a_stage_of_one_block_is_prompted(backbone: Backbone, images: Tensor) -> None:
    module = new_prompting()
    embedded = backbone.embed_images(images)

    found = module.run_vision(backbone, embedded, image_features(None, images, embedded))

    P_v = module.prompts(embedded[:, 1:].mean(1))
    wanted = blocks_of(backbone)[0](torch.cat([embedded, P_v], dim=1))[:, : embedded.shape[1]]
    torch.testing.assert_close(found.stages[0], wanted)
    assert not torch.allclose(wanted, backbone.run_vision(embedded, [0]).stages[0])


def test_more_prompts_than_patches_are_refused(backbone: Backbone, images: Tensor) -> None:
    module = new_prompting(sp_placement="overwrite", sp_adapters=25)
    embedded = backbone.embed_images(images)

    with pytest.raises(ValueError, match="50 prompt tokens leave none of 49 patches"):
        module.run_vision(backbone, embedded, embedded[:, 1:].mean(1))
