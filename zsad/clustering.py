"""k-means on batches of point sets, repeatable and without leaving the device."""

import torch
from torch import Tensor


def kmeans_labels(points: Tensor, clusters: int, *, seed: int, iterations: int = 10) -> Tensor:
    """Lloyd's algorithm from a k-means++ start (Arthur and Vassilvitskii 2007).

    Every set draws the same random numbers, so its labels do not depend on its batch mates.

    Args:
        points: [B, M, F].
        clusters: k; at most M are used.
        seed: Of the start.
        iterations: Of Lloyd's algorithm.

    Returns:
        [B, M] int64 in [0, k); a cluster may be empty.
    """
    points = points.detach()
    k = min(clusters, points.shape[1])
    draws = torch.rand(k, generator=torch.Generator().manual_seed(seed)).to(points)
    nearest = torch.ones_like(points[..., 0])  # [B, M]; the first centre is any point
    centres = points[:, :0]
    for draw in draws:
        chosen = _weighted(draw, nearest)[..., None].expand(-1, -1, points.shape[2])  # [B, 1, F]
        centres = torch.cat([centres, points.gather(1, chosen)], dim=1)
        nearest = torch.cdist(points, centres).square().amin(dim=-1)
    labels = torch.cdist(points, centres).argmin(dim=-1)
    for _ in range(iterations):
        means, filled = cluster_means(points, labels, k)
        centres = torch.where(filled[..., None], means, centres)
        labels = torch.cdist(points, centres).argmin(dim=-1)
    return labels


def cluster_means(points: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Mean of the members of every cluster.

    Args:
        points: [B, M, F].
        labels: [B, M] int64 in [0, clusters).
        clusters: How many.

    Returns:
        [B, clusters, F] means (0 for an empty cluster), [B, clusters] bool whether it has members.
    """
    member = torch.nn.functional.one_hot(labels, clusters).to(points.dtype)  # [B, M, k]
    counts = member.sum(dim=1)  # [B, k]
    means = member.mT @ points / counts.clamp_min(1)[..., None]
    return means, counts > 0


def _weighted(draw: Tensor, weights: Tensor) -> Tensor:
    """A draw in [0, 1) -> positions chosen in proportion to weights [B, M] >= 0, as [B, 1]."""
    reached = weights.cumsum(dim=-1)
    found = torch.searchsorted(reached, draw * reached[:, -1:], right=True)
    return found.clamp_max(weights.shape[-1] - 1)
