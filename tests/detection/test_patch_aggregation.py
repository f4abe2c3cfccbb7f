import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from zsad.patch_aggregation import aggregate_patches


def patches(grid: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(2, grid * grid, width, generator=torch.Generator().manual_seed(seed))


def test_a_window_of_one_changes_nothing() -> None:
    features = patches(5, 3)

    assert torch.equal(aggregate_patches(features, 1), features)


def test_hand_computed_three_by_three_grid() -> None:
    features = torch.arange(1.0, 10).reshape(1, 9, 1)  # 1 2 3 / 4 5 6 / 7 8 9

    valid = aggregate_patches(features, 3, "valid")[0, :, 0].tolist()
    zero = aggregate_patches(features, 3, "zero")[0, :, 0].tolist()

    assert valid == [3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0]
    torch.testing.assert_close(zero, [x / 9 for x in (12, 21, 16, 27, 45, 33, 24, 39, 28)])


@settings(max_examples=20, deadline=None)
@given(grid=st.integers(1, 7), window=st.sampled_from([3, 5]), seed=st.integers(0, 99))
def test_border_rules_differ_only_in_length(grid: int, window: int, seed: int) -> None:
    features = patches(grid, 4, seed)

    valid, zero = (aggregate_patches(features, window, rule) for rule in ("valid", "zero"))

    torch.testing.assert_close(
        F.normalize(valid, dim=-1), F.normalize(zero, dim=-1), atol=1e-5, rtol=0
    )


@settings(max_examples=20, deadline=None)
@given(grid=st.integers(1, 7), window=st.sampled_from([3, 5]), seed=st.integers(0, 99))
def test_pooling_before_a_linear_layer_with_bias_equals_pooling_behind_it(
    grid: int, window: int, seed: int
) -> None:
    features = patches(grid, 6, seed)
    layer = torch.nn.Linear(6, 4)

    before = layer(aggregate_patches(features, window))
    behind = aggregate_patches(layer(features), window)

    torch.testing.assert_close(before, behind, atol=1e-5, rtol=0)


def test_pooling_does_not_commute_with_an_activation_or_a_zero_border() -> None:
    features = patches(5, 6)
    layer = torch.nn.Linear(6, 4)

    activated = F.leaky_relu(layer(aggregate_patches(features, 3)))
    assert not torch.allclose(activated, aggregate_patches(F.leaky_relu(layer(features)), 3))
    assert not torch.allclose(
        layer(aggregate_patches(features, 3, "zero")),
        aggregate_patches(layer(features), 3, "zero"),
    )
