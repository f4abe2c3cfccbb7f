"""Cuts a large frame into overlapping tiles and joins what was found in them. Pure: no network.

A detector resizes whatever it is given to its input side, so that small defects of a large frame
vanish. Tiles are chosen such that the smallest defect that matters keeps VISIBLE_PX pixels.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

VISIBLE_PX = 8
"""Side in input pixels below which the embedded detector sees little (docs/model-card.md)."""
OVERLAP = 0.25
"""Share of a tile that its neighbour sees too: ten times the smallest defect at 320 px."""


class TilingError(ValueError):
    """A frame would need more tiles than allowed; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of a frame, in frame pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view of the tile's pixels: [H, W, 3] -> [height, width, 3]."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the frames of one product are cut.

    Attributes:
        min_defect_px: Side of the smallest defect that matters, in frame pixels.
        max_tiles: A frame that needs more is refused: each costs as much as a whole frame.
    """

    min_defect_px: int
    max_tiles: int = 64

    def plan(self, height: int, width: int, input_size: int) -> tuple[Tile, ...]:
        """Tiles that cover every pixel of a frame, row by row; one tile is the whole frame.

        Tiles are square unless the frame is narrower than one, all of one size, evenly spread,
        and neighbours share at least OVERLAP of their side.

        Args:
            input_size: Side S of the detector's input.

        Raises:
            TilingError: more than `max_tiles` are needed.
        """
        longest = max(1, self.min_defect_px * input_size // VISIBLE_PX)
        rows, columns = _count(height, longest), _count(width, longest)
        if rows * columns > self.max_tiles:
            raise TilingError(
                f"a frame of {width} x {height} px needs {rows * columns} tiles to show defects "
                f"of {self.min_defect_px} px, max_tiles is {self.max_tiles}: raise one of the two"
            )
        # The same number of tiles may be smaller, which shows more: as small as both axes allow.
        side = max(_side(height, rows), _side(width, columns))
        tile_height, tile_width = min(side, height), min(side, width)
        return tuple(
            Tile(top, left, tile_height, tile_width)
            for top in _starts(height, tile_height, rows)
            for left in _starts(width, tile_width, columns)
        )


def join_maps(
    parts: Iterable[tuple[Tile, NDArray[np.float32]]], height: int, width: int, input_size: int
) -> NDArray[np.float32]:
    """One map over a frame from those of its tiles: means, weighted towards a tile's middle.

    Args:
        parts: Tiles that cover the frame, in any order, each with its map [S, S].
        height, width: Of the frame.
        input_size: S.

    Returns:
        float32, as fine as the tiles' maps; a constant stays that constant.
    """
    parts = list(parts)
    scale = input_size / max(max(tile.height, tile.width) for tile, _ in parts)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for tile, anomaly_map in parts:
        rows = _scaled(tile.top, tile.height, scale, shape[0])
        columns = _scaled(tile.left, tile.width, scale, shape[1])
        size = (columns.stop - columns.start, rows.stop - rows.start)
        window = np.outer(_window(size[1]), _window(size[0]))
        resized = cv2.resize(anomaly_map, size, interpolation=cv2.INTER_LINEAR)
        total[rows, columns] += window * resized
        weight[rows, columns] += window
    joined: NDArray[np.float32] = total / weight
    return joined.clip(0, 1, out=joined)  # rounding; NaN stays


def _count(length: int, longest: int) -> int:
    """Tiles of at most `longest` along an axis."""
    if length <= longest:
        return 1
    return math.ceil((length / longest - OVERLAP) / (1 - OVERLAP))


def _side(length: int, count: int) -> int:
    """Smallest side with which `count` tiles cover `length` and overlap enough."""
    return math.ceil(length / (count - (count - 1) * OVERLAP))


def _starts(length: int, side: int, count: int) -> list[int]:
    """Where tiles begin, from 0 to `length - side`."""
    return [0] if count == 1 else [round(n * (length - side) / (count - 1)) for n in range(count)]


def _scaled(start: int, length: int, scale: float, limit: int) -> slice:
    """Frame pixels -> map pixels, at least one, inside the map."""
    begin = min(round(start * scale), limit - 1)
    return slice(begin, min(max(round((start + length) * scale), begin + 1), limit))


def _window(length: int) -> NDArray[np.float32]:
    """Highest in the middle, smooth, above 0 at the ends: [length]."""
    middles = (np.arange(length) + 0.5) / length
    return np.asarray(np.sin(np.pi * middles) ** 2, np.float32)
