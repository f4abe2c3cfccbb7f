"""Multi-patch feature aggregation (MPFA) of AFR-CLIP and MFP-CLIP; pure, without parameters."""

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional as F


def aggregate_patches(
    features: Tensor, window: int, border: Literal["valid", "zero"] = "valid"
) -> Tensor:
    """Average every patch with its window x window neighbourhood (AFR-CLIP Eqs. 19-21).

    Args:
        features: [B, N, D], N = g * g patches in row-major grid order.
        window: Odd; 1 changes nothing.
        border: Cells outside the grid are left out of the average, or count as zeros.

    Returns:
        [B, N, D].
    """
    if window == 1:
        return features
    B, N, D = features.shape
    g = math.isqrt(N)
    grid = features.transpose(1, 2).reshape(B, D, g, g)
    pooled = F.avg_pool2d(
        grid, window, stride=1, padding=window // 2, count_include_pad=border == "zero"
    )
    return pooled.flatten(2).transpose(1, 2)
