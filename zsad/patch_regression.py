"""Ridge regression of "is this patch a defect" on patch features, from sums over many pictures.

A closed form with few effective parameters: on products that it never saw, it outlines defects
better than a network trained on the same patches (docs/model-card.md). Refuses to know where the
features come from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

DEFECT_WEIGHT = 2.0
"""Of a defect patch; a normal one weighs 1."""


class PatchRegression:
    """Normal equations of a weighted least-squares fit, with an intercept.

    Args:
        n_features: F.
    """

    def __init__(self, n_features: int) -> None:
        # float64: thousands of pictures are added up
        self._products = torch.zeros(n_features + 1, n_features + 1, dtype=torch.float64)
        self._targets = torch.zeros(n_features + 1, dtype=torch.float64)

    def add(self, features: Tensor, is_defect: Tensor) -> None:
        """Take patches into account: [K, F] float and [K] bool."""
        with_one = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        weighted = with_one * torch.where(is_defect, DEFECT_WEIGHT, 1.0)[:, None]
        self._products += (weighted.T @ with_one).double()
        self._targets += (weighted.T @ (2 * is_defect.float() - 1)).double()

    def solve(
        self, columns: Sequence[int] | None = None, *, ridge: float, size: float
    ) -> tuple[Tensor, float]:
        """Weights [F], zero outside `columns`, and the intercept.

        Args:
            columns: Features to use; None uses all.
            ridge: Penalty on squared weights, per unit of weight of the patches; the intercept
                has none.
            size: The fit's mean over defect patches; over normal ones it is minus that.
        """
        n_features = len(self._targets) - 1
        used = torch.tensor([*(range(n_features) if columns is None else columns), n_features])
        total = self._products[-1, -1]
        penalty = torch.full((len(used),), ridge, dtype=torch.float64)
        penalty[-1] = 0
        products = self._products[used][:, used] / total + torch.diag(penalty)
        solution = torch.zeros(n_features + 1, dtype=torch.float64)
        solution[used] = torch.linalg.solve(products, self._targets[used] / total)
        # Defects are rarer and the penalty shrinks: bring the means of both kinds to +-size.
        of_defect = self._products[-1] + self._targets
        of_normal = self._products[-1] - self._targets
        high = solution @ of_defect / of_defect[-1]
        low = solution @ of_normal / of_normal[-1]
        solution[-1] -= (high + low) / 2
        solution *= 2 * size / (high - low)
        return solution[:-1].float(), float(solution[-1])

    def principal(self, columns: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
        """Directions of most variance in some features, scaled to unit variance.

        Returns:
            [count, F], zero outside `columns`, and intercepts [count] that make the means 0.
        """
        n_features = len(self._targets) - 1
        used = torch.tensor(columns)
        total = self._products[-1, -1]
        mean = self._products[used, -1] / total
        covariance = self._products[used][:, used] / total - mean[:, None] * mean
        values, vectors = torch.linalg.eigh(covariance)  # ascending
        rows = vectors.flip(1)[:, :count].T / values.flip(0)[:count, None].sqrt()
        largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
        rows = rows * largest.sign()  # an eigenvector's sign is a matter of the library
        directions = torch.zeros(count, n_features, dtype=torch.float64)
        directions[:, used] = rows
        return directions.float(), -(rows @ mean).float()
