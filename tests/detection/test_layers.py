from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.layers import (
    Projector,
    ResidualAdapter,
    conv_layer,
    identity_linear,
    linear_layer,
    stage_adapter,
    xavier_weight,
)


def new_adapter(ratio: float) -> ResidualAdapter:
    return ResidualAdapter(8, ratio, torch.Generator().manual_seed(1))


TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))


def test_residual_has_the_direction_of_the_layer_and_the_length_of_the_token() -> None:
    adapter = new_adapter(1.0)

    found = adapter(TOKENS)

    for token, adapted in zip(TOKENS.reshape(-1, 8), found.reshape(-1, 8), strict=True):
        layer = adapter.weight @ token
        layer = torch.where(layer > 0, layer, 0.01 * layer)
        wanted = layer / layer.norm() * token.norm()
        torch.testing.assert_close(adapted, wanted)


def test_ratio_mixes_residual_and_token() -> None:
    residual = new_adapter(1.0)(TOKENS)

    torch.testing.assert_close(new_adapter(0.1)(TOKENS), 0.1 * residual + 0.9 * TOKENS)
    assert torch.equal(new_adapter(0.0)(TOKENS), TOKENS)


def test_a_zero_token_stays_finite() -> None:
    assert torch.isfinite(new_adapter(0.5)(torch.zeros(1, 8))).all()


def test_only_a_leaky_projector_has_an_activation() -> None:
    weight = xavier_weight(3, 8, torch.Generator().manual_seed(3))
    linear: Tensor = TOKENS @ weight.T

    torch.testing.assert_close(Projector(weight)(TOKENS), linear)
    torch.testing.assert_close(
        Projector(weight, leaky=True)(TOKENS), torch.nn.functional.leaky_relu(linear, 0.01)
    )


def test_identity_layers_pass_on_their_first_inputs() -> None:
    layer = identity_linear(8, 5)

    torch.testing.assert_close(layer(TOKENS), TOKENS[..., :5])


@pytest.mark.parametrize("kernel", [1, 3])
def test_new_layers_are_drawn_from_the_generator_alone_within_torchs_bounds(kernel: int) -> None:
    made = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        made.append((linear_layer(8, 64, generator), conv_layer(8, 64, kernel, generator)))
        torch.randn(1)  # the global generator moves on

    for one, same, fan_in in zip(*made, (8, 8 * kernel * kernel), strict=True):
        assert torch.equal(one.weight, same.weight)
        assert torch.equal(one.bias, same.bias)
        assert 0.9 * fan_in**-0.5 < one.weight.abs().max() <= fan_in**-0.5


def test_stage_adapters_are_one_linear_layer_or_two_with_activations() -> None:
    def new(**options: Any) -> torch.nn.Module:
        return stage_adapter(8, 5, torch.Generator().manual_seed(5), **options)

    first, _, second = new(layers=2, final_activation=False)
    hidden = F.leaky_relu(first(TOKENS), 0.01)

    torch.testing.assert_close(new(layers=1)(TOKENS), first(TOKENS))
    torch.testing.assert_close(new(layers=2)(TOKENS), F.leaky_relu(second(hidden), 0.01))
    torch.testing.assert_close(
        new(layers=2, activation="relu")(TOKENS), second(first(TOKENS).relu()).relu()
    )
    torch.testing.assert_close(
        new(layers=2, activation="gelu", final_activation=False)(TOKENS),
        second(F.gelu(first(TOKENS))),
    )
