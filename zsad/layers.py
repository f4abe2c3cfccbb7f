"""Small trainable layers that methods put beside a frozen backbone."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEGATIVE_SLOPE = 0.01
_NORM_FLOOR = 1e-12


class ResidualAdapter(nn.Module):
    """AA-CLIP's residual adapter (Ma et al. 2025, Eqs. 1-2).

    x_res = Norm(LeakyReLU(W x)), x <- lambda x_res + (1 - lambda) x, where Norm gives every
    token the length that it had in x.

    Args:
        width: Token width; W is [width, width] without bias, Xavier uniform.
        ratio: lambda in [0, 1]; 0 switches the adapter off.
        generator: Source of the initial weights.
    """

    def __init__(self, width: int, ratio: float, generator: torch.Generator) -> None:
        super().__init__()
        self.ratio = ratio
        self.weight = xavier_weight(width, width, generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        residual = F.leaky_relu(F.linear(tokens, self.weight), NEGATIVE_SLOPE)
        wanted = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
        found = torch.linalg.vector_norm(residual, dim=-1, keepdim=True).clamp_min(_NORM_FLOOR)
        residual = residual * (wanted / found)
        mixed: Tensor = self.ratio * residual + (1 - self.ratio) * tokens
        return mixed


class Projector(nn.Module):
    """A linear map without bias, followed by LeakyReLU if asked for.

    Args:
        weight: [out, in].
        leaky: Whether the activation follows.
    """

    def __init__(self, weight: nn.Parameter, *, leaky: bool = False) -> None:
        super().__init__()
        self.leaky = leaky
        self.weight = weight

    def forward(self, features: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        projected = F.linear(features, self.weight)
        return F.leaky_relu(projected, NEGATIVE_SLOPE) if self.leaky else projected


def xavier_weight(out_width: int, in_width: int, generator: torch.Generator) -> nn.Parameter:
    """A new [out, in] weight, Xavier uniform."""
    weight = torch.empty(out_width, in_width)
    if not weight.is_meta:  # a network laid out on the meta device has shapes, no values
        nn.init.xavier_uniform_(weight, generator=generator)
    return nn.Parameter(weight)
