"""Cross-modal feature rectification (CMFR): a text vector shifted by each patch.

AFR-CLIP (Yuan et al. 2025), Eqs. 3-6 and 11-12; symbols as printed. With F_s the stateless text
vector and G the patch features, F_rec = F_s + W_v G (+ W_t F_s), a weight a position.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.layers import conv_layer, linear_layer

_FLOOR = 1e-12


class RectificationWeights(nn.Module):
    """Eqs. 3-5: W = sigmoid(Conv(ReLU(Conv(Linear([G; F_s]))))), two weights a position.

    Args:
        width: D.
        generator: Source of the initial weights; the last bias starts at 0.
        kernel: Side of both convolutions.
        hidden: Channels between the convolutions.
        order: The linear layer before (`linear_first`) or behind (`linear_last`) the convolutions.
    """

    def __init__(
        self,
        width: int,
        generator: torch.Generator,
        *,
        kernel: int = 1,
        hidden: int | None = None,
        order: Literal["linear_first", "linear_last"] = "linear_first",
    ) -> None:
        super().__init__()
        hidden = width if hidden is None else hidden
        self.order = order
        last: nn.Linear | nn.Conv2d
        if order == "linear_first":
            self.linear = linear_layer(2 * width, width, generator)
            self.conv1 = conv_layer(width, hidden, kernel, generator)
            self.conv2 = last = conv_layer(hidden, 2, kernel, generator)
        else:
            self.conv1 = conv_layer(2 * width, hidden, kernel, generator)
            self.conv2 = conv_layer(hidden, hidden, kernel, generator)
            self.linear = last = linear_layer(hidden, 2, generator)
        if last.bias is not None and not last.bias.is_meta:
            nn.init.zeros_(last.bias)

    def forward(self, patches: Tensor, stateless: Tensor) -> Tensor:
        """Weights of every position.

        Args:
            patches: G [B, N, D], N = g * g.
            stateless: F_s [B, D].

        Returns:
            [B, N, 2] in (0, 1); W_v, W_t.
        """
        if self.order == "linear_first":
            logits = self._convolve(self.joint(patches, stateless))
        else:
            spread = stateless[:, None].expand(-1, patches.shape[1], -1)
            logits = self.linear(self._convolve(torch.cat([patches, spread], dim=-1)))
        return logits.to(patches.dtype).sigmoid()

    def joint(self, patches: Tensor, stateless: Tensor) -> Tensor:
        """Eq. 3, Linear([G; F_s]) = W_1 G + (W_2 F_s + b): F_s is not spread over the patches."""
        D = patches.shape[-1]
        W_1, W_2 = self.linear.weight[:, :D], self.linear.weight[:, D:]
        return F.linear(patches, W_1) + F.linear(stateless, W_2, self.linear.bias)[:, None]

    def _convolve(self, features: Tensor) -> Tensor:
        """Both convolutions: [B, N, C] -> [B, N, C']."""
        if self.conv1.kernel_size == (1, 1):  # a matrix product, and no position moves
            return _product(F.relu(_product(features, self.conv1)), self.conv2)
        B, N, C = features.shape
        g = math.isqrt(N)
        grid = features.transpose(1, 2).reshape(B, C, g, g)
        convolved: Tensor = self.conv2(F.relu(self.conv1(grid)))
        return convolved.flatten(2).transpose(1, 2)


def _product(features: Tensor, convolution: nn.Conv2d) -> Tensor:
    """A 1 x 1 convolution of positions in a row: [B, N, C] -> [B, N, C']."""
    return F.linear(features, convolution.weight.flatten(1), convolution.bias)


def rectified_cosines(
    patches: Tensor, stateless: Tensor, anchors: Tensor, weights: Tensor, *, text_weight: bool
) -> Tensor:
    """Eqs. 10-12 in closed form: cos(F_rec, F_c) for every patch and anchor.

    With a = 1 + W_t (or 1) and w = W_v: F_rec = a F_s + w G, so that
    F_rec F_c = a F_s F_c + w G F_c and |F_rec|^2 = a^2 |F_s|^2 + 2 a w G F_s + w^2 |G|^2.
    No rectified vector is ever made.

    Args:
        patches: G [B, N, D].
        stateless: F_s [B, D].
        anchors: F_c [B, C, D].
        weights: [B, N, 2]; W_v, W_t.
        text_weight: Whether W_t is used.

    Returns:
        [B, N, C].
    """
    w = weights[..., :1]  # [B, N, 1]
    a = 1 + weights[..., 1:] if text_weight else torch.ones_like(w)
    texts = torch.cat([anchors, stateless[:, None]], dim=1)  # [B, C + 1, D]
    dots = patches @ texts.mT  # [B, N, C + 1]
    G_c, G_s = dots[..., :-1], dots[..., -1:]
    s_c = (anchors @ stateless[:, :, None]).mT  # [B, 1, C]
    s_s = stateless.square().sum(-1)[:, None, None]
    G_G = patches.square().sum(-1, keepdim=True)
    squared = a.square() * s_s + 2 * a * w * G_s + w.square() * G_G
    length = squared.clamp_min(_FLOOR).sqrt()
    anchor_length = torch.linalg.vector_norm(anchors, dim=-1).clamp_min(_FLOOR)[:, None]
    cosines: Tensor = (a * s_c + w * G_c) / (length * anchor_length)
    return cosines


def mean_rectified(
    patches: Tensor, stateless: Tensor, weights: Tensor, *, text_weight: bool
) -> Tensor:
    """Mean of F_rec over all patches: [B, D]."""
    shift = (weights[..., :1].mT @ patches).squeeze(1) / patches.shape[1]
    if text_weight:
        stateless = stateless * (1 + weights[..., 1].mean(dim=1, keepdim=True))
    return stateless + shift
