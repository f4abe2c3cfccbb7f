"""Counts values into buckets, as Prometheus does. Knows no metric by name."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counted:
    """A histogram at one instant.

    Attributes:
        bounds: Upper bounds, inclusive, rising; a last bucket without a bound follows.
        counts: Values in each bucket alone; one more than bounds.
        total: Sum of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    def quantile(self, share: float) -> float | None:
        """The value that `share` of all values stay below; None if there are none.

        Values count as evenly spread inside their bucket, as Prometheus does it. What lies beyond
        the last bound is reported as that bound.
        """
        wanted = share * sum(self.counts)
        lower, below = 0.0, 0
        for upper, count in zip(self.bounds, self.counts, strict=False):  # the last has no bound
            if count and below + count >= wanted:
                return lower + (upper - lower) * (wanted - below) / count
            lower, below = upper, below + count
        return lower if any(self.counts) else None


class Histogram:
    """Not thread-safe: its owner locks."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def counted(self) -> Counted:
        """As it stands."""
        return Counted(self._bounds, tuple(self._counts), self._total)
