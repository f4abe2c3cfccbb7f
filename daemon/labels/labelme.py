"""LabelMe's files, one JSON for each image: shapes, and flags that speak of the whole image.

Flags named OK, NG and UNCERTAIN are verdicts, others name a defect; `labelme --flags
OK,NG,UNCERTAIN,scratch` offers them. Pictures inside a file are passed over.
"""

import base64
import binascii
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat

from daemon.core import LabelVerdict
from daemon.labels.files import Part, read_json, write_file
from daemon.labels.found import (
    NAMELESS,
    LabelFound,
    Problem,
    add_area,
    image_key,
    remarks,
    settle,
)
from daemon.labels.mask import (
    Mask,
    check_size,
    cut_out,
    decode_mask,
    encode_mask,
    fill_ellipse,
    fill_polygon,
    pasted,
)
from daemon.labels.picture import LabelledPicture, mask_of, write_image
from zsad.image_files import DataError

MAX_FILE_BYTES = 64 << 20
MAX_SHAPES = 1000
_Text = Annotated[str, Field(max_length=1024)]


class _Shape(Part):
    label: _Text
    points: list[tuple[FiniteFloat, FiniteFloat]]
    shape_type: str | None = "polygon"
    mask: str | None = None


class _File(Part):
    shapes: Annotated[list[_Shape], Field(max_length=MAX_SHAPES)]
    image_path: Annotated[_Text, Field(alias="imagePath")]
    width: Annotated[int, Field(alias="imageWidth")]
    height: Annotated[int, Field(alias="imageHeight")]
    flags: dict[_Text, bool] | None = None


def read(folder: Path, on_problem: Problem, unmarked: LabelVerdict | None) -> Iterator[LabelFound]:
    """Labels of a folder's files, in order of their names.

    Args:
        folder: Or one file.
        unmarked: What an image without shapes and flags is taken for; None leaves it out.

    Raises:
        DataError: Neither a folder with JSON files nor a file.
    """
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
    if not paths or not paths[0].is_file():
        raise DataError(f"{folder} holds no .json files: give the folder that LabelMe saved to")
    for path in paths:
        try:
            found = _label(read_json(path, _File, MAX_FILE_BYTES), unmarked)
        except DataError as error:
            on_problem(f"{path.name}: {error}")
            continue
        if found is None:
            on_problem(f"{path.name}: neither shapes nor a flag say what it is")
        else:
            yield found


def write(folder: Path, pictures: Iterable[LabelledPicture]) -> int:
    """Write a JSON, and the picture where one is stored, for each label; it holds every label.

    Raises:
        DataError: A file cannot be written.
    """
    written = 0
    for picture in pictures:
        found = picture.found
        mask = mask_of(picture)
        flags = {verdict.value: verdict is found.verdict for verdict in LabelVerdict}
        if found.defect is not None:
            flags[found.defect] = True
        content = {
            "version": "5.5.0",
            "flags": flags,
            "shapes": [] if mask is None or not mask.any() else [_shape(found, mask)],
            "imagePath": write_image(folder, picture),
            "imageData": None,
            "imageHeight": picture.height_px,
            "imageWidth": picture.width_px,
        }
        text = json.dumps(content, indent=2, ensure_ascii=False)
        write_file(folder / f"{found.image}.json", text.encode())
        written += 1
    return written


def _label(file: _File, unmarked: LabelVerdict | None) -> LabelFound | None:
    check_size(file.width, file.height)
    said, words = remarks(name for name, is_set in (file.flags or {}).items() if is_set)
    mask: Mask | None = None
    for shape in file.shapes:
        words.append(shape.label)
        mask = add_area(mask, shape.label, _area(shape, file.width, file.height))
    return settle(
        image_key(file.image_path),
        words,
        mask,
        said=said,
        unmarked=unmarked,
    )


def _area(shape: _Shape, width: int, height: int) -> Mask | None:
    """None for shapes without an area: points and lines."""
    points = shape.points
    match shape.shape_type:
        case "polygon" | None:
            return fill_polygon(points, width, height)
        case "rectangle" if len(points) == 2:
            (x0, y0), (x1, y1) = points
            return fill_polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], width, height)
        case "circle" if len(points) == 2:
            radius = math.dist(*points)
            return fill_ellipse(points[0], radius, radius, 0.0, width, height)
        case "mask" if len(points) == 2 and shape.mask is not None:
            return _pasted(shape.mask, points[0], width, height)
        case "point" | "points" | "line" | "linestrip":
            return None
        case other:
            raise DataError(f"shape {other!r} of {len(points)} points is not known")


def _pasted(text: str, corner: tuple[float, float], width: int, height: int) -> Mask:
    """A mask that covers a part of the image, from its upper left corner on."""
    try:
        part = decode_mask(base64.b64decode(text, validate=True))
    except binascii.Error as error:
        raise DataError(f"a mask is no base64 ({error}): save the file again") from error
    left, top = (int(min(max(value, -1.0), 1e7)) for value in corner)
    return pasted(part, left, top, width, height)


def _shape(found: LabelFound, mask: Mask) -> dict[str, object]:
    """A shape of type mask: exact, where a polygon would lose holes."""
    part, left, top = cut_out(mask)
    right, bottom = left + part.shape[1] - 1, top + part.shape[0] - 1
    return {
        "label": found.defect or NAMELESS,
        "points": [[left, top], [right, bottom]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(encode_mask(part)).decode(),
    }
