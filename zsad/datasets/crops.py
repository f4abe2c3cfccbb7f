"""SDD and AITEX cut into the crops that the papers test on, written once as an MVTec tree.

The rules are those of the conversion scripts of DRA and InCTRL (Ding et al. 2022, Zhu and Pang
2024), from which the papers' image numbers come. Deviation: those scripts list folders in the
file system's order, which nobody can repeat; here files are sorted before a quarter of the normal
crops is drawn, so the numbers are equal and the drawn normal crops are others.
Refuses to know which data set is asked for and to change the download.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from zsad.data import Progress, Warn
from zsad.datasets.adapters import GOOD, held_out
from zsad.datasets.paths import folders_of, images_of
from zsad.image_files import DataError, image_size, load_image, load_mask

SDD_THIRDS = 3
AITEX_SIDE = 256
AITEX_DEFECTS = {
    "002": "Broken_end",
    "006": "Broken_yarn",
    "010": "Broken_pick",
    "016": "Weft_curling",
    "019": "Fuzzyball",
    "022": "Cut_selvage",
    "023": "Crease",
    "025": "Warp_ball",
    "027": "Knots",
    "029": "Contamination",
    "030": "Nep",
    "036": "Weft_crack",
}
"""Defect of the number in the middle of an image's name."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, slots=True)
class _Crop:
    """One part of a picture; `defect` is "good" where the mask is empty."""

    image: Path
    masks: tuple[Path, ...]
    box: Box
    stem: str
    defect: str


def cut_sdd(source: Path, target: Path, warn: Warn, progress: Progress) -> None:
    """KolektorSDD: each picture in three parts from top to bottom; a part is anomalous if marked.

    source: kos*/Part*.jpg with Part*_label.bmp.
    """
    del warn
    crops: list[_Crop] = []
    for folder in folders_of(source, source):
        for image in images_of(folder, source):
            if image.suffix.casefold() != ".jpg":
                continue
            masks = (image.with_name(f"{image.stem}_label.bmp"),)
            width, height = image_size(image)
            edges = [height * part // SDD_THIRDS for part in range(SDD_THIRDS + 1)]
            boxes = [(0, top, width, bottom) for top, bottom in pairwise(edges)]
            crops += _cut(image, masks, boxes, f"{folder.name}_{image.stem}", "defect")
    _write(target, "SDD", crops, progress)


def cut_aitex(source: Path, target: Path, warn: Warn, progress: Progress) -> None:
    """AITEX: squares of 256 px from the strips; from defective strips only the marked squares.

    source: NODefect_images/*/*.png, Defect_images/*.png, Mask_images/*_mask*.png, each perhaps
    in a folder of its own name once more. Two strips have two masks, joined here; a strip
    without a mask or with an empty one is left out and said.
    """
    crops: list[_Crop] = []
    for folder in folders_of(_unnested(source, "NODefect_images"), source):
        for image in images_of(folder, source):
            crops += _cut(image, (), _squares(image), f"{folder.name}_{image.stem}", "defect")
    masks = images_of(_unnested(source, "Mask_images"), source)
    for image in images_of(_unnested(source, "Defect_images"), source):
        pattern = re.compile(rf"{re.escape(image.stem)}_mask\d*")
        own = tuple(mask for mask in masks if pattern.fullmatch(mask.stem))
        if not own:
            warn(f"{image} has no mask: left out, as in the papers")
            continue
        number = image.stem.split("_")[1] if image.stem.count("_") == 2 else ""
        defect = AITEX_DEFECTS.get(number, f"defect_{number}")
        cut = _cut(image, own, _squares(image), image.stem, defect)
        marked = [crop for crop in cut if crop.defect != GOOD]
        if not marked:
            warn(f"{own[0]} marks no pixel: its image is left out, as in the papers")
        crops += marked
    _write(target, "AITEX", crops, progress)


def _unnested(source: Path, name: str) -> Path:
    folder = source / name / name if (source / name / name).is_dir() else source / name
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: unpack all archives of the data set into {source}")
    return folder


def _squares(image: Path) -> list[Box]:
    width, height = image_size(image)
    lefts = range(0, width, AITEX_SIDE)
    return [(left, 0, min(left + AITEX_SIDE, width), height) for left in lefts]


def _cut(
    image: Path, masks: tuple[Path, ...], boxes: Sequence[Box], stem: str, defect: str
) -> Iterator[_Crop]:
    """The parts of a picture, labelled by its masks."""
    width, height = image_size(image)
    marked = _joined(masks, (height, width), image)
    for number, (left, top, right, bottom) in enumerate(boxes):
        is_marked = bool(marked[top:bottom, left:right].any())
        yield _Crop(
            image=image,
            masks=masks,
            box=(left, top, right, bottom),
            stem=f"{stem}_{number}",
            defect=defect if is_marked else GOOD,
        )


def _joined(masks: Sequence[Path], shape: tuple[int, int], image: Path) -> NDArray[np.bool_]:
    joined = np.zeros(shape, np.bool_)
    for path in masks:
        mask = load_mask(path)
        if mask.shape != shape:
            raise DataError(
                f"mask {path} is {mask.shape[1]} x {mask.shape[0]} pixels, its image {image} "
                f"{shape[1]} x {shape[0]}: restore both from the download"
            )
        joined |= mask
    return joined


def _write(target: Path, category: str, crops: Sequence[_Crop], progress: Progress) -> None:
    """The tested crops as an MVTec tree that is complete or absent."""
    normal = held_out([crop for crop in crops if crop.defect == GOOD])
    tested = normal + [crop for crop in crops if crop.defect != GOOD]
    if not tested:
        raise DataError(f"nothing to cut for {target}: is the download unpacked?")
    unfinished = target.with_name(f".{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for done, crop in enumerate(tested, start=1):
        left, top, right, bottom = crop.box
        part = load_image(crop.image)[top:bottom, left:right]
        _save(part, unfinished / category / "test" / crop.defect / f"{crop.stem}.png")
        if crop.defect != GOOD:
            size = image_size(crop.image)
            mask = _joined(crop.masks, (size[1], size[0]), crop.image)[top:bottom, left:right]
            path = unfinished / category / "ground_truth" / crop.defect / f"{crop.stem}_mask.png"
            _save(mask.astype(np.uint8) * 255, path)
        progress(done, len(tested))
    unfinished.rename(target)


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
