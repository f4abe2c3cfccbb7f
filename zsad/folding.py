"""A frozen CNN without batch norms and padded copies: the same, in fewer passes over memory.

In evaluation mode a batch norm is one factor and one summand a channel, which the convolution
before it can take over. Refuses to know where the CNN is used.
"""

from itertools import pairwise

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch norm into the convolution that is registered just before it, in place.

    That is their order in timm's EfficientNets and ResNets; an activation that timm made a part of
    the norm stays in its place. What was folded before is left alone.

    Args:
        network: Frozen, in evaluation mode.
    """
    for module in list(network.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                with torch.no_grad():
                    folded = fuse_conv_bn_eval(conv.eval(), norm.eval())
                folded.to(memory_format=torch.channels_last)
                setattr(module, conv_name, folded.requires_grad_(False))
                setattr(module, norm_name, getattr(norm, "act", nn.Identity()))


def fold_padding(network: nn.Module) -> None:
    """Let depthwise convolutions of stride 2 pad as TensorFlow does without a copy, in place.

    Args:
        network: Frozen, its norms folded already; what was done before is left alone.
    """
    padded = [module for module in network.modules() if not isinstance(module, _SameOfEven)]
    for module in padded:
        for name, conv in list(module.named_children()):
            if isinstance(conv, Conv2dSame) and conv.stride == (2, 2) and _is_depthwise(conv):
                setattr(module, name, _SameOfEven(conv))


class _SameOfEven(nn.Module):
    """On an even side that padding is one cell more behind than before.

    A kernel that begins with zeros sees as much with the same padding on both sides, to the last
    bit. On an odd side the convolution itself runs.
    """

    grown: Tensor

    def __init__(self, conv: Conv2dSame) -> None:
        super().__init__()
        self.conv = conv
        grown = F.pad(conv.weight.detach(), (1, 0, 1, 0))
        grown = grown.contiguous(memory_format=torch.channels_last)
        self.register_buffer("grown", grown, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]."""
        conv = self.conv
        if features.shape[-1] % 2 or features.shape[-2] % 2:
            whole: Tensor = conv(features)
            return whole
        half = conv.kernel_size[0] // 2
        return F.conv2d(features, self.grown, conv.bias, 2, half, groups=conv.groups)


def _is_depthwise(conv: nn.Conv2d) -> bool:
    """Of a square kernel with a middle."""
    height, width = conv.kernel_size
    is_square = height == width and height % 2 == 1 and conv.dilation == (1, 1)
    return is_square and conv.groups == conv.in_channels
