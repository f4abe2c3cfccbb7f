"""Small trainable layers that methods put beside a frozen backbone."""

from typing import Literal

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
        """[..., width] -> the same shape and type, whatever type autocast gives the product."""
        projected = F.linear(tokens, self.weight).to(tokens.dtype)
        residual = F.leaky_relu(projected, NEGATIVE_SLOPE)
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


def uniform_weight(out_width: int, in_width: int, generator: torch.Generator) -> nn.Parameter:
    """A new [out, in] weight, PyTorch's own initial distribution of a linear layer."""
    weight = torch.empty(out_width, in_width)
    if not weight.is_meta:
        weight.uniform_(-(in_width**-0.5), in_width**-0.5, generator=generator)
    return nn.Parameter(weight)


def linear_layer(in_width: int, out_width: int, generator: torch.Generator) -> nn.Linear:
    """A new linear map with bias, PyTorch's own initial distribution drawn from `generator`."""
    layer = nn.Linear(in_width, out_width)
    if not layer.weight.is_meta:
        bound = in_width**-0.5
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def conv_layer(in_width: int, out_width: int, kernel: int, generator: torch.Generator) -> nn.Conv2d:
    """A new convolution with bias that keeps the grid; initial weights as `linear_layer`."""
    layer = nn.Conv2d(in_width, out_width, kernel, padding=kernel // 2)
    if not layer.weight.is_meta:
        bound = (in_width * kernel * kernel) ** -0.5
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def identity_linear(in_width: int, out_width: int) -> nn.Linear:
    """A linear layer that starts by passing on the first `out_width` inputs: [I | 0], bias 0."""
    layer = nn.Linear(in_width, out_width)
    if not layer.weight.is_meta:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


def stage_adapter(
    in_width: int,
    out_width: int,
    generator: torch.Generator,
    *,
    layers: int,
    activation: Literal["leaky_relu", "relu", "gelu"] = "leaky_relu",
    final_activation: bool = True,
) -> nn.Module:
    """AD_i of AFR-CLIP and MFP-CLIP: `layers` linear layers; two have activations behind them."""
    if layers == 1:
        return linear_layer(in_width, out_width, generator)
    parts: list[nn.Module] = [
        linear_layer(in_width, out_width, generator),
        _activation(activation),
        linear_layer(out_width, out_width, generator),
    ]
    return nn.Sequential(*parts, *([_activation(activation)] if final_activation else []))


def _activation(name: Literal["leaky_relu", "relu", "gelu"]) -> nn.Module:
    match name:
        case "leaky_relu":
            return nn.LeakyReLU(NEGATIVE_SLOPE)
        case "relu":
            return nn.ReLU()
        case "gelu":
            return nn.GELU()
