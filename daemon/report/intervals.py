"""How sure a share is that was counted in a sample. Pure."""

from math import sqrt

Z_95 = 1.959963984540054
"""Two-sided 95 %."""


def wilson(found: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): right also for few frames and for none found.

    Args:
        found, n: So many of so many; (0, 1) where n is 0.
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = found / n, Z_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if found == 0 else max(0.0, middle - half)
    return low, 1.0 if found == n else min(1.0, middle + half)
