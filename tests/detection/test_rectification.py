import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from zsad.rectification import RectificationWeights, mean_rectified, rectified_cosines

D = 8


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def new_weights(**options: object) -> RectificationWeights:
    return RectificationWeights(D, torch.Generator().manual_seed(1), **options)  # type: ignore[arg-type]


def explicit(patches: Tensor, stateless: Tensor, weights: Tensor, *, text_weight: bool) -> Tensor:
    """F_rec of Eq. 10, every vector written out."""
    rectified = stateless[:, None] + weights[..., :1] * patches
    return rectified + weights[..., 1:] * stateless[:, None] if text_weight else rectified


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    unit=st.booleans(),
    text_weight=st.booleans(),
    scale=st.floats(0.1, 10),
)
def test_closed_form_cosine_equals_the_explicit_rectification(
    seed: int, unit: bool, text_weight: bool, scale: float
) -> None:
    G, F_s, F_c = (
        scale * drawn(seed + i, *shape) for i, shape in enumerate([(2, 9, D), (2, D), (2, 2, D)])
    )
    if unit:
        G, F_s, F_c = (F.normalize(value, dim=-1) for value in (G, F_s, F_c))
    W = drawn(seed + 3, 2, 9, 2).sigmoid()

    found = rectified_cosines(G, F_s, F_c, W, text_weight=text_weight)

    rectified = explicit(G, F_s, W, text_weight=text_weight)
    wanted = F.cosine_similarity(rectified[:, :, None], F_c[:, None], dim=-1)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_hand_computed_rectification() -> None:
    F_s = torch.tensor([[1.0, 0.0]])
    G = torch.tensor([[[0.0, 1.0]]])
    anchors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    W = torch.tensor([[[0.75, 0.5]]])

    plain = rectified_cosines(G, F_s, anchors, W, text_weight=False)  # F_rec = (1, 0.75)
    with_text = rectified_cosines(G, F_s, anchors, W, text_weight=True)  # F_rec = (1.5, 0.75)

    torch.testing.assert_close(plain, torch.tensor([[[0.8, 0.6]]]))
    torch.testing.assert_close(with_text, torch.tensor([[[2.0, 1.0]]]) / 5**0.5)


def test_a_patch_that_cancels_the_text_stays_finite() -> None:
    F_s = torch.tensor([[1.0, 0.0]], requires_grad=True)
    anchors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])

    found = rectified_cosines(-F_s[:, None], F_s, anchors, torch.ones(1, 1, 2), text_weight=False)
    found.sum().backward()

    assert torch.isfinite(found).all()
    assert torch.isfinite(F_s.grad).all()


def test_split_first_linear_equals_the_concatenation() -> None:
    module, G, F_s = new_weights(), drawn(2, 3, 9, D), drawn(3, 3, D)

    found = module.joint(G, F_s)

    joined = torch.cat([G, F_s[:, None].expand(-1, 9, -1)], dim=-1)
    torch.testing.assert_close(found, module.linear(joined))


def test_weights_are_the_written_out_layers_of_every_patch() -> None:
    module, G, F_s = new_weights(), drawn(2, 3, 9, D), drawn(3, 3, D)

    found = module(G, F_s)

    U = module.joint(G, F_s)
    hidden = F.relu(F.linear(U, module.conv1.weight[:, :, 0, 0], module.conv1.bias))
    wanted = F.linear(hidden, module.conv2.weight[:, :, 0, 0], module.conv2.bias).sigmoid()
    torch.testing.assert_close(found, wanted)
    assert not module.conv2.bias.any()


@pytest.mark.parametrize(
    "options",
    [{"kernel": 3}, {"hidden": 2}, {"order": "linear_last"}, {"order": "linear_last", "kernel": 3}],
)
def test_other_forms_give_weights_for_the_whole_grid(options: dict[str, object]) -> None:
    module = new_weights(**options)

    for n in (1, 9):
        found = module(drawn(2, 3, n, D), drawn(3, 3, D))
        assert found.shape == (3, n, 2)
        assert 0 < found.min() < found.max() < 1


def test_a_wide_kernel_sees_neighbours_and_a_narrow_one_does_not() -> None:
    G, F_s = drawn(2, 1, 9, D), drawn(3, 1, D)
    changed = G.clone()
    changed[:, 0] += 1

    for kernel, sees in ((1, False), (3, True)):
        module = new_weights(kernel=kernel)
        differs = not torch.equal(module(G, F_s)[:, 1], module(changed, F_s)[:, 1])
        assert differs == sees


@pytest.mark.parametrize("text_weight", [False, True])
def test_mean_rectified_is_the_mean_of_the_explicit_vectors(text_weight: bool) -> None:
    G, F_s, W = drawn(1, 2, 9, D), drawn(2, 2, D), drawn(3, 2, 9, 2).sigmoid()

    found = mean_rectified(G, F_s, W, text_weight=text_weight)

    torch.testing.assert_close(found, explicit(G, F_s, W, text_weight=text_weight).mean(1))
