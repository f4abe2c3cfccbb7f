"""A user's own data set in one of four layouts: one order, no path out of the root.

Refuses to know published data sets by name (`zsad.datasets.catalogue`).
"""

from pathlib import Path
from typing import Literal, assert_never

from zsad.data import Sample, Split, Warn, in_order, log_warning, missing_mask_warnings, prompt_noun
from zsad.datasets.lists import read_jsonl, read_meta
from zsad.datasets.paths import folders_of, images_of, mask_of
from zsad.image_files import DataError

Layout = Literal["mvtec", "folder", "jsonl", "meta"]

NORMAL_FOLDERS = ("good", "ok", "normal")
ABNORMAL_FOLDERS = ("abnormal", "anomalous", "anomaly", "bad", "defect", "defective", "ng")
MASK_FOLDERS = ("mask", "masks", "ground_truth")


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
    warn = warn or log_warning
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give the folder that holds the data set")
    match layout:
        case "mvtec":
            samples = _read_mvtec(root, split, warn)
        case "folder":
            samples = _read_folder(root, split, warn)
        case "jsonl":
            samples = read_jsonl(root, split, warn)
        case "meta":
            samples = read_meta(root, split)
        case _:
            assert_never(layout)
    if not samples:
        raise DataError(f"{root} holds no {split} images in layout {layout}: check --layout")
    for message in missing_mask_warnings(samples):
        warn(message)
    return in_order(samples)


def _read_mvtec(root: Path, split: Split, warn: Warn) -> list[Sample]:
    if (root / split).is_dir() and not _has_split_below(root, split):
        raise DataError(f"{root} looks like one category: give its parent, {root.resolve().parent}")
    samples = []
    for folder in folders_of(root, root):
        if not (folder / split).is_dir():
            warn(f"{folder} has no folder {split}: left out")
            continue
        for defect in folders_of(folder / split, root):
            is_anomalous = defect.name.casefold() not in NORMAL_FOLDERS
            masks = folder / "ground_truth" / defect.name
            samples += [
                Sample(
                    image_path=image,
                    category=folder.name,
                    class_name=prompt_noun(folder.name),
                    is_anomalous=is_anomalous,
                    mask_path=mask_of(image, masks, root) if is_anomalous else None,
                    defect=defect.name if is_anomalous else "good",
                )
                for image in images_of(defect, root)
            ]
    return samples


def _has_split_below(root: Path, split: Split) -> bool:
    return any((folder / split).is_dir() for folder in root.iterdir() if folder.is_dir())


def _read_folder(root: Path, split: Split, warn: Warn) -> list[Sample]:
    if split == "train":
        raise DataError(f"{root}: layout folder has no training split: use split test")
    known = {*NORMAL_FOLDERS, *ABNORMAL_FOLDERS, *MASK_FOLDERS}
    folders = folders_of(root, root)
    is_one_category = any(folder.name.casefold() in known for folder in folders)
    categories = [root] if is_one_category else folders
    samples = [sample for folder in categories for sample in _read_category(folder, root, warn)]
    if samples:
        warn(f"{root}: layout folder has no splits; all {len(samples)} images are taken as test")
    return samples


def _read_category(folder: Path, root: Path, warn: Warn) -> list[Sample]:
    name = folder.resolve().name
    samples = []
    masks = [child for child in folders_of(folder, root) if child.name.casefold() in MASK_FOLDERS]
    for child in folders_of(folder, root):
        word = child.name.casefold()
        if word in MASK_FOLDERS:
            continue
        if word not in NORMAL_FOLDERS and word not in ABNORMAL_FOLDERS:
            warn(f"{child} is neither normal ({NORMAL_FOLDERS}) nor one of {ABNORMAL_FOLDERS}")
            continue
        is_anomalous = word in ABNORMAL_FOLDERS
        for image in images_of(child, root):
            found = [mask for m in masks if (mask := mask_of(image, m, root))]
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
