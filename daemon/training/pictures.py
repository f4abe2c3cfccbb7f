"""Training pictures of a snapshot: labelled frames as the detector sees them, whole or in tiles.

A frame's pixels are known where it is OK or its defect was outlined; the image score of a whole
frame can be learnt from without an outline, a tile of an NG frame cannot: it may show no defect.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from daemon.config.categories import CategoryConfig
from daemon.core import Image, LabelVerdict
from daemon.inspection.loaded_model import tiling_of
from daemon.labels.mask import decode_mask, resized
from daemon.training.snapshot import SnapshotItem
from zsad.corpus import View
from zsad.image_files import image_size, load_image, resize_mask
from zsad.synthetic import add_defects
from zsad.tiling import Tile

Mask = NDArray[np.bool_]

OK_TILES = 4
"""Of an OK frame, evenly spread; and of an outlined NG frame, beside those with a defect."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One training picture.

    Attributes:
        tile: Of the frame; None is the whole frame.
        synthetic: None leaves it as it is; else which defect is drawn on it.
        is_defective: As labelled, of this tile as far as is known, or as drawn.
        is_outlined: Whether every pixel's label is known.
    """

    item: SnapshotItem
    class_name: str
    tile: Tile | None
    synthetic: int | None
    is_defective: bool
    is_outlined: bool


def pictures_of(
    items: Iterable[SnapshotItem],
    categories: Mapping[str, CategoryConfig],
    side: int,
    synthetic: int,
) -> list[Picture]:
    """All pictures of labelled frames, in order; categories that are not configured are left out.

    Args:
        side: Of the detector's input.
        synthetic: Copies of each OK picture that get a drawn defect.

    Raises:
        DataError: a file is damaged.
        TilingError: a frame needs too many tiles.
    """
    found = []
    for item in items:
        category = categories.get(item.category)
        if category is None:
            continue
        is_ng = item.verdict is LabelVerdict.NG
        for tile, is_defective in _tiles(item, category, side):
            copies = [None] if is_ng else [None, *range(synthetic)]
            found += [
                Picture(
                    item,
                    category.class_name,
                    tile,
                    copy,
                    is_defective or copy is not None,
                    not is_ng or item.mask_png is not None,
                )
                for copy in copies
            ]
    return found


def learnable_products(
    items: Iterable[SnapshotItem], categories: Mapping[str, CategoryConfig]
) -> list[str]:
    """Class names of configured categories with frames labelled OK and frames labelled NG."""
    seen: dict[str, set[LabelVerdict]] = {}
    for item in items:
        if item.category in categories:
            seen.setdefault(categories[item.category].class_name, set()).add(item.verdict)
    return sorted(name for name, verdicts in seen.items() if len(verdicts) == 2)


def draw_picture(picture: Picture, side: int) -> View:
    """Image and mask at the detector's input side.

    Raises:
        DataError: the file is damaged.
    """
    image = load_image(picture.item.frame)
    mask = _mask(picture.item, image)
    if picture.tile is not None:
        image, mask = picture.tile.cut(image), _cut(picture.tile, mask)
    small = PILImage.fromarray(np.ascontiguousarray(image)).resize(
        (side, side), PILImage.Resampling.BICUBIC
    )
    pixels: Image = np.asarray(small)
    mask = resize_mask(mask, side, side)
    if picture.synthetic is not None:
        rng = np.random.default_rng([picture.item.inspection_id, picture.synthetic])
        pixels, mask = add_defects(rng, pixels)
    return View(pixels, mask, picture.class_name, known_anomalous=picture.is_defective)


def _tiles(
    item: SnapshotItem, category: CategoryConfig, side: int
) -> list[tuple[Tile | None, bool]]:
    """What of a frame is learnt from, and whether it shows a defect."""
    is_ng = item.verdict is LabelVerdict.NG
    tiling = tiling_of(category)
    width, height = image_size(item.frame)
    plan: Sequence[Tile] = () if tiling is None else tiling.plan(height, width, side)
    if len(plan) < 2:
        return [(None, is_ng)]
    if not is_ng:
        return [(tile, False) for tile in _spread(plan)]
    if item.mask_png is None:
        return []  # which tile shows it is not known
    mask = resized(decode_mask(item.mask_png), width, height)
    shows_it = {tile: bool(_cut(tile, mask).any()) for tile in plan}
    sound = set(_spread([tile for tile in plan if not shows_it[tile]]))
    return [(tile, shows_it[tile]) for tile in plan if shows_it[tile] or tile in sound]


def _spread(tiles: Sequence[Tile]) -> list[Tile]:
    n = min(OK_TILES, len(tiles))
    return [tiles[i * len(tiles) // n] for i in range(n)]


def _mask(item: SnapshotItem, image: Image) -> Mask:
    height, width = image.shape[:2]
    if item.mask_png is None:
        return np.zeros((height, width), np.bool_)
    return resized(decode_mask(item.mask_png), width, height)


def _cut(tile: Tile, mask: Mask) -> Mask:
    return mask[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
