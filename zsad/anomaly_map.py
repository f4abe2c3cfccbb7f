"""A map that stays where the network ran until somebody looks at it. Needs no torch."""

from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]


class AnomalyMap:
    """The map of one image. Most are never looked at: their highest value decides.

    Attributes:
        peak: The highest value, in [0, 1]; NaN if the network failed.
    """

    def __init__(self, pixels: Pixels | Callable[[], Pixels], peak: float) -> None:
        """Both are kept.

        Args:
            pixels: [H, W] in [0, 1], or what fetches them; asked once, from any thread.
            peak: See there.
        """
        self.peak = peak
        self._pixels = pixels

    @classmethod
    def of(cls, pixels: Pixels) -> Self:
        """A map [H, W] that is here already."""
        return cls(pixels, float(pixels.max()))

    def here(self) -> Pixels:
        """[H, W], fetched the first time. Not to be written to."""
        pixels = self._pixels
        if callable(pixels):
            # what fetches them is let go, and with it the device's memory
            pixels = self._pixels = pixels()
        return pixels
