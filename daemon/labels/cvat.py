"""CVAT's XML "CVAT for images 1.1": polygons, boxes, ellipses, masks, and tags of whole images.

A tag OK, NG or UNCERTAIN is a verdict, another one names a defect. The file is read as a stream; a
document type, which could name other files or grow without end, is refused.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from daemon.core import LabelVerdict
from daemon.labels.files import MAX_JSON_BYTES, write_file
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
    MAX_RUNS,
    Mask,
    check_file,
    check_size,
    cut_out,
    fill_ellipse,
    fill_polygon,
    from_runs,
    pasted,
    to_runs,
    turned,
)
from daemon.labels.picture import LabelledPicture, mask_of, write_image
from zsad.image_files import DataError

FILE_NAME = "annotations.xml"
MAX_MARKS = 1000
_CHUNK_BYTES = 1 << 20
_AREAS = ("polygon", "box", "ellipse", "mask")
_OTHERS = ("points", "polyline", "cuboid", "skeleton")

Attributes = Mapping[str, str]


@dataclass(slots=True)
class _Image:
    """One <image> with its marks, as far as they have been read."""

    attributes: Attributes
    tags: list[str] = field(default_factory=list)
    marks: list[tuple[str, Attributes]] = field(default_factory=list)


def read(path: Path, on_problem: Problem, unmarked: LabelVerdict | None) -> Iterator[LabelFound]:
    """Labels of a file's images.

    Args:
        path: The file, or the folder that holds `annotations.xml`.
        unmarked: What an image without marks and tags is taken for; None leaves it out.

    Raises:
        DataError: The file is too large, no such file, or not XML of this kind.
    """
    file = path / FILE_NAME if path.is_dir() else path
    check_file(file, MAX_JSON_BYTES)
    for image in _images(file):
        name = image.attributes.get("name", "(an image without a name)")
        try:
            found = _label(image, unmarked)
        except DataError as error:
            on_problem(f"{name}: {error}")
            continue
        if found is None:
            on_problem(f"{name}: neither marks nor tags say what it is")
        else:
            yield found


def write(folder: Path, pictures: Iterable[LabelledPicture]) -> int:
    """Write `annotations.xml`, and pictures into `images`; it holds every label.

    Raises:
        DataError: A file cannot be written.
    """
    images: list[tuple[str, str]] = []
    labels: dict[str, None] = dict.fromkeys(verdict.value for verdict in LabelVerdict)
    for picture in pictures:
        name = write_image(folder / "images", picture)
        found, mask = picture.found, mask_of(picture)
        inside = [_tag(found.verdict.value)]
        if mask is not None and mask.any():
            label = found.defect or NAMELESS
            inside.append(_mask(label, mask))
            labels[label] = None
        elif found.defect is not None:
            inside.append(_tag(found.defect))
            labels[found.defect] = None
        facts = f'width="{picture.width_px}" height="{picture.height_px}"'
        images.append((name, f"{facts}>\n{''.join(inside)}  </image>\n"))
    write_file(folder / FILE_NAME, _document(images, labels).encode())
    return len(images)


def _images(file: Path) -> Iterator[_Image]:
    """Images of a file, in its order.

    Raises:
        DataError: It is not XML, or not of this kind.
    """
    done: list[_Image] = []
    reader = _Reader(done.append)
    try:
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK_BYTES):
                reader.parser.Parse(chunk, False)
                yield from done
                done.clear()
        reader.parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise DataError(f"{file} is no XML ({error}): export it again") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): restore the file") from error
    yield from done
    if not reader.is_annotations:
        raise DataError(f"{file} holds no <annotations>: export it as CVAT for images 1.1")


class _Reader:
    """Turns elements into images; everything else in the file is passed over."""

    def __init__(self, on_image: Callable[[_Image], None]) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._begin
        self.parser.EndElementHandler = self._end
        self.is_annotations = False
        self._on_image = on_image
        self._image: _Image | None = None

    def _refuse(self, *_: object) -> None:
        raise DataError("the XML has a document type, which no export of CVAT has")

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        if name == "annotations":
            self.is_annotations = True
        elif name == "track":
            raise DataError("the XML is of a video: export it as CVAT for images 1.1")
        elif name == "image":
            self._image = _Image(attributes)
        elif self._image is None:
            return
        elif name == "tag" and len(self._image.tags) <= MAX_MARKS:
            self._image.tags.append(attributes.get("label", ""))
        elif name in (*_AREAS, *_OTHERS) and len(self._image.marks) <= MAX_MARKS:
            self._image.marks.append((name, attributes))

    def _end(self, name: str) -> None:
        if name == "image" and self._image is not None:
            image, self._image = self._image, None
            self._on_image(image)


def _label(image: _Image, unmarked: LabelVerdict | None) -> LabelFound | None:
    if len(image.marks) > MAX_MARKS:
        raise DataError(f"more than {MAX_MARKS} marks on one image: merge them")
    if len(image.tags) > MAX_MARKS:
        raise DataError(f"more than {MAX_MARKS} tags on one image: remove some")
    width, height = (int(_number(image.attributes, name)) for name in ("width", "height"))
    check_size(width, height)
    said, words = remarks(image.tags)
    mask: Mask | None = None
    for kind, attributes in image.marks:
        words.append(_text(attributes, "label"))
        mask = add_area(mask, words[-1], _area(kind, attributes, width, height))
    name = _text(image.attributes, "name")
    return settle(image_key(name), words, mask, said=said, unmarked=unmarked)


def _area(kind: str, mark: Attributes, width: int, height: int) -> Mask | None:
    """None for marks without an area: points and lines."""
    match kind:
        case "polygon":
            return fill_polygon(_points(_text(mark, "points")), width, height)
        case "box":
            left, top, right, bottom = _numbers(mark, "xtl", "ytl", "xbr", "ybr")
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
            centre = (left + right) / 2, (top + bottom) / 2
            return fill_polygon(turned(corners, centre, _angle(mark)), width, height)
        case "ellipse":
            x, y, radius_x, radius_y = _numbers(mark, "cx", "cy", "rx", "ry")
            return fill_ellipse((x, y), radius_x, radius_y, _angle(mark), width, height)
        case "mask":
            left, top, columns, rows = (
                int(value) for value in _numbers(mark, "left", "top", "width", "height")
            )
            # row by row, which is column by column of the transposed mask
            part = from_runs(_runs(_text(mark, "rle")), rows, columns).T
            return pasted(part, left, top, width, height)
        case _:
            return None


def _points(text: str) -> list[tuple[float, float]]:
    """`x,y;x,y`."""
    points = []
    for pair in text.split(";"):
        x, comma, y = pair.partition(",")
        if not comma:
            raise DataError(f"point {pair[:40]!r} is not x,y: export it again")
        points.append((_float(x, "points"), _float(y, "points")))
    return points


def _runs(text: str) -> Sequence[int]:
    """`3, 5, 2`: lengths of runs, the first of the background."""
    if len(text) > 8 * MAX_RUNS:
        raise DataError(f"run lengths of {len(text)} characters, limit {8 * MAX_RUNS}")
    return [int(_float(part, "rle")) for part in text.split(",")]


def _angle(mark: Attributes) -> float:
    return _number(mark, "rotation") if "rotation" in mark else 0.0


def _numbers(mark: Attributes, *names: str) -> list[float]:
    return [_number(mark, name) for name in names]


def _number(mark: Attributes, name: str) -> float:
    return _float(_text(mark, name), name)


def _text(mark: Attributes, name: str) -> str:
    if name not in mark:
        raise DataError(f"a mark or image without {name!r}: export it again")
    return mark[name]


def _float(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{name} {text[:40]!r} is no number: export it again") from error
    if not isfinite(value) or abs(value) > 1e9:
        raise DataError(f"{name} {text[:40]!r} is out of bounds: export it again")
    return value


def _tag(label: str) -> str:
    return f'    <tag label={quoteattr(label)} source="manual"></tag>\n'


def _mask(label: str, mask: Mask) -> str:
    part, left, top = cut_out(mask)
    runs = ", ".join(map(str, to_runs(part.T)))
    height, width = part.shape
    place = f'left="{left}" top="{top}" width="{width}" height="{height}" z_order="0"'
    return (
        f'    <mask label={quoteattr(label)} source="manual" occluded="0" rle="{runs}" {place}>'
        "</mask>\n"
    )


def _document(images: Sequence[tuple[str, str]], labels: Iterable[str]) -> str:
    """With the labels that a task of CVAT must have to take it.

    Args:
        images: Name of each, and what follows it. They are numbered in the order of their names,
            as CVAT does when they are uploaded: it finds an image by its name, else by its number.
    """
    numbered = "".join(
        f'  <image id="{number}" name={quoteattr(name)} {rest}'
        for number, (name, rest) in enumerate(sorted(images))
    )
    names = "".join(f"<label><name>{escape(name)}</name></label>" for name in labels)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta><task><size>{len(images)}</size><mode>annotation</mode>"
        f"<labels>{names}</labels></task></meta>\n{numbered}</annotations>\n"
    )
