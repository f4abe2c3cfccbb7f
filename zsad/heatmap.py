"""Anomaly maps as pictures: a colour overlay on the image, and a sheet of images, masks, overlays.

Refuses to know about thresholds and files.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

_FEWEST_OPAQUE = 0.15  # share of the colour where the map is lowest, so that the image shows
_MOST_OPAQUE = 0.75  # and where it is highest, so that the defect under it still shows

_TILE_PX, _GAP_PX, _CAPTION_PX, _LINE_GAP_PX, _MARGIN_PX, _HEADER_PX = 208, 6, 26, 18, 20, 58
_BLOCK_PX = 3 * _TILE_PX + 2 * _GAP_PX
_INK, _FAINT, _RED, _GREEN = (28, 32, 38), (110, 116, 124), (178, 34, 34), (24, 112, 60)
_PAPER, _EMPTY = (255, 255, 255), (240, 241, 243)


def heat_overlay(
    image: NDArray[np.uint8], anomaly_map: NDArray[np.float32], *, low: float, high: float
) -> NDArray[np.uint8]:
    """The image with its map in colour over it, more opaque where more anomalous.

    Args:
        image: RGB uint8 [H, W, 3].
        anomaly_map: float32 [h, w], over the whole image; resized to [H, W].
        low: Map value shown in the coldest colour.
        high: Map value shown in the hottest; equal to low gives the cold colour throughout.

    Returns:
        RGB uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    resized = cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
    heat = np.clip((resized - low) / (high - low), 0, 1) if high > low else np.zeros_like(resized)
    colours = cv2.applyColorMap((heat * 255).round().astype(np.uint8), cv2.COLORMAP_TURBO)
    opacity = (_FEWEST_OPAQUE + (_MOST_OPAQUE - _FEWEST_OPAQUE) * heat)[:, :, None]
    # OpenCV's colours are BGR.
    blended = image * (1 - opacity) + colours[:, :, ::-1] * opacity
    return np.asarray(blended.round(), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class SheetEntry:
    """One image on a contact sheet.

    Attributes:
        image: RGB uint8 [H, W, 3].
        mask: bool [H, W]; None for an anomalous image without a pixel label.
        anomaly_map: float32 [S, S].
        score: The image score in [0, 1].
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    anomaly_map: NDArray[np.float32]
    category: str
    defect: str
    is_anomalous: bool
    score: float


def contact_sheet(entries: Sequence[SheetEntry], *, title: str) -> NDArray[np.uint8]:
    """Entries as blocks of image, mask and overlay with a caption, two blocks a line if many.

    Colours are scaled per category, from the lowest to the highest map value shown of it, so
    that normal and anomalous images of one category can be compared.

    Returns:
        RGB uint8 [H, W, 3].

    Raises:
        ValueError: there are no entries.
    """
    if not entries:
        raise ValueError("a contact sheet needs at least one entry")
    n_columns = 1 if len(entries) <= 4 else 2
    lines = [entries[start : start + n_columns] for start in range(0, len(entries), n_columns)]
    tile_heights = [max(_tile_size(entry.image)[1] for entry in line) for line in lines]
    width = 2 * _MARGIN_PX + n_columns * _BLOCK_PX + (n_columns - 1) * 2 * _MARGIN_PX
    height = _HEADER_PX + sum(tile_heights) + len(lines) * (_CAPTION_PX + _LINE_GAP_PX)
    sheet = PIL.Image.new("RGB", (width, height), _PAPER)
    draw = PIL.ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, 12), title, fill=_INK, font=_font(18))
    legend = "image  |  mask  |  anomaly map and outline of the mask, colours scaled per category"
    draw.text((_MARGIN_PX, 36), legend, fill=_FAINT, font=_font(13))
    ranges, y = _ranges(entries), _HEADER_PX
    for line, tile_height in zip(lines, tile_heights, strict=True):
        for column, entry in enumerate(line):
            x = _MARGIN_PX + column * (_BLOCK_PX + 2 * _MARGIN_PX)
            _draw_caption(draw, x, y, entry)
            _draw_tiles(sheet, (x, y + _CAPTION_PX), tile_height, entry, ranges[entry.category])
        y += _CAPTION_PX + tile_height + _LINE_GAP_PX
    return np.asarray(sheet, dtype=np.uint8)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """An RGB image [H, W, 3] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _ranges(entries: Sequence[SheetEntry]) -> dict[str, tuple[float, float]]:
    ranges: dict[str, tuple[float, float]] = {}
    for entry in entries:
        low, high = float(entry.anomaly_map.min()), float(entry.anomaly_map.max())
        known = ranges.get(entry.category, (low, high))
        ranges[entry.category] = (min(low, known[0]), max(high, known[1]))
    return ranges


def _tile_size(image: NDArray[np.uint8]) -> tuple[int, int]:
    """(width, height) of an image shrunk or enlarged to a tile, aspect kept."""
    scale = _TILE_PX / max(image.shape[:2])
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))


def _draw_caption(draw: PIL.ImageDraw.ImageDraw, x: int, y: int, entry: SheetEntry) -> None:
    name, score, font = f"{entry.category}  ", f"score {entry.score:.3f}", _font(15)
    draw.text((x, y + 4), name, fill=_INK, font=font)
    label_x = x + draw.textlength(name, font=font)
    draw.text(
        (label_x, y + 4), entry.defect, fill=_RED if entry.is_anomalous else _GREEN, font=font
    )
    score_x = x + _BLOCK_PX - draw.textlength(score, font=font)
    draw.text((score_x, y + 4), score, fill=_INK, font=font)


def _draw_tiles(
    sheet: PIL.Image.Image,
    corner: tuple[int, int],
    height: int,
    entry: SheetEntry,
    limits: tuple[float, float],
) -> None:
    """Image, mask and overlay side by side, centred in fields of one height."""
    draw = PIL.ImageDraw.Draw(sheet)
    overlay = heat_overlay(entry.image, entry.anomaly_map, low=limits[0], high=limits[1])
    size = _tile_size(entry.image)
    for index, tile in enumerate((entry.image, _mask_picture(entry.mask), overlay)):
        left, top = corner[0] + index * (_TILE_PX + _GAP_PX), corner[1]
        draw.rectangle((left, top, left + _TILE_PX - 1, top + height - 1), fill=_EMPTY)
        if tile is None:
            middle = (left + _TILE_PX / 2, top + height / 2)
            draw.text(middle, "no mask", fill=_FAINT, font=_font(15), anchor="mm")
            continue
        picture = PIL.Image.fromarray(tile).resize(size)
        if index == 2 and entry.mask is not None:
            picture = _outlined(picture, entry.mask)
        sheet.paste(picture, (left + (_TILE_PX - size[0]) // 2, top + (height - size[1]) // 2))


def _mask_picture(mask: NDArray[np.bool_] | None) -> NDArray[np.uint8] | None:
    """White defect on near-black, [H, W, 3]."""
    if mask is None:
        return None
    grey = np.where(mask, np.uint8(255), np.uint8(24))
    return np.repeat(grey[:, :, None], 3, axis=2)


def _outlined(picture: PIL.Image.Image, mask: NDArray[np.bool_]) -> PIL.Image.Image:
    """The picture with a white line around the regions of a mask of any size."""
    grey = mask.astype(np.uint8) * 255  # so that a speck leaves a trace
    inside = (cv2.resize(grey, picture.size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    line = cv2.dilate(inside, np.ones((3, 3), np.uint8)) - inside
    pixels = np.array(picture)
    pixels[line > 0] = 255
    return PIL.Image.fromarray(pixels)


def _font(size: int) -> PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont:
    """Pillow's own font, so that a sheet looks the same on every machine."""
    return PIL.ImageFont.load_default(size)
