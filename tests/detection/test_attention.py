import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zsad.attention import run_dual, run_whole
from zsad.backbone import Backbone


def close(found: Tensor, wanted: Tensor, atol: float = 2e-6) -> None:
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_block_in_parts_equals_the_block(
    make_backbone: Callable[..., Backbone], images: Tensor, activation: str
) -> None:
    backbone = make_backbone(activation=activation)
    with torch.inference_mode():
        tokens = backbone.embed_images(images)
        for block in backbone.clip.visual.transformer.resblocks:
            close(run_whole(block, tokens), block(tokens))
            tokens = block(tokens)


@torch.inference_mode()
def test_two_streams_from_one_projection_equal_each_alone(
    make_backbone: Callable[..., Backbone], images: Tensor
) -> None:
    backbone = make_backbone(activation="quick_gelu")
    block = backbone.clip.visual.transformer.resblocks[1]
    tokens = backbone.embed_images(images)
    local = tokens.flip(0)

    both = run_dual(block, tokens, local)
    only_class, _ = run_dual(block, tokens, local, last=True)

    close(both[0], block(tokens))
    close(only_class, both[0][:, :1])
    normed = block.ln_1(tokens)
    values = normed @ block.attn.in_proj_weight[128:].T + block.attn.in_proj_bias[128:]
    heads = values.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)
    mixed = (heads @ heads.mT / heads.shape[-1] ** 0.5).softmax(-1) @ heads
    close(both[1], local + block.attn.out_proj(mixed.transpose(1, 2).flatten(2)), 1e-5)


def test_weights_are_converted_once_and_norms_never(backbone: Backbone) -> None:
    with backbone.executing(half=torch.bfloat16):
        first, again = backbone.vision_blocks, backbone.vision_blocks

    assert [a is b for a, b in zip(first, again, strict=True)] == [True] * 4
    assert {p.dtype for p in first[0].attn.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in first[0].mlp.parameters()} == {torch.bfloat16}
    assert first[0].ln_1 is backbone.clip.visual.transformer.resblocks[0].ln_1
    assert backbone.vision_blocks == list(backbone.clip.visual.transformer.resblocks)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_sixteen_bits_lose_what_their_rounding_does(
    make_backbone: Callable[..., Backbone], images: Tensor, activation: str
) -> None:
    backbone = make_backbone(activation=activation)
    with torch.inference_mode():
        tokens = backbone.embed_images(images)
        whole = backbone.run_vision(tokens, ()).class_token - tokens[:, 0]
        with backbone.executing(half=torch.float16):
            half = backbone.run_vision(tokens, ()).class_token - tokens[:, 0]

    assert 0 < (half - whole).norm() / whole.norm() < 2e-3


def test_a_copy_and_a_moved_backbone_convert_their_own_weights(
    backbone: Backbone, images: Tensor
) -> None:
    def tokens(of: Backbone) -> Tensor:
        with torch.no_grad(), of.executing(half=torch.bfloat16):
            return of.run_vision(of.embed_images(images), ()).class_token

    before = tokens(backbone)
    other = copy.deepcopy(backbone)
    for name, parameter in other.clip.visual.transformer.named_parameters():
        if ".ln_" not in name:  # norms are never converted
            parameter.mul_(1.5)
    other.to("cpu")  # as a move to another device: what was converted before is forgotten

    assert (tokens(other) - before).abs().max() > 0.1
    assert torch.equal(tokens(backbone), before)


def test_weights_converted_in_inference_serve_training_too(
    backbone: Backbone, images: Tensor
) -> None:
    with backbone.executing(half=torch.bfloat16):
        with torch.inference_mode():
            backbone.run_vision(backbone.embed_images(images), ())
        embedded = backbone.embed_images(images).requires_grad_(True)

        backbone.run_vision(embedded, ()).class_token.sum().backward()

    assert embedded.grad is not None
    assert embedded.grad.abs().max() > 0
