"""Golden images: a few pictures with what a model said of them when it was stored.

Whoever is about to use the model shows them to it again. Refuses a model that answers otherwise:
weights that came over a stick unharmed are worth nothing on a torch that computes something else.
"""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import PIL.Image
import torch
from pydantic import Field, ValidationError

from daemon.core import Image
from daemon.errors import ModelError
from zsad.config.section import Section
from zsad.image_files import DataError, load_image
from zsad.predictor import Predictor

BOOK_NAME = "golden.json"
MAX_GOLDEN = 64
MAX_SIDE_PX = 512
"""Larger images are shrunk before they become golden: it is the model that is looked at."""

SAME_TOLERANCE = 1e-4
"""Largest difference on the same kind of processor; threads and batch sizes cost about 1e-6."""

OTHER_TOLERANCE = 1e-2
"""On another kind: other CPUs cost about 1e-6 too, a GPU that rounds to TF32 far more."""

_MAX_BOOK_BYTES = 1 << 18
_MAX_IMAGE_BYTES = 8 << 20


class GoldenImage(Section):
    """One picture, and what the model said of it.

    Attributes:
        file: Name in the folder.
        score, map_peak: In [0, 1].
    """

    file: Annotated[str, Field(pattern=r"^[0-9]{3}\.png$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    class_name: Annotated[str, Field(min_length=1, max_length=200)]
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    map_peak: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class GoldenBook(Section):
    """`golden.json`.

    Attributes:
        version: Of the model.
        made_on: `computer()` of the machine that it was made on.
    """

    format: Literal[1] = 1
    version: str
    made_on: str
    images: Annotated[tuple[GoldenImage, ...], Field(min_length=1, max_length=MAX_GOLDEN)]


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a model's answers compare with those of the day it was stored.

    Attributes:
        worst: Largest difference of a score or a map's peak.
        tolerance: What was allowed here.
    """

    images: int
    worst: float
    tolerance: float


def write_golden(predictor: Predictor, images: Iterable[tuple[Image, str]], folder: Path) -> None:
    """Write pictures and what the model says of them; not synced, the model store does that.

    Args:
        images: RGB uint8 [H, W, 3] with the class name each; at least one, at most MAX_GOLDEN.
        folder: Must not exist.

    Raises:
        ModelError: the model says NaN, or there are too few or too many images.
    """
    folder.mkdir(parents=True)
    entries = []
    for number, (image, class_name) in enumerate(images):
        if number == MAX_GOLDEN:
            raise ModelError(f"more than {MAX_GOLDEN} golden images: choose fewer")
        small = _shrunk(image)
        score, peak = _say(predictor, small, class_name)
        if not (0.0 <= score <= 1.0 and 0.0 <= peak <= 1.0):
            raise ModelError(
                f"model {predictor.version} says {score} of golden image {number} "
                f"({class_name!r}), map peak {peak}: not in [0, 1]"
            )
        content = _png(small)
        name = f"{number:03d}.png"
        (folder / name).write_bytes(content)
        entries.append(
            GoldenImage(
                file=name,
                sha256=hashlib.sha256(content).hexdigest(),
                class_name=class_name,
                score=score,
                map_peak=peak,
            )
        )
    if not entries:
        raise ModelError(f"no golden image for model {predictor.version}: it could not be checked")
    book = GoldenBook(
        version=predictor.version, made_on=computer(predictor.device), images=tuple(entries)
    )
    (folder / BOOK_NAME).write_text(book.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_golden(folder: Path, version: str) -> GoldenBook:
    """The book, once every picture's hash was found right.

    Raises:
        ModelError: missing, damaged, or another model's.
    """
    path = folder / BOOK_NAME
    try:
        book = GoldenBook.model_validate_json(_read(path, _MAX_BOOK_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelError(f"{path}: {where}: {first['msg']}") from error
    if book.version != version:
        raise ModelError(f"{path}: made with model {book.version}, the model is {version}")
    for entry in book.images:
        found = hashlib.sha256(_read(folder / entry.file, _MAX_IMAGE_BYTES)).hexdigest()
        if found != entry.sha256:
            raise ModelError(
                f"{folder / entry.file}: SHA-256 is {found[:12]}, {BOOK_NAME} wants "
                f"{entry.sha256[:12]}; the file is damaged"
            )
    return book


def replay_golden(predictor: Predictor, folder: Path) -> Replayed:
    """Show a model its golden images again.

    Raises:
        ModelError: a file is damaged, or an answer is off by more than the tolerance (or NaN).
    """
    book = read_golden(folder, predictor.version)
    here = computer(predictor.device)
    tolerance = SAME_TOLERANCE if book.made_on == here else OTHER_TOLERANCE
    worst = 0.0
    for entry in book.images:
        try:
            image = load_image(folder / entry.file, max_pixels=MAX_SIDE_PX**2)
        except DataError as error:
            raise ModelError(str(error)) from error
        score, peak = _say(predictor, image, entry.class_name)
        for what, found, wanted in (
            ("score", score, entry.score),
            ("map peak", peak, entry.map_peak),
        ):
            if not abs(found - wanted) <= tolerance:  # NaN is not within any tolerance
                raise ModelError(
                    f"model {book.version} does not reproduce itself: {what} of golden image "
                    f"{entry.file} is {found:.6f}, was {wanted:.6f} on {book.made_on} "
                    f"(tolerance {tolerance:g} on {here}); install the same torch, or store the "
                    "model again here"
                )
            worst = max(worst, abs(found - wanted))
    return Replayed(len(book.images), worst, tolerance)


def computer(device: torch.device) -> str:
    """What decides the last digits of a score: the library, and the kind of processor."""
    if device.type == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    return f"torch {torch.__version__}, CPU {torch.backends.cpu.get_cpu_capability()}"


def _say(predictor: Predictor, image: Image, class_name: str) -> tuple[float, float]:
    with predictor.detector.backbone.executing():  # in float32, whatever the line runs in
        scores, maps = predictor.predict([image], [class_name])
    return scores[0], float(np.max(maps[0]))


def _shrunk(image: Image) -> Image:
    height, width = image.shape[:2]
    scale = MAX_SIDE_PX / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(
        PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BOX), dtype=np.uint8
    )


def _png(image: Image) -> bytes:
    content = io.BytesIO()
    PIL.Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def _read(path: Path, limit: int) -> bytes:
    try:
        if (size := path.stat().st_size) > limit:
            raise ModelError(f"{path}: {size} bytes, limit {limit}")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
