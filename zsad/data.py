"""Labelled data sets as lists of samples: four folder layouts, one order, no path out of the root.

Refuses to know about pixels beyond checking that masks fit their images, and about training.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from zsad.image_files import DataError, image_size, is_lossy_mask, load_mask

logger = logging.getLogger(__name__)

Layout = Literal["mvtec", "folder", "jsonl", "meta"]
Split = Literal["train", "test"]
Warn = Callable[[str], None]
Progress = Callable[[int, int], None]
"""Called with (done, total) after every item."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
NORMAL_FOLDERS = ("good", "ok", "normal")
ABNORMAL_FOLDERS = ("abnormal", "anomalous", "anomaly", "bad", "defect", "defective", "ng")
MASK_FOLDERS = ("mask", "masks", "ground_truth")


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        category: Product as the data set names it ("metal_nut"); metrics are per category.
        class_name: The noun for prompts ("metal nut").
        mask_path: Pixel label; None for normal images and for anomalous ones without one.
        defect: Kind of defect, "good" for normal images.
    """

    image_path: Path
    category: str
    class_name: str
    is_anomalous: bool
    mask_path: Path | None
    defect: str


def read_dataset(
    root: Path, layout: Layout, split: Split = "test", *, warn: Warn | None = None
) -> list[Sample]:
    """List a data set's samples, sorted by category, defect and path; opens no image.

    Layouts:
        mvtec: ROOT/<category>/<split>/<defect>/*, masks in
            ROOT/<category>/ground_truth/<defect>/<stem>_mask.png (or <stem>.png).
        folder: ROOT[/<category>]/normal/*, abnormal/*, mask/<stem>[_mask].png. It has no
            splits: everything is "test".
        jsonl: ROOT/<split>.jsonl or the only .jsonl of ROOT (AA-CLIP's form: image_path, label,
            class_name, mask_path; paths relative to ROOT).
        meta: ROOT/meta.json (AnomalyCLIP's form).

    Args:
        warn: Receives sentences a person must see (anomalous images without masks, folders
            left out, an invented split); they are logged as warnings when it is None.

    Raises:
        DataError: nothing usable there, a listed file is missing, or a path leaves ROOT.
    """
    warn = warn or _log_warning
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give the folder that holds the data set")
    match layout:
        case "mvtec":
            samples = _read_mvtec(root, split, warn)
        case "folder":
            samples = _read_folder(root, split, warn)
        case "jsonl":
            samples = _read_jsonl(root, split, warn)
        case "meta":
            samples = _read_meta(root, split)
        case _:
            assert_never(layout)
    if not samples:
        raise DataError(f"{root} holds no {split} images in layout {layout}: check --layout")
    for message in _missing_mask_warnings(samples):
        warn(message)
    return sorted(samples, key=lambda s: (s.category, s.is_anomalous, s.defect, str(s.image_path)))


def check_samples(
    samples: Sequence[Sample], *, warn: Warn | None = None, progress: Progress | None = None
) -> None:
    """Open every image's header and every mask before hours are spent on them.

    Raises:
        DataError: an image is no image, or a mask is unreadable, empty or of another size.
    """
    warn = warn or _log_warning
    n_lossy = 0
    for done, sample in enumerate(samples, start=1):
        size = image_size(sample.image_path)
        if sample.mask_path is not None:
            mask = load_mask(sample.mask_path)
            mask_size = (mask.shape[1], mask.shape[0])
            if mask_size != size:
                raise DataError(
                    f"mask {sample.mask_path} is {mask_size[0]} x {mask_size[1]} pixels, its image "
                    f"{sample.image_path} {size[0]} x {size[1]}: make them equal"
                )
            if not np.any(mask):
                raise DataError(
                    f"mask {sample.mask_path} marks no pixel, but its image is labelled anomalous: "
                    "mark the defect, or remove the mask or the image"
                )
            n_lossy += is_lossy_mask(sample.mask_path)
        if progress is not None:
            progress(done, len(samples))
    if n_lossy:
        warn(f"{n_lossy} masks are JPEG or WebP, read as anomalous above 127: better save as PNG")


def limit_per_category(samples: Iterable[Sample], limit: int) -> list[Sample]:
    """At most `limit` samples of each category, normal and anomalous in turn, spread evenly.

    A category keeps both labels when it has both and limit is at least 2. Order is kept.
    """
    by_key: dict[tuple[str, bool], list[Sample]] = {}
    for sample in samples:
        by_key.setdefault((sample.category, sample.is_anomalous), []).append(sample)
    kept = []
    for category in sorted({category for category, _ in by_key}):
        normal, anomalous = by_key.get((category, False), []), by_key.get((category, True), [])
        n_anomalous = min(len(anomalous), max(limit - len(normal), (limit + 1) // 2))
        kept += _spread(normal, limit - n_anomalous) + _spread(anomalous, n_anomalous)
    return kept


def prompt_noun(category: str) -> str:
    """The noun for prompts: underscores become spaces (preset `paper`)."""
    return " ".join(category.replace("_", " ").split())


# --- mvtec and folder ---


def _read_mvtec(root: Path, split: Split, warn: Warn) -> list[Sample]:
    if (root / split).is_dir() and not _has_split_below(root, split):
        raise DataError(f"{root} looks like one category: give its parent, {root.resolve().parent}")
    samples = []
    for folder in _folders(root, root):
        if not (folder / split).is_dir():
            warn(f"{folder} has no folder {split}: left out")
            continue
        for defect in _folders(folder / split, root):
            is_anomalous = defect.name.casefold() not in NORMAL_FOLDERS
            masks = folder / "ground_truth" / defect.name
            samples += [
                Sample(
                    image_path=image,
                    category=folder.name,
                    class_name=prompt_noun(folder.name),
                    is_anomalous=is_anomalous,
                    mask_path=_mask_of(image, masks, root) if is_anomalous else None,
                    defect=defect.name if is_anomalous else "good",
                )
                for image in _images(defect, root)
            ]
    return samples


def _has_split_below(root: Path, split: Split) -> bool:
    return any((folder / split).is_dir() for folder in root.iterdir() if folder.is_dir())


def _read_folder(root: Path, split: Split, warn: Warn) -> list[Sample]:
    if split == "train":
        raise DataError(f"{root}: layout folder has no training split: use split test")
    known = {*NORMAL_FOLDERS, *ABNORMAL_FOLDERS, *MASK_FOLDERS}
    folders = _folders(root, root)
    is_one_category = any(folder.name.casefold() in known for folder in folders)
    categories = [root] if is_one_category else folders
    samples = [sample for folder in categories for sample in _read_category(folder, root, warn)]
    if samples:
        warn(f"{root}: layout folder has no splits; all {len(samples)} images are taken as test")
    return samples


def _read_category(folder: Path, root: Path, warn: Warn) -> list[Sample]:
    name = folder.resolve().name
    samples = []
    masks = [child for child in _folders(folder, root) if child.name.casefold() in MASK_FOLDERS]
    for child in _folders(folder, root):
        word = child.name.casefold()
        if word in MASK_FOLDERS:
            continue
        if word not in NORMAL_FOLDERS and word not in ABNORMAL_FOLDERS:
            warn(f"{child} is neither normal ({NORMAL_FOLDERS}) nor one of {ABNORMAL_FOLDERS}")
            continue
        is_anomalous = word in ABNORMAL_FOLDERS
        for image in _images(child, root):
            found = [mask for m in masks if (mask := _mask_of(image, m, root))]
            samples.append(
                Sample(
                    image_path=image,
                    category=name,
                    class_name=prompt_noun(name),
                    is_anomalous=is_anomalous,
                    mask_path=found[0] if is_anomalous and found else None,
                    defect=word if is_anomalous else "good",
                )
            )
    return samples


# --- jsonl and meta ---


class _JsonlEntry(BaseModel):
    """One line of AA-CLIP's list; other keys are left to their owner."""

    model_config = ConfigDict(frozen=True)
    image_path: str = Field(min_length=1)
    label: float  # 0 or 1; released lists write 1.0
    class_name: str = Field(min_length=1)
    mask_path: str | None = None


class _MetaEntry(BaseModel):
    """One image of AnomalyCLIP's meta.json."""

    model_config = ConfigDict(frozen=True)
    img_path: str = Field(min_length=1)
    mask_path: str | None = None
    cls_name: str = Field(min_length=1)
    specie_name: str = ""
    anomaly: float


_META = TypeAdapter(dict[str, dict[str, list[_MetaEntry]]])


def _read_jsonl(root: Path, split: Split, warn: Warn) -> list[Sample]:
    path = root / f"{split}.jsonl"
    if not path.is_file():
        lists = sorted(root.glob("*.jsonl"))
        if len(lists) != 1:
            raise DataError(
                f"{root} has no {split}.jsonl and {len(lists)} other .jsonl files: name one "
                f"{split}.jsonl"
            )
        path = lists[0]
        warn(f"{path} is taken as split {split}, for there is no {split}.jsonl")
    samples = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = _JsonlEntry.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"{path} line {number}: {_first(error)}: correct the line") from error
        where = f"{path} line {number}"
        is_anomalous = _label(entry.label, where)
        samples.append(
            Sample(
                image_path=_listed(root, entry.image_path, where),
                category=entry.class_name,
                class_name=prompt_noun(entry.class_name),
                is_anomalous=is_anomalous,
                mask_path=_listed(root, entry.mask_path, where)
                if is_anomalous and entry.mask_path
                else None,
                defect="anomalous" if is_anomalous else "good",
            )
        )
    return samples


def _read_meta(root: Path, split: Split) -> list[Sample]:
    path = root / "meta.json"
    try:
        splits = _META.validate_json(_text(path))
    except ValidationError as error:
        raise DataError(f"{path}: {_first(error)}: correct the file") from error
    if split not in splits:
        raise DataError(f"{path} has no split {split!r}, only {sorted(splits)}")
    samples = []
    for category, entries in splits[split].items():
        for number, entry in enumerate(entries):
            where = f"{path}, {split}.{category}[{number}]"
            is_anomalous = _label(entry.anomaly, where)
            samples.append(
                Sample(
                    image_path=_listed(root, entry.img_path, where),
                    category=entry.cls_name,
                    class_name=prompt_noun(entry.cls_name),
                    is_anomalous=is_anomalous,
                    mask_path=_listed(root, entry.mask_path, where)
                    if is_anomalous and entry.mask_path
                    else None,
                    defect=(entry.specie_name or "anomalous") if is_anomalous else "good",
                )
            )
    return samples


def _label(value: float, where: str) -> bool:
    if value not in (0, 1):
        raise DataError(f"{where}: label is {value}, must be 0 (normal) or 1 (anomalous)")
    return value == 1


def _first(error: ValidationError) -> str:
    """The first complaint of a validation, with its place."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): check --data and --layout") from error


# --- paths ---


def _inside(root: Path, path: Path, where: str) -> Path:
    """`path`, refused when it or a link on its way leads out of root."""
    real_root = os.path.realpath(root)
    if os.path.commonpath([real_root, os.path.realpath(path)]) != real_root:
        raise DataError(f"{where}: {path} leads out of {root}: copy the file into the data set")
    return path


def _listed(root: Path, name: str, where: str) -> Path:
    """A file that a list names, relative to root."""
    path = _inside(root, root / name, where)
    if not path.is_file():
        raise DataError(f"{where}: {path} does not exist: correct the list or restore the file")
    return path


def _folders(parent: Path, root: Path) -> list[Path]:
    return sorted(
        _inside(root, child, str(parent))
        for child in parent.iterdir()
        if child.is_dir() and not child.name.startswith(".")
    )


def _images(folder: Path, root: Path) -> list[Path]:
    return sorted(
        _inside(root, child, str(folder))
        for child in folder.iterdir()
        if child.suffix.casefold() in IMAGE_SUFFIXES and not child.name.startswith(".")
    )


def _mask_of(image: Path, folder: Path, root: Path) -> Path | None:
    """The mask of an image: <stem>_mask.* before <stem>.*, PNG before the rest."""
    for stem in (f"{image.stem}_mask", image.stem):
        for suffix in (".png", *sorted(IMAGE_SUFFIXES - {".png"})):
            mask = folder / f"{stem}{suffix}"
            if mask.is_file():
                return _inside(root, mask, str(folder))
    return None


# --- what a person must know ---


def _missing_mask_warnings(samples: Iterable[Sample]) -> list[str]:
    anomalous = [sample for sample in samples if sample.is_anomalous]
    total = Counter(sample.category for sample in anomalous)
    missing = Counter(sample.category for sample in anomalous if sample.mask_path is None)
    return [
        f"{category}: {missing[category]} of {total[category]} anomalous images have no mask "
        "and no part in pixel metrics"
        for category in sorted(missing)
    ]


def _log_warning(message: str) -> None:
    logger.warning("data set warning", extra={"detail": message})


def _spread(samples: Sequence[Sample], n: int) -> list[Sample]:
    """N of the samples at even distances (all, if there are fewer)."""
    n = min(n, len(samples))
    return [samples[i * len(samples) // n] for i in range(n)]
