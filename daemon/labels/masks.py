"""A folder of mask images, one for each labelled frame: white is defective, all black is OK.

What it cannot hold: the defect's name, uncertain labels, and NG without a mask.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from daemon.core import LabelVerdict
from daemon.labels.files import write_file
from daemon.labels.found import LabelFound, Problem, image_key
from daemon.labels.mask import encode_mask, read_mask_file
from daemon.labels.picture import LabelledPicture, mask_of, mask_png
from zsad.datasets.paths import images_of
from zsad.image_files import DataError

SUFFIX = "_mask"


def read(folder: Path, on_problem: Problem) -> Iterator[LabelFound]:
    """Labels of a folder's masks, in order of their names.

    Raises:
        DataError: No folder, or a link leads out of it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give the folder that holds the masks")
    for path in images_of(folder, folder):
        try:
            mask = read_mask_file(path)
        except DataError as error:
            on_problem(str(error))
            continue
        image = image_key(path.name).removesuffix(SUFFIX)
        if mask.any():
            yield LabelFound(image, LabelVerdict.NG, mask_png=encode_mask(mask))
        else:
            yield LabelFound(image, LabelVerdict.OK)


def write(folder: Path, pictures: Iterable[LabelledPicture], on_problem: Problem) -> int:
    """Write `NAME_mask.png` for each label; how many were written.

    Raises:
        DataError: A file cannot be written.
    """
    written = 0
    for picture in pictures:
        mask = mask_of(picture)
        if picture.found.verdict is LabelVerdict.UNCERTAIN or (
            mask is None and picture.found.verdict is LabelVerdict.NG
        ):
            on_problem(
                f"{picture.found.image}: a mask cannot say {picture.found.verdict} without an "
                "area; export it as coco or labelme"
            )
            continue
        write_file(folder / f"{picture.found.image}{SUFFIX}.png", mask_png(picture, mask))
        written += 1
    return written
