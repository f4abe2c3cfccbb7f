"""What a published data set is: where it comes from, how it is read, how many images it must have.

Refuses to know which data sets there are (`zsad.datasets.catalogue`) and to download anything.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zsad.data import Progress, Sample, Warn, in_order, log_warning
from zsad.image_files import DataError

DatasetName = Literal[
    "mvtec_ad",
    "visa",
    "sdd",
    "btad",
    "mpdd",
    "aitex",
    "dagm",
    "dtd_synthetic",
    "elpv",
    "brain_mri",
    "head_ct",
    "lag",
    "br35h",
    "cvc_colondb",
    "cvc_clinicdb",
    "kvasir",
    "endo",
    "isic",
    "tn3k",
    "cvc_300",
    "bmad_brain",
    "bmad_liver",
    "bmad_retina",
]


@dataclass(frozen=True, slots=True)
class Counts:
    """Test images."""

    normal: int
    anomalous: int

    def __str__(self) -> str:
        return f"{self.normal} normal + {self.anomalous} anomalous"


@dataclass(frozen=True, slots=True)
class Category:
    """One product of a data set.

    Attributes:
        name: As in the set's folders and the papers' tables.
        class_name: The noun for prompts.
        counts: Test images; None where only the whole set's are known.
    """

    name: str
    class_name: str
    counts: Counts | None = None


Adapter = Callable[[Path, Sequence[Category]], list[Sample]]
"""(folder of the data set, its categories) -> test samples; opens no image."""
Prepare = Callable[[Path, Path, Warn, Progress], None]
"""(download, new folder, warn, progress): writes what the papers test on where that is not files
of the download but parts of them."""


@dataclass(frozen=True, slots=True)
class NamedDataset:
    """A published data set with the test split of the papers.

    Attributes:
        name: For command lines.
        title: The papers' word.
        licence: As its publishers state it.
        home: Page of the publishers.
        download: What to take from there.
        folder: Where to put it, relative to the data root.
        layout: What the folder must look like.
        bytes_estimate: Roughly, unpacked.
        adapter: Lists its test samples.
        total: Test images that the public download gives.
        published: Test images in the papers' table.
        deviation: What differs from the papers' test split; empty if nothing does.
        masks: all: every anomalous image has one; none: image level only.
        prepare: See `Prepare`; None where the download is read as it is.
    """

    name: DatasetName
    title: str
    domain: Literal["industrial", "medical"]
    licence: str
    home: str
    download: str
    folder: str
    layout: str
    bytes_estimate: int
    categories: tuple[Category, ...]
    adapter: Adapter
    total: Counts
    published: Counts
    deviation: str = ""
    masks: Literal["all", "none"] = "all"
    prepare: Prepare | None = None

    @property
    def has_normal(self) -> bool:
        """False: nothing but anomalous images, so there are no image-level metrics."""
        return self.total.normal > 0

    @property
    def expected_counts(self) -> dict[str, Counts]:
        """Test images of each category whose own number is known."""
        counts = {category.name: category.counts for category in self.categories}
        if len(self.categories) == 1:
            return {self.categories[0].name: self.total}
        return {name: count for name, count in counts.items() if count is not None}

    @property
    def read_folder(self) -> str:
        """The folder that is read, relative to the data root."""
        return self.folder if self.prepare is None else f"{self.folder}_crops"

    def is_present(self, data_root: Path) -> bool:
        """Whether its folder is there, complete or not."""
        return (data_root / self.read_folder).is_dir()

    def read(
        self, data_root: Path, *, warn: Warn | None = None, allow_other_counts: bool = False
    ) -> list[Sample]:
        """List the test samples, in the order of `in_order`; opens no image.

        Args:
            data_root: Folder in which `folder` is.
            warn: Receives what a person must see; logged when None.
            allow_other_counts: Say what differs from the expected numbers instead of refusing.

        Raises:
            DataError: it is not there, incomplete, or a file is listed twice.
        """
        warn = warn or log_warning
        if not self.is_present(data_root):
            raise DataError(self._not_there(data_root))
        folder = data_root / self.read_folder
        samples = in_order(self.adapter(folder, self.categories))
        if not samples:
            raise DataError(
                f"{folder} holds no test images of {self.title}: expected {self.layout}"
            )
        _refuse_repeated(samples)
        if found := complaints(self, samples):
            message = f"{self.title} in {folder}: " + "; ".join(found)
            if not allow_other_counts:
                raise DataError(f"{message}. Compare with {self.home}, or allow other counts")
            warn(message)
        if self.deviation:
            warn(f"{self.title}: {self.deviation}")
        return samples

    def make_ready(self, data_root: Path, *, warn: Warn, progress: Progress) -> None:
        """Write the crops that the papers test on; the download is left as it is.

        Raises:
            DataError: the download is not there or damaged, the crops already exist or cannot
                be written, or this data set has none.
        """
        if self.prepare is None:
            raise DataError(f"{self.title} is read as it is: there is nothing to prepare")
        source, target = data_root / self.folder, data_root / self.read_folder
        if not source.is_dir():
            raise DataError(self._how_to_get(data_root))
        if target.exists():
            raise DataError(f"{target} already exists: delete it to make it again")
        try:
            self.prepare(source, target, warn, progress)
        except OSError as error:
            raise DataError(
                f"{target} cannot be written ({error.strerror or error}): make room or correct "
                "the permissions"
            ) from error

    def _not_there(self, data_root: Path) -> str:
        if data_root.name == self.folder and data_root.is_dir():
            return f"{data_root} is {self.title} itself: give its parent {data_root.parent}"
        if self.prepare is not None and (data_root / self.folder).is_dir():
            return (
                f"{data_root / self.read_folder} is missing: the papers test on crops of "
                f"{self.title}; run once: zsad datasets {self.name} --data {data_root} --prepare"
            )
        return self._how_to_get(data_root)

    def _how_to_get(self, data_root: Path) -> str:
        return (
            f"{self.title} is not in {data_root / self.folder}: from {self.home} take "
            f"{self.download} (about {self.bytes_estimate / 1e9:.2g} GB, {self.licence}), so that "
            f"{self.folder} holds {self.layout}"
        )


def complaints(dataset: NamedDataset, samples: Sequence[Sample]) -> list[str]:
    """How samples differ from what the data set must have; empty if they do not."""
    found = {
        category: Counts(
            normal=sum(s.category == category and not s.is_anomalous for s in samples),
            anomalous=sum(s.category == category and s.is_anomalous for s in samples),
        )
        for category in dict.fromkeys(
            [c.name for c in dataset.categories] + [s.category for s in samples]
        )
    }
    expected = dataset.expected_counts
    messages = [
        f"{name}: found {found[name]}, expected {counts} ({_likely(found[name], counts)})"
        for name, counts in expected.items()
        if found[name] != counts
    ]
    messages += [
        f"{category.name}: no images (its folder is missing or has another name)"
        for category in dataset.categories
        if category.name not in expected and found[category.name] == Counts(0, 0)
    ]
    n_all = Counts(
        normal=sum(count.normal for count in found.values()),
        anomalous=sum(count.anomalous for count in found.values()),
    )
    if not messages and n_all != dataset.total:
        likely = _likely(n_all, dataset.total)
        messages.append(f"all: found {n_all}, expected {dataset.total} ({likely})")
    return messages + (_missing_masks(samples) if dataset.masks == "all" else [])


def _likely(found: Counts, expected: Counts) -> str:
    """What probably happened."""
    if found == Counts(0, 0):
        return "its folder is missing or has another name"
    more = (found.normal > expected.normal, found.anomalous > expected.anomalous)
    fewer = (found.normal < expected.normal, found.anomalous < expected.anomalous)
    if any(more) and any(fewer):
        return "images of one label lie in the other's folder, or this is another version"
    if any(more):
        return "files were added, the training split lies in it too, or this is another version"
    return "the download or its unpacking stopped early, or files were removed"


def _missing_masks(samples: Sequence[Sample]) -> list[str]:
    missing = Counter(s.category for s in samples if s.is_anomalous and s.mask_path is None)
    return [
        f"{category}: {count} anomalous images have no mask (masks were not unpacked or renamed)"
        for category, count in sorted(missing.items())
    ]


def _refuse_repeated(samples: Sequence[Sample]) -> None:
    for path, count in Counter(sample.image_path for sample in samples).items():
        if count > 1:
            raise DataError(f"{path} is listed {count} times: correct the data set's list")
