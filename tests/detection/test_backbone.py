import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor

from zsad.backbone import Backbone, BackboneError
from zsad.backbone_loading import load_backbone
from zsad.config.backbone import BackboneConfig

SENTENCES = ["a photo of a damaged screw.", "wood.", "a very long phrase with many words in it."]
TOKENIZER = open_clip.tokenizer.SimpleTokenizer()


def close(found: Tensor, wanted: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0)


@torch.no_grad()
def test_stage_tokens_equal_open_clips_own(
    backbone: Backbone, make_clip: Callable[[], CLIP], images: Tensor
) -> None:
    found = backbone.run_vision(backbone.embed_images(images), [0, 2, 3])

    theirs = make_clip().visual.forward_intermediates(
        images, indices=[0, 2, 3], output_fmt="NLC", output_extra_tokens=True
    )
    for index, tokens in enumerate(found.stages):
        close(tokens[:, 1:], theirs["image_intermediates"][index])
        close(tokens[:, :1], theirs["image_intermediates_prefix"][index])
    close(backbone.project_vision(found.class_token), theirs["image_features"])


@torch.no_grad()
def test_text_cut_after_its_end_equals_open_clips_77_tokens(
    backbone: Backbone, make_clip: Callable[[], CLIP]
) -> None:
    found = backbone.encode_text(SENTENCES)

    close(found, make_clip().encode_text(TOKENIZER(SENTENCES)))


@torch.no_grad()
def test_cut_text_equals_77_tokens_also_with_adapters(backbone: Backbone) -> None:
    def after_block(index: int, tokens: Tensor) -> Tensor:
        return tokens * 0.9 + 0.1 * tokens.flip(-1) if index < 2 else tokens

    found = backbone.encode_text(SENTENCES, after_block)

    token_ids = TOKENIZER(SENTENCES)
    full = backbone.run_text(backbone.embed_text(token_ids), after_block)
    rows = full[torch.arange(3), token_ids.argmax(-1)]
    close(found, rows @ backbone.text_projection)


@torch.no_grad()
def test_custom_text_towers_that_pool_at_eos_give_the_same_text(
    make_backbone: Callable[..., Backbone],
    tiny_config: dict[str, object],
    tiny_state: dict[str, Tensor],
) -> None:
    text_cfg = {**tiny_config["text_cfg"], "pool_type": "eos", "eos_id": 49407}  # type: ignore[dict-item]
    clip = CustomTextCLIP(**{**tiny_config, "text_cfg": text_cfg})
    clip.load_state_dict(open_clip.model.convert_to_custom_text_state_dict(tiny_state))
    custom = Backbone(clip, BackboneConfig(name="x"), (0, 0, 0), (1, 1, 1), TOKENIZER)

    found = custom.encode_text(SENTENCES)

    close(found, make_backbone().encode_text(SENTENCES))


@torch.no_grad()
def test_dual_stream_adds_value_attention_of_the_ordinary_stream(
    backbone: Backbone, images: Tensor
) -> None:
    embedded = backbone.embed_images(images)

    found = backbone.run_dual_stream(embedded, [0, 1, 2, 3])

    ordinary = backbone.run_vision(embedded, [0, 1, 2, 3])
    close(found.class_token, ordinary.class_token)
    close(found.stages[0], ordinary.stages[0])  # the V-V stream starts after the first block
    local = ordinary.stages[0]
    for index in (1, 2, 3):
        block = backbone.clip.visual.transformer.resblocks[index]
        attention = block.attn
        values = block.ln_1(ordinary.stages[index - 1]) @ attention.in_proj_weight[128:].T
        values = values + attention.in_proj_bias[128:]
        heads = []
        for head in values.split(16, dim=-1):
            weights = (head @ head.mT / 16**0.5).softmax(-1)
            heads.append(weights @ head)
        local = local + attention.out_proj(torch.cat(heads, dim=-1))
        close(found.stages[index], local)


@torch.no_grad()
def test_batch_axis_stream_depends_on_batch_mates_and_dual_stream_does_not(
    backbone: Backbone, images: Tensor
) -> None:
    embedded = backbone.embed_images(images)

    dual_alone = backbone.run_dual_stream(embedded[:1], [3]).stages[0]
    axis_alone = backbone.run_batch_axis(embedded[:1], [3])[0]

    close(backbone.run_dual_stream(embedded, [3]).stages[0][:1], dual_alone)
    assert (backbone.run_batch_axis(embedded, [3])[0][:1] - axis_alone).abs().max() > 1e-3


@torch.no_grad()
def test_batch_axis_stream_of_one_image_only_projects_values(
    backbone: Backbone, images: Tensor
) -> None:
    embedded = backbone.embed_images(images[:1])

    found = backbone.run_batch_axis(embedded, [1])[0]

    before, block = backbone.run_vision(embedded, [0]).stages[0], None
    block = backbone.clip.visual.transformer.resblocks[1]
    values = block.ln_1(before) @ block.attn.in_proj_weight[128:].T + block.attn.in_proj_bias[128:]
    after = before + block.attn.out_proj(values)
    close(found, after + block.mlp(block.ln_2(after)))


def test_stages_of_24_blocks_are_the_published_ones() -> None:
    with torch.device("meta"):
        clip = CLIP(**open_clip.get_model_config("ViT-L-14-336"))
    config = BackboneConfig(name="x", image_size=518)

    backbone = Backbone(clip, config, (0, 0, 0), (1, 1, 1), TOKENIZER)

    assert backbone.stage_blocks == [5, 11, 17, 23]
    assert backbone.first_vv_block == 5
    assert (backbone.grid, backbone.patch_px, backbone.vision_width) == (37, 14, 1024)
    assert (backbone.embed_dim, backbone.n_text_blocks, backbone.text_width) == (768, 12, 768)


@pytest.mark.parametrize("mode", ["bicubic_antialias", "bicubic", "bilinear"])
def test_positions_are_resized_once_and_the_class_position_stays(
    make_backbone: Callable[..., Backbone], tiny_state: dict[str, Tensor], mode: str
) -> None:
    source = tiny_state["visual.positional_embedding"]

    backbone = make_backbone(image_size=80, position_interpolation=mode)

    positions = backbone.clip.visual.positional_embedding
    assert positions.shape == (101, 64)
    assert torch.equal(positions[0], source[0])
    tokens = backbone.embed_images(torch.zeros(2, 3, 80, 80))
    assert tokens.shape == (2, 101, 64)


def test_position_interpolations_differ(make_backbone: Callable[..., Backbone]) -> None:
    modes = ("bicubic_antialias", "bicubic", "bilinear")

    grids = [
        make_backbone(image_size=80, position_interpolation=mode).clip.visual.positional_embedding
        for mode in modes
    ]

    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (grids[one] - grids[other]).abs().max() > 1e-3


def test_image_size_that_is_no_multiple_of_the_patch_is_refused(
    make_backbone: Callable[..., Backbone],
) -> None:
    with pytest.raises(BackboneError, match="60 is not a multiple of the patch side 8; take 64"):
        make_backbone(image_size=60)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_activation_is_set_in_both_towers(
    make_backbone: Callable[..., Backbone], images: Tensor, activation: str
) -> None:
    native, changed = make_backbone(), make_backbone(activation=activation)

    assert changed.activation == activation
    same_tokens = torch.equal(
        native.run_vision(native.embed_images(images), ()).class_token,
        changed.run_vision(changed.embed_images(images), ()).class_token,
    )
    assert same_tokens == (activation == "gelu")  # this network is made with GELU
    assert torch.equal(native.encode_text(["a"]), changed.encode_text(["a"])) == same_tokens


def test_backbone_is_frozen_and_stays_in_evaluation_mode(backbone: Backbone) -> None:
    backbone.train()

    assert not backbone.training
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_content_hash_follows_weights_and_not_the_input_side(
    make_backbone: Callable[..., Backbone],
) -> None:
    first, larger, changed = make_backbone(), make_backbone(image_size=80), make_backbone()
    changed.clip.ln_final.bias[3] += 1e-6

    assert first.content_hash() == larger.content_hash()
    assert first.content_hash() != changed.content_hash()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 6}, "6 vision blocks do not split into 4 stages"),
        ({"layers": [1, 1, 1, 1], "head_width": 64}, "is a ModifiedResNet"),
        ({"pool_type": "avg"}, "must pool by its class token"),
        ({"qk_norm": True}, "plain pre-norm CLIP blocks"),
    ],
)
def test_vision_towers_of_another_kind_are_refused(
    tiny_config: dict[str, object], change: dict[str, object], message: str
) -> None:
    clip = CLIP(**{**tiny_config, "vision_cfg": {**tiny_config["vision_cfg"], **change}})  # type: ignore[dict-item]

    with pytest.raises(BackboneError, match=message):
        Backbone(clip, BackboneConfig(name="x"), (0, 0, 0), (1, 1, 1), TOKENIZER)


def test_local_folder_and_checkpoint_file_load_the_same_network(
    tmp_path: Path, tiny_config: dict[str, object], tiny_state: dict[str, Tensor], images: Tensor
) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": tiny_config}))
    weights = tmp_path / "open_clip_model.safetensors"
    safetensors.torch.save_file(tiny_state, weights)
    (tmp_path / "tiny-zsad-test.json").write_text(json.dumps(tiny_config))
    open_clip.add_model_config(tmp_path / "tiny-zsad-test.json")
    torch.save(tiny_state, tmp_path / "weights.pt")

    backbones = [
        load_backbone(BackboneConfig(name=f"local-dir:{tmp_path}")),
        load_backbone(BackboneConfig(name="tiny-zsad-test", pretrained=str(weights))),
        load_backbone(
            BackboneConfig(name="tiny-zsad-test", pretrained=str(tmp_path / "weights.pt"))
        ),
    ]

    assert len({backbone.content_hash() for backbone in backbones}) == 1
    tokens = [backbone.embed_images(images) for backbone in backbones]
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[0], tokens[2])


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-L-14-336-quickgelu", None, "pretrained is empty; give an open_clip tag"),
        ("ViT-B-32", "/nowhere/weights.safetensors", "there is no weights file /nowhere"),
        ("ViT-B-32", "no-such-tag", "not a known tag"),
        ("no-such-model", "openai", "no-such-model"),
        ("local-dir:/nowhere", None, "not found"),
        ("compact-v1", "openai", "carries its own weights"),
    ],
)
def test_backbones_that_cannot_be_made_are_refused(
    name: str, pretrained: str | None, message: str
) -> None:
    if name.startswith("compact-"):
        pytest.importorskip("zsad.compact")

    with pytest.raises(BackboneError, match=message):
        load_backbone(BackboneConfig(name=name, pretrained=pretrained))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_damaged_checkpoint_file_is_refused(
    tmp_path: Path, tiny_config: dict[str, object], suffix: str
) -> None:
    (tmp_path / "tiny-zsad-bad.json").write_text(json.dumps(tiny_config))
    open_clip.add_model_config(tmp_path / "tiny-zsad-bad.json")
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(b"not weights" * 50)

    with pytest.raises(BackboneError, match="cannot make backbone tiny-zsad-bad"):
        load_backbone(BackboneConfig(name="tiny-zsad-bad", pretrained=str(path)))


def test_float32_is_not_rounded_on_a_gpu(make_backbone: Callable[..., Backbone]) -> None:
    torch.backends.cudnn.allow_tf32 = True  # torch's own default

    make_backbone()

    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
