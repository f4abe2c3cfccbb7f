"""Label Studio's export as JSON: brush, polygons, rectangles, ellipses, and choices.

A choice OK, NG or UNCERTAIN speaks of the whole image, another one names a defect. Written is what
Label Studio imports, with the labelling setup that it needs and links to pictures below its
LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote
from xml.sax.saxutils import quoteattr

from pydantic import Field, FiniteFloat, RootModel

from daemon.core import LabelVerdict
from daemon.labels.brush import from_brush, to_brush
from daemon.labels.files import MAX_JSON_BYTES, Part, read_json, write_file
from daemon.labels.found import (
    NAMELESS,
    LabelFound,
    Problem,
    add_area,
    image_key,
    remarks,
    settle,
)
from daemon.labels.mask import Mask, fill_ellipse, fill_polygon, turned
from daemon.labels.picture import LabelledPicture, mask_of, write_image
from zsad.image_files import DataError

FILE_NAME = "tasks.json"
SETUP_NAME = "labeling_setup.xml"
MAX_MARKS = 1000
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")
_Text = Annotated[str, Field(max_length=1024)]
_Words = Annotated[tuple[_Text, ...], Field(max_length=MAX_MARKS)]
_Percent = tuple[FiniteFloat, FiniteFloat]


class _Value(Part):
    """Of any kind of mark; lengths in percent of the image."""

    x: FiniteFloat | None = None
    y: FiniteFloat | None = None
    width: FiniteFloat | None = None
    height: FiniteFloat | None = None
    rotation: FiniteFloat = 0.0
    radius_x: FiniteFloat | None = Field(default=None, alias="radiusX")
    radius_y: FiniteFloat | None = Field(default=None, alias="radiusY")
    points: list[_Percent] | None = None
    rle: list[int] | None = None
    labels: _Words = ()
    brushlabels: _Words = ()
    polygonlabels: _Words = ()
    rectanglelabels: _Words = ()
    ellipselabels: _Words = ()
    keypointlabels: _Words = ()
    choices: _Words = ()

    @property
    def words(self) -> list[str]:
        return [
            *self.labels,
            *self.brushlabels,
            *self.polygonlabels,
            *self.rectanglelabels,
            *self.ellipselabels,
            *self.keypointlabels,
        ]


class _Result(Part):
    """One mark, or a part of one: those with the same id belong together."""

    id: _Text | None = None
    type: _Text
    value: _Value
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: FiniteFloat = 0.0


class _Annotation(Part):
    result: Annotated[list[_Result], Field(max_length=2 * MAX_MARKS)]
    was_cancelled: bool = False
    updated_at: _Text = ""


class _Task(Part):
    annotations: list[_Annotation]
    data: dict[_Text, object]


_File = RootModel[list[_Task]]


def read(path: Path, on_problem: Problem, unmarked: LabelVerdict | None) -> Iterator[LabelFound]:
    """Labels of a file's tasks; of several annotations of one the newest.

    Args:
        path: The file, or the folder that holds `tasks.json`.
        unmarked: What a submitted image without marks and choices is taken for; None leaves it
            out. A task that nobody submitted is always left out.

    Raises:
        DataError: The file is too large or no such file.
    """
    tasks = read_json(path / FILE_NAME if path.is_dir() else path, _File, MAX_JSON_BYTES).root
    for number, task in enumerate(tasks, start=1):
        name = _file_name(task)
        if name is None:
            on_problem(f"task {number}: its data names no image, or several")
            continue
        submitted = [one for one in task.annotations if not one.was_cancelled]
        if not submitted:
            on_problem(f"{name}: nobody has submitted an annotation")
            continue
        newest = max(submitted, key=lambda one: one.updated_at)
        try:
            found = _label(name, newest, unmarked)
        except DataError as error:
            on_problem(f"{name}: {error}")
            continue
        if found is None:
            on_problem(f"{name}: neither marks nor a choice say what it is")
        else:
            yield found


def write(folder: Path, pictures: Iterable[LabelledPicture]) -> int:
    """Write `tasks.json`, the labelling setup, and pictures into `images`; it holds every label.

    Raises:
        DataError: A file cannot be written.
    """
    tasks: list[dict[str, object]] = []
    defects: set[str] = set()
    for number, picture in enumerate(pictures, start=1):
        name = write_image(folder / "images", picture)
        if picture.found.defect is not None:
            defects.add(picture.found.defect)
        tasks.append(
            {
                "id": number,
                "data": {"image": f"/data/local-files/?d=images/{name}"},
                "annotations": [{"result": _results(picture), "was_cancelled": False}],
            }
        )
    write_file(folder / FILE_NAME, json.dumps(tasks, ensure_ascii=False).encode())
    write_file(folder / SETUP_NAME, _setup(sorted(defects)).encode())
    return len(tasks)


def _file_name(task: _Task) -> str | None:
    """The image's file as it was called before it was uploaded.

    `file_upload` does not tell: of tasks that were imported it is the name of the tasks' own file.
    """
    urls = [value for value in task.data.values() if isinstance(value, str)]
    image = task.data.get("image")
    url = image if isinstance(image, str) else urls[0] if len(urls) == 1 else None
    if url is None:
        return None
    path = url.partition("?d=")[2] or url.partition("?")[0]
    name = unquote(path).replace("\\", "/").rsplit("/", 1)[-1]
    uploaded = _UPLOADED.fullmatch(name) if "/upload/" in path else None
    return uploaded[1] if uploaded else name


def _label(name: str, annotation: _Annotation, unmarked: LabelVerdict | None) -> LabelFound | None:
    said, words = remarks(word for result in annotation.result for word in result.value.choices)
    mask: Mask | None = None
    for marks in _regions(annotation.result):
        found = [word for result in marks for word in result.value.words]
        words += found
        areas = (area for result in marks if (area := _area(result)) is not None)
        if (area := next(areas, None)) is not None:
            for word in found or [NAMELESS]:
                mask = add_area(mask, word, area)
            words += [] if found else [NAMELESS]
    return settle(image_key(name), words, mask, said=said, unmarked=unmarked)


def _regions(results: Iterable[_Result]) -> Iterable[list[_Result]]:
    """Marks with everything that was said of each; a choice is none."""
    regions: dict[str, list[_Result]] = {}
    for number, result in enumerate(results):
        if not result.value.choices:
            regions.setdefault(result.id or f"#{number}", []).append(result)
    return regions.values()


def _area(result: _Result) -> Mask | None:
    """None for what has no area, such as points and texts."""
    value, width, height = result.value, result.original_width, result.original_height
    has_area = value.rle is not None or value.points is not None or value.x is not None
    if not has_area or result.type.startswith("keypoint"):
        return None
    if width is None or height is None:
        raise DataError("a mark without original_width and original_height: export it again")
    if result.image_rotation:
        raise DataError(
            f"the image was turned by {result.image_rotation:g} degrees while it was labelled: "
            "label it as the camera shows it"
        )
    if value.rle is not None:
        return from_brush(value.rle, width, height)
    if value.points is not None:
        points = [(x * width / 100, y * height / 100) for x, y in value.points]
        return fill_polygon(points, width, height)
    return _box_or_ellipse(value, width, height)


def _box_or_ellipse(value: _Value, width: int, height: int) -> Mask | None:
    if value.x is None or value.y is None:
        return None
    x, y = value.x * width / 100, value.y * height / 100
    if value.radius_x is not None and value.radius_y is not None:
        radius_x, radius_y = value.radius_x * width / 100, value.radius_y * height / 100
        return fill_ellipse((x, y), radius_x, radius_y, value.rotation, width, height)
    if value.width is None or value.height is None:
        return None
    right, bottom = x + value.width * width / 100, y + value.height * height / 100
    corners = [(x, y), (right, y), (right, bottom), (x, bottom)]
    return fill_polygon(turned(corners, (x, y), value.rotation), width, height)


def _results(picture: LabelledPicture) -> list[dict[str, object]]:
    found, mask = picture.found, mask_of(picture)
    size = {
        "original_width": picture.width_px,
        "original_height": picture.height_px,
        "image_rotation": 0,
    }

    def choice(name: str, word: str) -> dict[str, object]:
        value = {"choices": [word]}
        return {
            "id": name,
            "from_name": name,
            "to_name": "image",
            "type": "choices",
            "value": value,
        }

    results = [choice("verdict", found.verdict.value)]
    if mask is not None and mask.any():
        value: dict[str, object] = {"format": "rle", "rle": to_brush(mask)}
        value["brushlabels"] = [found.defect or NAMELESS]
        mark = {"id": "mask", "from_name": "mask", "to_name": "image", "type": "brushlabels"}
        results.append({**mark, **size, "value": value})
    elif found.defect is not None:
        results.append(choice("defect", found.defect))
    return results


def _setup(defects: list[str]) -> str:
    """The labelling setup that the written tasks belong to."""
    verdicts = "".join(f'<Choice value="{verdict.value}"/>' for verdict in LabelVerdict)
    named = "".join(f"<Choice value={quoteattr(name)}/>" for name in defects)
    painted = "".join(f"<Label value={quoteattr(name)}/>" for name in (*defects, NAMELESS))
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="verdict" toName="image" choice="single">{verdicts}</Choices>\n'
        f'  <Choices name="defect" toName="image" choice="multiple">{named}</Choices>\n'
        f'  <BrushLabels name="mask" toName="image">{painted}</BrushLabels>\n</View>\n'
    )
