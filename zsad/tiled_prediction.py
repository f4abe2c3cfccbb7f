"""A predictor on frames of which some are cut into tiles, in batches of bounded size.

Refuses to know which products are tiled, and how finely: that is the caller's affair.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from zsad.anomaly_map import AnomalyMap
from zsad.predictor import Predictor
from zsad.reference_bank import ReferenceBank
from zsad.tiling import Tile, Tiling, join_maps

Image = NDArray[np.uint8]


def predict_tiled(
    predictor: Predictor,
    images: Sequence[Image],
    class_names: Sequence[str],
    tilings: Sequence[Tiling | None],
    banks: Sequence[ReferenceBank | None] | None = None,
    *,
    max_batch: int,
    on_batch: Callable[[], None] = lambda: None,
) -> list[tuple[float, AnomalyMap]]:
    """Score and map of each frame; a frame's score is that of its worst tile.

    Args:
        images: B frames, RGB uint8 [H, W, 3], of any sizes.
        class_names: B nouns.
        tilings: B; None looks at the frame as a whole.
        banks: B banks, as of `Predictor.predict`; for tiled frames learnt from tiles.
        max_batch: Most tiles in one pass of the network, whatever frames they are of.
        on_batch: Called after each pass (a heartbeat: many tiles take long).

    Returns:
        B scores, and maps [S, S] of frames seen whole, else [H', W'] in the frame's aspect with
        at least S pixels along its longer side.

    Raises:
        TilingError: a frame needs too many tiles.
        ValueError: see `Predictor.predict`.
    """
    side = predictor.detector.input_size
    plans = [plan(tiling, image, side) for image, tiling in zip(images, tilings, strict=True)]
    views = ((frame, tile) for frame, tiles in enumerate(plans) for tile in tiles)
    results: list[tuple[float, AnomalyMap]] = []
    scores: list[float] = []
    maps: list[AnomalyMap] = []  # of the frame that is being looked at; joined when it is complete
    for chunk in _chunks(views, max_batch):
        found = predictor.look(
            [tile.cut(images[frame]) for frame, tile in chunk],
            [class_names[frame] for frame, _ in chunk],
            None if banks is None else [banks[frame] for frame, _ in chunk],
        )
        on_batch()
        for (frame, _), (score, anomaly_map) in zip(chunk, found, strict=True):
            scores.append(score)
            maps.append(anomaly_map)
            if len(maps) == len(plans[frame]):
                results.append((_worst(scores), _joined(plans[frame], maps, images[frame], side)))
                scores, maps = [], []
    return results


def plan(tiling: Tiling | None, image: Image, input_size: int) -> tuple[Tile, ...]:
    """The tiles of one frame; without a tiling the frame itself.

    Raises:
        TilingError: it needs too many tiles.
    """
    height, width = image.shape[:2]
    if tiling is None:
        return (Tile(0, 0, height, width),)
    return tiling.plan(height, width, input_size)


def _worst(scores: Sequence[float]) -> float:
    """The highest; NaN if one is NaN, for the network failed."""
    return float(np.max(scores))


def _joined(
    tiles: Sequence[Tile], maps: Sequence[AnomalyMap], image: Image, side: int
) -> AnomalyMap:
    if len(tiles) == 1:
        return maps[0]
    height, width = image.shape[:2]
    parts = ((tile, part.here()) for tile, part in zip(tiles, maps, strict=True))
    return AnomalyMap.of(join_maps(parts, height, width, side))


def _chunks(views: Iterator[tuple[int, Tile]], size: int) -> Iterator[list[tuple[int, Tile]]]:
    while chunk := list(islice(views, size)):
        yield chunk
