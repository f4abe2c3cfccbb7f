"""COCO's instances file: polygons, run lengths (plain or pycocotools' text), boxes without area.

Written with two fields of our own on each image, `verdict` and `defect`, which hold what marks
cannot say (OK, UNCERTAIN, a named defect without an area); tools may drop them.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, FiniteFloat

from daemon.core import LabelVerdict
from daemon.labels.files import MAX_JSON_BYTES, Part, read_json, write_file
from daemon.labels.found import (
    NAMELESS,
    LabelFound,
    Problem,
    add_area,
    defect_name,
    image_key,
    settle,
)
from daemon.labels.mask import (
    MAX_RUNS,
    Mask,
    check_size,
    cut_out,
    fill_polygon,
    from_runs,
    to_runs,
)
from daemon.labels.picture import LabelledPicture, mask_of, write_image
from zsad.image_files import DataError

FILE_NAME = "annotations.json"
MAX_MARKS = 1000
_Text = Annotated[str, Field(max_length=1024)]


class _Image(Part):
    id: int
    file_name: _Text
    width: int
    height: int
    verdict: LabelVerdict | None = None
    defect: _Text | None = None


class _Runs(Part):
    counts: list[int] | str
    size: tuple[int, int]  # height, width


class _Annotation(Part):
    image_id: int
    category_id: int
    segmentation: list[list[FiniteFloat]] | _Runs | None = None


class _Category(Part):
    id: int
    name: _Text


class _File(Part):
    images: list[_Image]
    annotations: tuple[_Annotation, ...] = ()
    categories: tuple[_Category, ...] = ()


def read(path: Path, on_problem: Problem, unmarked: LabelVerdict | None) -> Iterator[LabelFound]:
    """Labels of a file's images.

    Args:
        path: The file, or the folder that holds `annotations.json`.
        unmarked: What an image without annotation is taken for; None leaves it out.

    Raises:
        DataError: The file is too large or no such file.
    """
    file = read_json(path / FILE_NAME if path.is_dir() else path, _File, MAX_JSON_BYTES)
    names = {category.id: category.name for category in file.categories}
    by_image: dict[int, list[_Annotation]] = defaultdict(list)
    for annotation in file.annotations:
        by_image[annotation.image_id].append(annotation)
    for image in file.images:
        try:
            found = _label(image, by_image[image.id], names, unmarked)
        except DataError as error:
            on_problem(f"{image.file_name}: {error}")
            continue
        if found is None:
            on_problem(f"{image.file_name}: no annotation, and nobody said that it is OK")
        else:
            yield found


def write(folder: Path, pictures: Iterable[LabelledPicture]) -> int:
    """Write `annotations.json`, and pictures into `images`; it holds every label.

    Raises:
        DataError: A file cannot be written.
    """
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    categories: dict[str, int] = {}
    for number, picture in enumerate(pictures, start=1):
        found = picture.found
        images.append(
            {
                "id": number,
                "file_name": write_image(folder / "images", picture),
                "width": picture.width_px,
                "height": picture.height_px,
                "verdict": found.verdict.value,
                "defect": found.defect,
            }
        )
        mask = mask_of(picture)
        if mask is not None and mask.any():
            category = categories.setdefault(found.defect or NAMELESS, len(categories) + 1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    **_area_fields(mask),
                }
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for name, key in categories.items()],
    }
    write_file(folder / FILE_NAME, json.dumps(content, ensure_ascii=False).encode())
    return len(images)


def _label(
    image: _Image,
    annotations: Sequence[_Annotation],
    names: dict[int, str],
    unmarked: LabelVerdict | None,
) -> LabelFound | None:
    if len(annotations) > MAX_MARKS:
        raise DataError(f"{len(annotations)} annotations, limit {MAX_MARKS} of an image")
    words: list[str] = []
    mask: Mask | None = None
    for annotation in annotations:
        if annotation.category_id not in names:
            raise DataError(f"category {annotation.category_id} is not in the file: export again")
        words.append(names[annotation.category_id])
        mask = add_area(mask, words[-1], _area(annotation.segmentation, image))
    return settle(
        image_key(image.file_name),
        words,
        mask,
        said=image.verdict,
        said_defect=None if image.defect is None else defect_name(image.defect),
        unmarked=unmarked,
    )


def _area(segmentation: list[list[float]] | _Runs | None, image: _Image) -> Mask | None:
    if isinstance(segmentation, _Runs):
        if segmentation.size != (image.height, image.width):
            raise DataError(
                f"run lengths for height and width {segmentation.size}, the image has "
                f"{(image.height, image.width)}"
            )
        counts = segmentation.counts
        runs = _from_text(counts) if isinstance(counts, str) else counts
        return from_runs(runs, image.width, image.height)
    if not segmentation:
        return None
    if len(segmentation) > MAX_MARKS:
        raise DataError(f"annotation of {len(segmentation)} polygons, limit {MAX_MARKS}")
    check_size(image.width, image.height)
    mask = np.zeros((image.height, image.width), dtype=np.bool_)
    for polygon in segmentation:
        points = list(zip(polygon[::2], polygon[1::2], strict=False))
        mask |= fill_polygon(points, image.width, image.height)
    return mask


def _from_text(text: str) -> Sequence[int]:
    """Run lengths from pycocotools' text: groups of 5 bits from '0' on, the lowest first.

    Bit 5 says that another group follows, bit 4 of the last one is the sign; from the fourth
    length on it is the difference to the length before the last.
    """
    if len(text) > 7 * MAX_RUNS:
        raise DataError(f"run lengths of {len(text)} characters, limit {7 * MAX_RUNS}")
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 30:
            raise DataError(f"run lengths with {character!r} at the wrong place")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise DataError("run lengths end in the middle of a number")
    return runs


def _area_fields(mask: Mask) -> dict[str, object]:
    part, left, top = cut_out(mask)
    return {
        "segmentation": {"counts": to_runs(mask), "size": list(mask.shape)},
        "area": int(mask.sum()),
        "bbox": [left, top, part.shape[1], part.shape[0]],
        "iscrowd": 1,  # COCO's word for run lengths in place of polygons
    }
