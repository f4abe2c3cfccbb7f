"""A tree as MVTec AD has it: CATEGORY/test/DEFECT/* and CATEGORY/ground_truth/DEFECT/*_mask.png.

What it cannot hold: frames without a picture, and the supposed defect of an uncertain label.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from daemon.core import LabelVerdict
from daemon.labels.files import write_file
from daemon.labels.found import NAMELESS, LabelFound, Problem, image_key, settle
from daemon.labels.mask import read_mask_file
from daemon.labels.picture import LabelledPicture, image_name, image_of, mask_of, mask_png
from zsad.data import Split
from zsad.datasets.layouts import read_dataset
from zsad.image_files import DataError

_FOLDERS = {LabelVerdict.OK: "good", LabelVerdict.UNCERTAIN: "uncertain"}
_SPLITS: tuple[Split, ...] = ("train", "test")


def read(root: Path, on_problem: Problem) -> Iterator[LabelFound]:
    """Labels of a tree's images, of the training and the test part.

    Raises:
        DataError: No such tree, or a link leads out of it.
    """
    splits = [split for split in _SPLITS if any(root.glob(f"*/{split}"))]
    if not splits:
        raise DataError(f"{root} holds no CATEGORY/test: give the folder that holds categories")
    for split in splits:
        for sample in read_dataset(root, "mvtec", split, warn=lambda _: None):
            try:
                mask = read_mask_file(sample.mask_path) if sample.mask_path else None
                found = settle(image_key(sample.image_path.name), [sample.defect], mask)
            except DataError as error:
                on_problem(f"{sample.image_path}: {error}")
                continue
            if found is not None:
                yield found


def write(root: Path, pictures: Iterable[LabelledPicture], on_problem: Problem) -> int:
    """Write each label's picture and mask into the tree; how many labels were written.

    Raises:
        DataError: A file cannot be written.
    """
    written = 0
    for picture in pictures:
        found = picture.found
        image = image_of(picture)
        if image is None:
            on_problem(f"{found.image}: no picture of it is stored; export it as coco or labelme")
            continue
        if found.verdict is LabelVerdict.UNCERTAIN and found.defect is not None:
            on_problem(
                f"{found.image}: a tree has no place for an uncertain {found.defect!r}; export it "
                "as coco or labelme"
            )
            continue
        folder = _FOLDERS.get(found.verdict, found.defect or NAMELESS)
        mask = mask_of(picture)
        if mask is not None:
            name = f"{found.image}_mask.png"
            masks = root / picture.category / "ground_truth" / folder
            write_file(masks / name, mask_png(picture, mask))
        target = root / picture.category / "test" / folder / image_name(picture, image)
        write_file(target, image.data)
        written += 1
    return written
