"""Layouts in which published data sets are shipped, each as a function that lists test samples.

An adapter takes the data set's folder and its categories and opens no image. A folder that is not
there gives no samples; `complaints` of the data set then says what is missing. Refuses to know
which data set has which layout.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from zsad.data import Sample
from zsad.datasets.named import Adapter, Category
from zsad.datasets.paths import folders_of, images_of, inside, listed, text_of
from zsad.image_files import DataError

Item = TypeVar("Item")

GOOD = "good"
_NORMAL_FOLDERS = ("good", "ok")
_SPLIT_SEED, _HELD_OUT = 42, 0.25


def mvtec_tree(folder: Path, categories: Sequence[Category]) -> list[Sample]:
    """<category>/test/<defect>/*, ground_truth/<defect>/<stem>[_mask].* (MVTec AD, BTAD, MPDD)."""
    samples = []
    for category in categories:
        test = folder / category.name / "test"
        for defect in folders_of(test, folder) if test.is_dir() else []:
            if defect.name.casefold() in _NORMAL_FOLDERS:
                samples += _normal(category, images_of(defect, folder))
                continue
            masks = _by_stem(folder / category.name / "ground_truth" / defect.name, folder)
            images = images_of(defect, folder)
            samples += _anomalous(category, images, masks, ("_mask", ""), defect.name)
    return samples


def visa_csv(folder: Path, categories: Sequence[Category]) -> list[Sample]:
    """split_csv/1cls.csv with columns object, split, label, image, mask (VisA)."""
    path = folder / "split_csv" / "1cls.csv"
    by_name = {category.name: category for category in categories}
    samples = []
    for number, row in _csv_rows(path, ("object", "split", "label", "image", "mask")):
        if row["split"] != "test":
            continue
        where = f"{path} line {number}"
        category = by_name.get(row["object"])
        if category is None or row["label"] not in ("normal", "anomaly"):
            raise DataError(f"{where}: {row['object']!r}, {row['label']!r} is unknown: restore it")
        image = listed(folder, row["image"], where)
        if row["label"] == "normal":
            samples += _normal(category, [image])
        else:
            masks = {image.stem: listed(folder, row["mask"], where)} if row["mask"] else {}
            samples += _anomalous(category, [image], masks, ("",), "anomaly")
    return samples


def dagm_classes(folder: Path, categories: Sequence[Category]) -> list[Sample]:
    """<Class>/Test/<number>.PNG, Test/Label/<number>_label.PNG for the anomalous ones (DAGM)."""
    samples = []
    for category in categories:
        test = folder / category.name / "Test"
        labels = _by_stem(test / "Label", folder)
        images = images_of(test, folder) if test.is_dir() else []
        is_anomalous = [f"{image.stem}_label" in labels for image in images]
        pairs = list(zip(images, is_anomalous, strict=True))
        samples += _normal(category, [image for image, bad in pairs if not bad])
        bad_images = [image for image, bad in pairs if bad]
        samples += _anomalous(category, bad_images, labels, ("_label",), "defect")
    return samples


def elpv_csv(folder: Path, categories: Sequence[Category]) -> list[Sample]:
    """labels.csv: path, defect probability, mono or poly, parted by spaces (ELPV).

    It lies in src/elpv_dataset/data in newer versions of the repository, at its root in older ones.
    Probability 0 is normal, 1 anomalous; the uncertain cells between are left out. A quarter of
    the normal cells is the test split (`held_out`).
    """
    (category,) = categories
    newer = folder / "src" / "elpv_dataset" / "data"
    base = newer if newer.is_dir() else folder
    path = base / "labels.csv"
    normal, anomalous = [], []
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        words = line.split()
        if len(words) != 3:
            raise DataError(f"{path} line {number} has {len(words)} words, not 3: restore the file")
        image = listed(base, words[0], f"{path} line {number}")
        probability = _number(words[1], path, number)
        if probability == 0:
            normal.append(image)
        elif probability == 1:
            anomalous.append((image, words[2]))
    samples = _normal(category, held_out(normal))
    for image, kind in anomalous:
        samples += _anomalous(category, [image], {}, (), kind)
    return samples


def head_ct_csv(folder: Path, categories: Sequence[Category]) -> list[Sample]:
    """labels.csv with columns id, hemorrhage; head_ct[/head_ct]/<id, 3 digits>.png (HeadCT)."""
    (category,) = categories
    path = folder / "labels.csv"
    nested = folder / "head_ct" / "head_ct"
    place = "head_ct/head_ct" if nested.is_dir() else "head_ct"
    samples = []
    for number, row in _csv_rows(path, ("id", "hemorrhage")):
        where = f"{path} line {number}"
        name = f"{place}/{int(_number(row['id'], path, number)):03d}.png"
        image = listed(folder, name, where)
        match _number(row["hemorrhage"], path, number):
            case 0:
                samples += _normal(category, [image])
            case 1:
                samples += _anomalous(category, [image], {}, (), "hemorrhage")
            case other:
                raise DataError(f"{where}: hemorrhage is {other}, not 0 or 1: restore the file")
    return samples


def two_folders(*, normal: str, anomalous: str, normal_test_only: bool = False) -> Adapter:
    """One folder for each label, without masks (BrainMRI, Br35H, LAG).

    Args:
        normal_test_only: The normal folder holds the training images too; take `held_out`.
    """

    def adapter(folder: Path, categories: Sequence[Category]) -> list[Sample]:
        (category,) = categories
        good, bad = folder / normal, folder / anomalous
        images = images_of(good, folder) if good.is_dir() else []
        samples = _normal(category, held_out(images) if normal_test_only else images)
        defects = images_of(bad, folder) if bad.is_dir() else []
        return samples + _anomalous(category, defects, {}, (), "anomalous")

    return adapter


def image_mask_pairs(
    *places: tuple[str, str], mask_endings: tuple[str, ...] = ("",), defect: str
) -> Adapter:
    """A folder of anomalous images and one of their masks (colon sets, ISIC, TN3K).

    Args:
        places: (images, masks) relative to the data set; the first that exists is read.
        mask_endings: What a mask's stem has behind its image's.
    """

    def adapter(folder: Path, categories: Sequence[Category]) -> list[Sample]:
        (category,) = categories
        for images, masks in places:
            if (folder / images).is_dir():
                found = images_of(folder / images, folder)
                by_stem = _by_stem(folder / masks, folder)
                return _anomalous(category, found, by_stem, mask_endings, defect)
        return []

    return adapter


def bmad(inner: str) -> Adapter:
    """BMAD's sets with masks: test/good/img, test/Ungood/img, test/Ungood/label.

    Both orders of the folders are read (test/img/Ungood as in the liver archive), any case, with
    or without the folder `inner` of the archive. Masks carry the image's stem.
    """

    def adapter(folder: Path, categories: Sequence[Category]) -> list[Sample]:
        (category,) = categories
        base = folder / inner if (folder / inner).is_dir() else folder
        test = base / "test"
        good, bad, labels = (
            _either_order(test, folder, label, kind)
            for label, kind in (("good", "img"), ("ungood", "img"), ("ungood", "label"))
        )
        samples = _normal(category, images_of(good, folder) if good else [])
        if bad is not None:
            masks = _by_stem(labels, folder) if labels is not None else {}
            samples += _anomalous(category, images_of(bad, folder), masks, ("",), "anomalous")
        return samples

    return adapter


def held_out(items: Sequence[Item]) -> list[Item]:
    """The quarter of normal images that SDD, AITEX, ELPV and LAG are tested with, in order.

    These sets have no test split of normal images. The papers take theirs from earlier work on
    few-shot detection, whose scripts draw a quarter with scikit-learn's train_test_split and
    random_state 42; this draws the same numbers.
    """
    n_test = math.ceil(len(items) * _HELD_OUT)
    generator = np.random.RandomState(_SPLIT_SEED)  # the drawing to be met
    drawn = generator.permutation(len(items))[:n_test]
    return [items[index] for index in sorted(drawn)]


def _normal(category: Category, images: Iterable[Path]) -> list[Sample]:
    return [
        Sample(
            image_path=image,
            category=category.name,
            class_name=category.class_name,
            is_anomalous=False,
            mask_path=None,
            defect=GOOD,
        )
        for image in images
    ]


def _anomalous(
    category: Category,
    images: Iterable[Path],
    masks: Mapping[str, Path],
    endings: Sequence[str],
    defect: str,
) -> list[Sample]:
    """Samples with the mask whose stem is the image's and one of the endings, if any."""
    return [
        Sample(
            image_path=image,
            category=category.name,
            class_name=category.class_name,
            is_anomalous=True,
            mask_path=next(
                (masks[image.stem + e] for e in endings if image.stem + e in masks), None
            ),
            defect=defect,
        )
        for image in images
    ]


def _by_stem(folder: Path, root: Path) -> dict[str, Path]:
    """Image files by stem, PNG before other formats of the same stem."""
    images = images_of(folder, root) if folder.is_dir() else []
    return {path.stem: path for path in sorted(images, key=lambda p: p.suffix.casefold() == ".png")}


def _either_order(test: Path, root: Path, label: str, kind: str) -> Path | None:
    """test/<label>/<kind> or test/<kind>/<label>, in any case."""
    for outer, within in ((label, kind), (kind, label)):
        for parent in folders_of(test, root) if test.is_dir() else []:
            if parent.name.casefold() == outer:
                for child in folders_of(parent, root):
                    if child.name.casefold() == within:
                        return child
    return None


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterable[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV file with a header; spaces around words are dropped."""
    inside(path.parent, path, str(path))
    rows = csv.reader(text_of(path).splitlines())
    header = [word.strip() for word in next(rows, [])]
    if missing := [column for column in columns if column not in header]:
        raise DataError(f"{path} has columns {header}, not {missing}: restore the file")
    for number, words in enumerate(rows, start=2):
        if len(words) != len(header):
            raise DataError(f"{path} line {number} has {len(words)} words, not {len(header)}")
        yield number, dict(zip(header, (word.strip() for word in words), strict=True))


def _number(word: str, path: Path, line: int) -> float:
    """A finite number."""
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{path} line {line}: {word!r} is no number: restore the file")
    return number
