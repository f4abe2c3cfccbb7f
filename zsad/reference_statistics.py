"""How far numbers and whole images vary over the good parts of one product.

Few parts must do: where they are fewer than it takes to know a deviation, what is usual leans on
it. Refuses to know what is measured.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

MIN_DEVIATION = 1e-4
PRIOR_DEVIATION = 0.3
"""Deviation between good images, in deviations of a patch, that is assumed before any are seen."""
PRIOR_WEIGHT = 2.0
"""How many images that assumption counts for."""
USUAL_VARIANCE = 0.01
"""Of a number in an image's summary, over good images, assumed as if one image had shown it."""
LOG_DISTANCE_DEVIATION = 0.3
"""A patch's deviation, so to say, where logarithms of distances vary between images."""
UNLIKE_SHARE = 0.05
"""Of the variance of patches, what lies between good frames where a bank counts half: more than
on products whose references help (0.01 to 0.04), less than where they harm (0.1 and more)."""
UNLIKE_POWER = 4
"""How steeply it counts less beyond that."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and deviation of a number over the references.

    Attributes:
        mean: Scalar tensor.
        deviation: Scalar tensor > 0.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of_patches(cls, values: Tensor) -> Self:
        """Of thousands of numbers, of any shape."""
        return cls(values.mean(), values.std().clamp_min(MIN_DEVIATION))

    @classmethod
    def of_images(cls, values: Tensor, patch_deviation: float) -> Self:
        """Of one number an image, [R], with R >= 1."""
        prior = (PRIOR_DEVIATION * patch_deviation) ** 2
        squares = (values - values.mean()).square().sum()
        variance = (PRIOR_WEIGHT * prior + squares) / (PRIOR_WEIGHT + len(values) - 1)
        return cls(values.mean(), variance.sqrt().clamp_min(MIN_DEVIATION))

    def standardised(self, values: Tensor) -> Tensor:
        """How many deviations above the mean."""
        return (values - self.mean) / self.deviation


@dataclass(frozen=True, slots=True)
class Appearance:
    """What whole images look like: a texture that is wrong everywhere has no odd patch.

    Attributes:
        mean: [G] of `summaries` over the references.
        variance: [G] > 0.
    """

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, summaries: Tensor) -> Self:
        """Of the references' summaries [R, G], with R >= 1."""
        mean = summaries.mean(dim=0)
        variance = ((summaries - mean).square().sum(dim=0) + USUAL_VARIANCE) / len(summaries)
        # The mean over all numbers is added: none is trusted to hardly vary. The last factor is
        # for the mean itself, which so many images do not fix.
        return cls(mean, (variance + variance.mean()) * (1 + 1 / len(summaries)))

    def log_distances(self, summaries: Tensor) -> Tensor:
        """Logarithm of the root mean square deviation: [B, G] -> [B]."""
        squares = (summaries - self.mean).square() / self.variance
        return squares.mean(dim=1).clamp_min(MIN_DEVIATION**2).log() / 2


def summaries(projected: Tensor) -> Tensor:
    """Mean and deviation of an image's patches: [B, N, K] -> [B, 2 K]."""
    return torch.cat([projected.mean(dim=1), projected.std(dim=1)], dim=1)


def trust(summaries: Tensor, n_frames: int) -> Tensor:
    """How far a bank of these good images can tell a defect from just another good image.

    Where all frames show the same mixture of patches, what is unusual is a defect; where each has
    another layout, the next good one is unusual too, and how unusual says nothing.

    Args:
        summaries: [R, 2 K] of the references: of n_frames >= 2 frames, each seen whole or as
            R / n_frames tiles in a row.
        n_frames: Divides R.

    Returns:
        Scalar in (0, 1], falling with the share of the patches' variance that lies between frames.
    """
    by_frame = summaries.reshape(n_frames, -1, summaries.shape[1])  # [F, tiles, 2 K]
    means, deviations = by_frame.chunk(2, dim=2)
    between = means.mean(dim=1).var(dim=0).sum()
    within = (deviations.square().mean(dim=1) + means.var(dim=1, correction=0)).mean(dim=0).sum()
    unlike = between / (between + within).clamp_min(MIN_DEVIATION**2)
    unlike = unlike * (1 + 1 / n_frames)  # few do not fix their own mean
    return torch.reciprocal(1 + (unlike / UNLIKE_SHARE) ** UNLIKE_POWER)


def without_own(values: Tensor) -> Tensor:
    """Log distance of each of [R, G] summaries to the others' appearance, [R], with R >= 2."""
    R = len(values)
    others = [Appearance.of(values[torch.arange(R) != image]) for image in range(R)]
    return torch.cat([o.log_distances(v[None]) for o, v in zip(others, values, strict=True)])
