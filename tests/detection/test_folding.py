"""Batch norms folded into the convolutions before them: the same CNN, and the same backbone."""

import timm
import torch
from torch import nn

from zsad.backbone_loading import compact_backbone, load_backbone
from zsad.compact import DEFAULT_COMPACT, build_compact_clip
from zsad.config.backbone import BackboneConfig
from zsad.folding import fold_batch_norms, fold_padding


def unlike_new(network: nn.Module) -> nn.Module:
    """Norms that do something, as trained ones do."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)
    return network.eval()


def test_folded_networks_compute_the_same() -> None:
    for name in ("resnet18", "tf_efficientnet_lite0"):
        network = unlike_new(timm.create_model(name, pretrained=False, num_classes=4)).double()
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)).double()
        with torch.inference_mode():
            before = network(images)
            fold_batch_norms(network)
            after = network(images)

        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()), name
        assert torch.allclose(after, before, rtol=1e-9, atol=1e-9), name


@torch.inference_mode()
def test_padding_without_a_copy_computes_the_same_to_the_last_bit() -> None:
    network = unlike_new(timm.create_model("tf_efficientnet_lite0", features_only=True))
    network.to(memory_format=torch.channels_last)
    fold_batch_norms(network)
    generator = torch.Generator().manual_seed(2)
    all_images = [torch.randn(2, 3, side, side, generator=generator) for side in (64, 80, 90)]
    before = [network(images) for images in all_images]  # 80 and 90 come to odd sides

    fold_padding(network)
    fold_padding(network)

    for images, wanted in zip(all_images, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(network(images), wanted, strict=True))
    assert sum(type(module).__name__ == "_SameOfEven" for module in network.modules()) == 4


def test_the_compact_backbone_is_folded_and_keeps_its_name() -> None:
    clip, _, _ = build_compact_clip(DEFAULT_COMPACT)
    images = torch.randn(1, 3, 320, 320, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        before = clip.visual.conv1(images)
        backbone = compact_backbone(clip, BackboneConfig(name=DEFAULT_COMPACT))
        after = backbone.clip.visual.conv1(images)

    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    assert torch.allclose(after, before, atol=1e-4)
    again = load_backbone(BackboneConfig(name=DEFAULT_COMPACT))
    assert backbone.content_hash() == again.content_hash() == WEIGHTS_AS_SHIPPED


WEIGHTS_AS_SHIPPED = "10eb0e20c21ebb0469c6f8ca4d07dd3095269dba67d88a755e9f60fd2aecd0f3"
"""Of the tensors before they are folded: checkpoints of older versions name it."""
