"""From patch scores on a grid to an anomaly map and an image score. Pure functions."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Blur:
    """A Gaussian of odd `kernel` taps and standard deviation `sigma`, both in grid cells."""

    kernel: int
    sigma: float


def upsample_matrix(grid: int, side: int, blur: Blur | None = None) -> Tensor:
    """A [side, grid] such that A S A^T blurs and upsamples the map S [grid, grid].

    The blur works on the grid with a border reflected without repeating the edge; the upsampling
    is bilinear with aligned corners. Both are linear and separable, so one matrix does both;
    rows are non-negative and sum to 1, so a map in [0, 1] stays there.
    Computed in float64, returned as float32.
    """
    matrix = _interpolation(grid, side)
    if blur is not None:
        matrix = matrix @ _gaussian(grid, blur)
    return matrix.float()


def half_pixel_matrix(grid: int, side: int, sigma_px: float = 0.0) -> Tensor:
    """A [side, grid] such that A S A^T upsamples the map S [grid, grid], then blurs it.

    The upsampling is bilinear with half-pixel centres (`align_corners=False`). The Gaussian works
    on the upsampled map with deviation `sigma_px` (0 is none), is cut after 4 deviations, and has
    a border reflected with the edge repeated (scipy's `gaussian_filter`). Rows are non-negative
    and sum to 1, so a map in [0, 1] stays there. Computed in float64, returned as float32.
    """
    at = (torch.arange(side, dtype=torch.float64) + 0.5) * grid / side - 0.5
    cells = torch.arange(grid, dtype=torch.float64)
    matrix = (1 - (at.clamp(0, grid - 1)[:, None] - cells[None, :]).abs()).clamp_min(0)
    if sigma_px > 0:
        matrix = _pixel_gaussian(side, sigma_px) @ matrix
    return matrix.float()


def map_matrix(grid: int, side: int, *, align_corners: bool, sigma_px: float) -> Tensor:
    """`half_pixel_matrix`, or the same with aligned corners."""
    if not align_corners:
        return half_pixel_matrix(grid, side, sigma_px)
    matrix = _interpolation(grid, side)
    return (_pixel_gaussian(side, sigma_px) @ matrix if sigma_px > 0 else matrix).float()


def upsample(scores: Tensor, matrix: Tensor) -> Tensor:
    """A S A^T for every map: scores [..., g, g], matrix [S, g] -> [..., S, S]."""
    return matrix @ scores @ matrix.mT


def state_logit(features: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Abnormal minus normal logit; its sigmoid is the two-class softmax of cosine / temperature.

    Args:
        features: [..., B, N, D], unit norm.
        anchors: [B, 2, D], or [1, 2, D] for all images, unit norm, rows normal and abnormal.
        temperature: Above 0.

    Returns:
        [..., B, N].
    """
    direction = anchors[:, 1] - anchors[:, 0]  # [B, D]
    return (features @ direction[:, :, None]).squeeze(-1) / temperature


def min_max(values: Tensor) -> Tensor:
    """Map the smallest value to 0 and the largest to 1; all equal gives 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)


def _interpolation(grid: int, side: int) -> Tensor:
    """[side, grid] float64: bilinear weights, corners aligned."""
    if grid == 1:
        return torch.ones(side, 1, dtype=torch.float64)
    at = torch.arange(side, dtype=torch.float64) * (grid - 1) / max(side - 1, 1)
    cells = torch.arange(grid, dtype=torch.float64)
    return (1 - (at[:, None] - cells[None, :]).abs()).clamp_min(0)


def _gaussian(grid: int, blur: Blur) -> Tensor:
    """[grid, grid] float64: convolution with a normalised Gaussian, reflected border."""
    radius = blur.kernel // 2
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    taps = torch.exp(-(offsets**2) / (2 * blur.sigma**2))
    taps = taps / taps.sum()
    matrix = torch.zeros(grid, grid, dtype=torch.float64)
    for row in range(grid):
        for tap, offset in zip(taps, range(-radius, radius + 1), strict=True):
            matrix[row, _reflected(row + offset, grid)] += tap
    return matrix


def _reflected(index: int, length: int) -> int:
    """Fold an index back into [0, length) like a ball between two walls."""
    if length == 1:
        return 0
    index = abs(index) % (2 * (length - 1))
    return min(index, 2 * (length - 1) - index)


def _pixel_gaussian(side: int, sigma_px: float) -> Tensor:
    """[side, side] float64: convolution with a Gaussian, border reflected with its edge."""
    radius = int(4 * sigma_px + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    taps = torch.exp(-(offsets.double() ** 2) / (2 * sigma_px**2))
    taps = taps / taps.sum()
    at = (torch.arange(side)[:, None] + offsets) % (2 * side)  # [side, taps]
    at = torch.where(at < side, at, 2 * side - 1 - at)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(1, at, taps.expand(side, -1))
