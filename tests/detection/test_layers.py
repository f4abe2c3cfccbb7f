import torch
from torch import Tensor

from zsad.layers import Projector, ResidualAdapter, xavier_weight


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
