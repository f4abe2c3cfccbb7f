"""Turned, shifted, mirrored and grey views of prepared images (AnoVL's test-time augmentation).

Refuses to know networks; all views keep the image's size.
"""

import math
from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

ANGLES = tuple(math.pi / 16 * step for step in (-4, -3, -2, -1, 1, 2, 3, 4))
SHIFTS = tuple((dx, dy) for size in (0.2, 0.1) for dx in (size, -size) for dy in (size, -size))
"""In units of half an image."""
LUMINANCE = (0.299, 0.587, 0.114)


def image_views(images: Tensor) -> Iterator[Tensor]:
    """22 views, the images themselves first: [B, 3, S, S] each."""
    yield images
    for angle in ANGLES:
        cos, sin = math.cos(angle), math.sin(angle)
        yield _sampled(images, ((cos, -sin, 0.0), (sin, cos, 0.0)))
    for dx, dy in SHIFTS:
        yield _sampled(images, ((1.0, 0.0, dx), (0.0, 1.0, dy)))
    yield images.flip(-1)
    weights = images.new_tensor(LUMINANCE).view(1, 3, 1, 1)
    yield (images * weights).sum(1, keepdim=True).expand_as(images)
    for turns in (1, 2, 3):
        yield images.rot90(turns, (-2, -1))


def _sampled(images: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Bilinear samples at an affine grid; what lies outside is reflected."""
    affine = images.new_tensor(matrix).expand(len(images), -1, -1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
