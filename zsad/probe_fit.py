"""Fits the probes of `zsad.methods.linear_probe`: ridge logistic regression, from 0.

The optimum is one and found in milliseconds, so nothing here is resumed. Refuses to know files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.methods.linear_probe import LinearProbe, Readings, peak_change

MIN_SPREAD = 0.02
"""Added to a channel's deviation, so that one that hardly moves has no large weight."""
DEFECT_SHARE = 0.08
"""A patch counts as defect when so much of it is; a smaller share is not trained on."""
NORMAL_PATCHES = 60
"""Of an image, at most; normal ones are many and alike."""
_ITERATIONS = 100


@dataclass(frozen=True, slots=True)
class ProbeRecipe:
    """Penalties of squared weights on standardised features; measured in docs/nights.md.

    Attributes:
        image_penalty: Against the sum of the images' cross-entropies, so it counts less the more
            images are labelled: as a prior does.
        patch_penalty: Against the mean cross-entropy of patches, whose number says little.
    """

    image_penalty: float = 3.0
    patch_penalty: float = 0.3


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labelled images of one product.

    Attributes:
        readings: Of n images.
        is_defective: [n] bool.
        defect_shares: [n, N], how much of each patch is defect; NaN where nobody outlined it.
    """

    readings: Readings
    is_defective: Tensor
    defect_shares: Tensor


def fit_probe(detector: LinearProbe, product: str, labelled: Labelled, recipe: ProbeRecipe) -> None:
    """Set one product's probe: of patches where masks are known, then of images.

    Raises:
        ValueError: not both sound and defective images.
    """
    defective = labelled.is_defective
    if defective.all() or not defective.any():
        kind = "defective" if defective.all() else "sound"
        raise ValueError(f"{product}: all {len(defective)} labelled images are {kind}")
    found = labelled.readings
    patch_probe = _fit_patches(labelled, recipe.patch_penalty)
    with torch.no_grad():
        change = torch.zeros_like(found.image_logit)
        if patch_probe is not None:
            weight, bias = patch_probe
            detector.set_patch_probe(product, weight, bias)
            tuned = found.patch_logit + found.patches @ weight + bias
            change = peak_change(tuned, found.patch_logit)
    weight, bias = ridge_logistic(
        found.summary(),
        found.image_logit + change,
        defective,
        _balanced(torch.ones(len(defective)), defective),
        recipe.image_penalty / len(defective),
    )
    with torch.no_grad():
        detector.set_image_probe(product, weight, bias)


def ridge_logistic(
    features: Tensor, offset: Tensor, target: Tensor, weights: Tensor, penalty: float
) -> tuple[Tensor, Tensor]:
    """Minimise mean cross-entropy of offset + f w + b, plus penalty * |w|^2 on scaled features.

    The offset's own mean is left to the bias, so that a correction stays one.

    Args:
        features: [n, F].
        offset: [n] logits that are corrected.
        target: [n] bool.
        weights: [n], of samples, adding up to 1.
        penalty: Above 0.

    Returns:
        Weights [F] and bias [], for features as they came.
    """
    mean, spread = features.double().mean(0), features.double().std(0) + MIN_SPREAD
    scaled = (features.double() - mean) / spread
    w = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w, b], max_iter=_ITERATIONS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        entropy = F.binary_cross_entropy_with_logits(
            offset.double() + scaled @ w + b, target.double(), reduction="none"
        )
        loss = (weights.double() * entropy).sum() + penalty * w.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    weight = w.detach() / spread
    return weight.float(), (b.detach() - mean @ weight).float()


def _fit_patches(labelled: Labelled, penalty: float) -> tuple[Tensor, Tensor] | None:
    """None where no defect was outlined."""
    shares, found = labelled.defect_shares, labelled.readings
    chosen: list[tuple[int, int]] = []
    target: list[bool] = []
    weights: list[float] = []
    for number, row in enumerate(shares):
        defect = torch.nonzero(row > DEFECT_SHARE).flatten().tolist()
        normal = _spread_evenly(torch.nonzero(row == 0).flatten())  # NaN is neither
        for patches, are_defect in ((defect, True), (normal, False)):
            chosen += [(number, patch) for patch in patches]
            target += [are_defect] * len(patches)
            weights += [1 / len(patches) for _ in patches]
    if not any(target):
        return None
    images, places = (torch.tensor(side) for side in zip(*chosen, strict=True))
    is_defect = torch.tensor(target)
    return ridge_logistic(
        found.patches[images, places],
        found.patch_logit[images, places],
        is_defect,
        _balanced(torch.tensor(weights), is_defect),
        penalty,
    )


def _spread_evenly(indices: Tensor) -> list[int]:
    """NORMAL_PATCHES of them at even distances."""
    n = min(NORMAL_PATCHES, len(indices))
    return [int(indices[i * len(indices) // n]) for i in range(n)]


def _balanced(weights: Tensor, target: Tensor) -> Tensor:
    """[n], adding up to one half in each class, whatever they number."""
    totals = torch.stack([weights[~target].sum(), weights[target].sum()])
    return weights / (2 * totals[target.long()])


def concatenated(readings: Sequence[Readings]) -> Readings:
    """Readings of several batches as of one."""
    return Readings(
        image_logit=torch.cat([found.image_logit for found in readings]),
        patch_logit=torch.cat([found.patch_logit for found in readings]),
        patches=torch.cat([found.patches for found in readings]),
    )
