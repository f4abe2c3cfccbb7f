"""What good parts of one product look like: a bank of their patches, and how far they vary.

Compares patches of an image with the bank and joins that with what a detector says of the same
image without references (in the spirit of WinCLIP+, Jeong et al. 2023, arXiv 2303.14814v1, and
AnomalyDINO, Damm et al. 2024, arXiv 2405.14529v2). Refuses to know where the references come from.

Both sides are measured in standard deviations over the references themselves, each of them
compared with the patches of the others alone. Where good parts are unlike each other (every board
another layout), the bank counts little and the detector's own opinion prevails: its `trust` says
how far. Nothing depends on the level of a detector's scores.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.detector import Prediction
from zsad.reference_statistics import (
    LOG_DISTANCE_DEVIATION,
    MIN_DEVIATION,
    Appearance,
    Spread,
    summaries,
    trust,
    without_own,
)

MAX_PATCHES = 1536
"""Patches in a bank, drawn at random: a greedy k-centre choice is made of the references' oddest
patches, and measured no better."""
MAX_CANDIDATES = 32_768
"""Patches, drawn at random, from which the projection is found."""
MIN_REFERENCES = 2
"""One cannot be compared with the others."""
PEAK_SHARE = 0.02
"""An image's peak is the mean over this share of its largest patch values: eight of 20 x 20. The
largest alone finds defects of one patch no better, and larger ones worse."""
MAX_DIMENSIONS = 128
"""K; most of the variance, at a fraction of the products."""
_SUBSPACE_STEPS = 6
_MAP_SOFTNESS = 4.0
_GOOD_TERM = 2.0
"""What few good parts reach in the mean of what counts; a usual one reaches 1.1 to 1.3."""
_PROBABILITY_FLOOR = 1e-6


class BankError(ValueError):
    """A reference bank cannot be made or used; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ReferenceBank:
    """One product's bank.

    Attributes:
        version: Of the model whose features these are; another model's would be meaningless.
        n_references: Images it was made from.
        centre: [F] mean over the references' patches.
        projection: [F, K] standardises by channel and keeps the K directions of most variance.
        patches: [M, K] projected, M <= MAX_PATCHES.
        appearance: Of whole images, [2 K].
        trust: What the bank counts beside the detector, scalar in (0, 1].
        distance: Of one patch to the bank, over the references' patches.
        opinion: Logit of the detector's map, averaged over a patch.
        peak: An image's peak of both together, over the references.
        level: An image's mean distance, over the references.
        whole: An image's distance from the appearance, over the references.
        verdict: Logit of the detector's image score, over the references.
    """

    version: str
    n_references: int
    centre: Tensor
    projection: Tensor
    patches: Tensor
    appearance: Appearance
    trust: Tensor
    distance: Spread
    opinion: Spread
    peak: Spread
    level: Spread
    whole: Spread
    verdict: Spread

    def fuse(self, features: Tensor, zero_shot: Prediction) -> Prediction:
        """Join the distances to the bank with the detector's opinion; each image by itself.

        Args:
            features: [B, N, F] of `patch_features`, N = g * g patches in grid order.
            zero_shot: Of the same images.

        Returns:
            Map and score in [0, 1]. 0.5 in the map is as high as the oddest patches of a usual
            good part, a score of 0.5 as high as few good parts.
        """
        projected = (features - self.centre) @ self.projection
        distances = nearest_distances(projected, self.patches)
        both = self.trust * self.distance.standardised(distances) + self.opinion.standardised(
            patch_opinions(zero_shot.anomaly_map, distances.shape[1])
        )
        odd_image = torch.maximum(
            self.level.standardised(distances.mean(dim=1)),
            self.whole.standardised(self.appearance.log_distances(summaries(projected))),
        )
        verdict = self.verdict.standardised(_logit(zero_shot.image_score))
        # what is far below good parts does not count: no part is better than good
        beyond = F.softplus(verdict + 1) + self.trust * (
            F.softplus(self.peak.standardised(peaks(both)) + 1) + F.softplus(odd_image)
        )
        return Prediction(
            image_score=beyond / (beyond + _GOOD_TERM * (1 + 2 * self.trust)),
            anomaly_map=self._map(distances, zero_shot.anomaly_map),
        )

    def _map(self, distances: Tensor, opinion_map: Tensor) -> Tensor:
        """[B, N], [B, S, S] -> [B, S, S] in [0, 1]; never saturates, so order stays."""
        B, N = distances.shape
        side = opinion_map.shape[-1]
        bank = self.trust * self.distance.standardised(distances)
        grid = bank.reshape(B, 1, round(N**0.5), -1)
        fine = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)[:, 0]
        both = fine + self.opinion.standardised(_logit(opinion_map))
        above = (both - self.peak.mean) / _MAP_SOFTNESS
        return 0.5 + 0.5 * above / (1 + above.abs())


def build_bank(
    version: str,
    features: Tensor,
    opinions: Tensor,
    scores: Tensor,
    generator: torch.Generator,
    n_frames: int | None = None,
) -> ReferenceBank:
    """Make a bank of one product's good images.

    Args:
        version: Of the model.
        features: [R, N, F] of `patch_features`; half precision will do.
        opinions: [R, N] of `patch_opinions`, of the detector without references.
        scores: [R] image scores of the same.
        generator: On the CPU; of the choice of patches.
        n_frames: Frames that the images are equally many tiles of, one frame's in a row; None, or
            a number that does not fit, takes each image for a frame.

    Raises:
        BankError: fewer than MIN_REFERENCES images, or values that are not finite.
    """
    R, N, _ = features.shape
    if R < MIN_REFERENCES:
        raise BankError(f"{R} reference images, at least {MIN_REFERENCES} are needed")
    if not all(torch.isfinite(values).all() for values in (features, opinions, scores)):
        raise BankError("features, maps or scores of the references hold NaN or infinite values")
    drawn = torch.randperm(R * N, generator=generator)[:MAX_CANDIDATES].to(features.device)
    candidates = features.flatten(0, 1)[drawn].float()
    centre = candidates.mean(dim=0)
    projection = _projection(candidates - centre, generator)
    patches = (candidates[:MAX_PATCHES] - centre) @ projection
    owner = drawn[:MAX_PATCHES] // N
    rows, wholes = [], []
    for index, image in enumerate(features):  # one by one: all together are too large
        projected = (image - centre) @ projection
        rows.append(nearest_distances(projected, _of_others(patches, owner, index)))
        wholes.append(summaries(projected[None])[0])
    distances, looks = torch.stack(rows), torch.stack(wholes)  # [R, N], [R, 2 K]
    distance, opinion = Spread.of_patches(distances), Spread.of_patches(opinions)
    if n_frames is None or n_frames < MIN_REFERENCES or R % n_frames:
        n_frames = R
    trusted = trust(looks, n_frames)
    both = trusted * distance.standardised(distances) + opinion.standardised(opinions)
    return ReferenceBank(
        version=version,
        n_references=R,
        centre=centre,
        projection=projection,
        patches=patches,
        appearance=Appearance.of(looks),
        trust=trusted,
        distance=distance,
        opinion=opinion,
        peak=Spread.of_images(peaks(both), 1.0),
        level=Spread.of_images(distances.mean(dim=1), float(distance.deviation)),
        whole=Spread.of_images(without_own(looks), LOG_DISTANCE_DEVIATION),
        verdict=Spread.of_images(_logit(scores), float(opinion.deviation)),
    )


def nearest_distances(projected: Tensor, patches: Tensor) -> Tensor:
    """Euclidean distance to the nearest patch of a bank, by one matrix product.

    Args:
        projected: [..., K].
        patches: [M, K], M >= 1.

    Returns:
        [...].
    """
    flat = projected.reshape(-1, projected.shape[-1])
    half = torch.addmm(0.5 * patches.square().sum(dim=1), flat, patches.T, alpha=-1)
    squared = 2 * half.amin(dim=1) + flat.square().sum(dim=1)
    return squared.clamp_min(0).sqrt().reshape(projected.shape[:-1])


def patch_opinions(maps: Tensor, n_patches: int) -> Tensor:
    """Logit of a map, averaged over each patch: [B, S, S] in [0, 1] -> [B, N]."""
    grid = round(n_patches**0.5)
    return F.adaptive_avg_pool2d(_logit(maps)[:, None], grid).flatten(1)


def peaks(values: Tensor) -> Tensor:
    """Mean of the largest values of each image, robust against a single patch: [B, N] -> [B]."""
    count = max(1, round(PEAK_SHARE * values.shape[1]))
    return values.topk(count, dim=1).values.mean(dim=1)


def _logit(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(_PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR).logit()


def _projection(centred: Tensor, generator: torch.Generator) -> Tensor:
    """[M, F] with mean 0 -> [F, K]: division by each channel's deviation, but at least by half of
    what is usual for a channel, then the principal directions, found by subspace iteration.

    A channel that hardly varies says nothing; the layer norm before the first block lets many such
    vary together, and they would outvote all others.
    """  # noqa: D205
    deviation = centred.std(dim=0)
    usual = float(deviation.square().mean().sqrt())
    deviation = deviation.clamp_min(max(usual / 2, MIN_DEVIATION))
    covariance = centred.T @ centred / len(centred) / deviation[:, None] / deviation
    F_ = len(deviation)
    directions = torch.randn(F_, min(F_, MAX_DIMENSIONS), generator=generator).to(centred)
    for _ in range(_SUBSPACE_STEPS):
        directions = torch.linalg.qr(covariance @ directions).Q
    return directions / deviation[:, None]


def _of_others(patches: Tensor, owner: Tensor, image: int) -> Tensor:
    """A bank without one image's patches; the whole bank if nothing else is in it.

    That can only be where all images are alike, for then none adds to another.
    """
    others = patches[owner != image]
    return others if len(others) else patches
