"""Files of a data set, found inside its root and nowhere else.

Refuses to know what the files mean.
"""

import os
from pathlib import Path

from zsad.data import IMAGE_SUFFIXES
from zsad.image_files import DataError


def inside(root: Path, path: Path, where: str) -> Path:
    """`path`, refused when it or a link on its way leads out of root."""
    real_root = os.path.realpath(root)
    if os.path.commonpath([real_root, os.path.realpath(path)]) != real_root:
        raise DataError(f"{where}: {path} leads out of {root}: copy the file into the data set")
    return path


def listed(root: Path, name: str, where: str) -> Path:
    """A file that a list names, relative to root."""
    path = inside(root, root / name, where)
    if not path.is_file():
        raise DataError(f"{where}: {path} does not exist: correct the list or restore the file")
    return path


def folders_of(parent: Path, root: Path) -> list[Path]:
    """Folders in `parent`, sorted; hidden ones left out."""
    return sorted(
        inside(root, child, str(parent))
        for child in parent.iterdir()
        if child.is_dir() and not child.name.startswith(".")
    )


def images_of(folder: Path, root: Path) -> list[Path]:
    """Image files in `folder`, sorted; hidden ones left out."""
    return sorted(
        inside(root, child, str(folder))
        for child in folder.iterdir()
        if child.suffix.casefold() in IMAGE_SUFFIXES and not child.name.startswith(".")
    )


def mask_of(image: Path, folder: Path, root: Path) -> Path | None:
    """The mask of an image: <stem>_mask.* before <stem>.*, PNG before the rest."""
    for stem in (f"{image.stem}_mask", image.stem):
        for suffix in (".png", *sorted(IMAGE_SUFFIXES - {".png"})):
            mask = folder / f"{stem}{suffix}"
            if mask.is_file():
                return inside(root, mask, str(folder))
    return None


def text_of(path: Path) -> str:
    """A UTF-8 text file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): check --data, or restore the file"
        ) from error
