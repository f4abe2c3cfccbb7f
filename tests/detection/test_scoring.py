import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from zsad.scoring import Blur, half_pixel_matrix, map_matrix, min_max, upsample, upsample_matrix


@settings(max_examples=25, deadline=None)
@given(grid=st.integers(1, 12), side=st.integers(1, 60))
def test_matrix_equals_bilinear_interpolation_with_aligned_corners(grid: int, side: int) -> None:
    scores = torch.randn(2, grid, grid, generator=torch.Generator().manual_seed(grid))

    found = upsample(scores, upsample_matrix(grid, side))

    wanted = F.interpolate(scores[None], size=(side, side), mode="bilinear", align_corners=True)[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("blur", [Blur(7, 1.0), Blur(9, 1.5)])
@pytest.mark.parametrize("grid", [7, 14, 37])
def test_matrix_with_blur_equals_blur_then_interpolation(blur: Blur, grid: int) -> None:
    scores = torch.randn(3, 1, grid, grid, generator=torch.Generator().manual_seed(0))

    found = upsample(scores[:, 0], upsample_matrix(grid, 80, blur))

    radius = blur.kernel // 2
    taps = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * blur.sigma**2))
    window = torch.outer(taps, taps) / taps.sum() ** 2
    padded = F.pad(scores, [radius] * 4, mode="reflect")  # no edge repeat
    blurred = F.conv2d(padded, window[None, None])
    wanted = F.interpolate(blurred, size=(80, 80), mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, wanted[:, 0], atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(grid=st.integers(1, 12), side=st.integers(1, 60), kernel=st.sampled_from([3, 7, 9]))
def test_probabilities_stay_probabilities_on_any_grid(grid: int, side: int, kernel: int) -> None:
    matrix = upsample_matrix(grid, side, Blur(kernel, 1.0))

    assert matrix.min() >= 0
    torch.testing.assert_close(matrix.sum(1), torch.ones(side), atol=1e-6, rtol=0)


def test_min_max_spans_zero_to_one_and_survives_equal_values() -> None:
    assert min_max(torch.tensor([2.0, 4.0, 3.0])).tolist() == [0.0, 1.0, 0.5]
    assert min_max(torch.tensor([2.0, 2.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("sigma_px", [0.0, 4.0, 10.0])
@pytest.mark.parametrize(("grid", "side"), [(37, 518), (7, 98), (7, 56), (8, 8), (5, 20)])
def test_half_pixel_matrix_equals_interpolation_then_scipys_gaussian(
    grid: int, side: int, sigma_px: float
) -> None:
    scores = torch.rand(1, grid, grid, generator=torch.Generator().manual_seed(grid))

    found = upsample(scores, half_pixel_matrix(grid, side, sigma_px))

    wanted = F.interpolate(scores[None].double(), size=(side, side), mode="bilinear")[0, 0].numpy()
    if sigma_px > 0:
        wanted = gaussian_filter(wanted, sigma=sigma_px)
    torch.testing.assert_close(found[0].double(), torch.from_numpy(wanted), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma_px", [0.0, 4.0])
def test_map_matrix_chooses_between_aligned_corners_and_half_pixels(sigma_px: float) -> None:
    scores = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(7))

    for aligned in (True, False):
        found = upsample(scores, map_matrix(7, 56, align_corners=aligned, sigma_px=sigma_px))

        maps = F.interpolate(scores.double(), size=(56, 56), mode="bilinear", align_corners=aligned)
        smooth = gaussian_filter(maps[0, 0].numpy(), sigma=sigma_px) if sigma_px else maps[0, 0]
        torch.testing.assert_close(found[0, 0].double(), torch.as_tensor(smooth), atol=1e-6, rtol=0)
