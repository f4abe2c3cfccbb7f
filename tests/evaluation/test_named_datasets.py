"""Published data sets by name: their official layouts read, their numbers of images held to."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from zsad.data import Sample, check_samples
from zsad.datasets.adapters import held_out
from zsad.datasets.catalogue import DATASET_NAMES, named_dataset
from zsad.datasets.named import Counts, DatasetName, NamedDataset, complaints
from zsad.image_files import DataError, image_size, load_image, load_mask

Write = Callable[..., Path]
FAPROMPT_TOTALS = {
    "visa": (962, 1200),
    "sdd": (286, 54),
    "btad": (451, 290),
    "mpdd": (176, 282),
    "aitex": (564, 183),
    "dagm": (6996, 1054),
    "dtd_synthetic": (357, 947),
    "elpv": (377, 715),
    "brain_mri": (98, 155),
    "head_ct": (100, 100),
    "lag": (786, 1711),
    "br35h": (1500, 1500),
    "cvc_colondb": (0, 380),
    "cvc_clinicdb": (0, 612),
    "kvasir": (0, 1000),
    "endo": (0, 200),
    "isic": (0, 379),
    "tn3k": (0, 614),
}
"""Zhu et al. 2024 (arXiv 2410.10289), tables 5 and 6."""


def no_warning(message: str) -> None:
    pytest.fail(f"unexpected warning: {message}")


def no_progress(done: int, total: int) -> None:
    assert done <= total


def small(name: DatasetName, normal: int, anomalous: int, *categories: str) -> NamedDataset:
    """The data set with few images, and these of its categories if it has many."""
    dataset = named_dataset(name)
    kept = tuple(
        replace(category, counts=None)
        for category in dataset.categories
        if category.name in categories or not categories
    )
    total = Counts(normal, anomalous)
    return replace(dataset, categories=kept, total=total, deviation="")


def labels(samples: list[Sample]) -> list[tuple[str, bool, str, bool]]:
    return [(s.category, s.is_anomalous, s.defect, s.mask_path is not None) for s in samples]


# --- the catalogue ---


@pytest.mark.parametrize("name", DATASET_NAMES)
def test_every_name_has_its_data_set(name: DatasetName) -> None:
    dataset = named_dataset(name)

    assert dataset.name == name
    assert dataset.home.startswith("https://")
    assert all((dataset.title, dataset.licence, dataset.download, dataset.folder, dataset.layout))
    assert dataset.has_normal == (dataset.total.normal > 0)


@pytest.mark.parametrize("name", DATASET_NAMES)
def test_counts_of_categories_add_up(name: DatasetName) -> None:
    dataset = named_dataset(name)
    counts = dataset.expected_counts

    if len(counts) == len(dataset.categories):
        assert sum(count.normal for count in counts.values()) == dataset.total.normal
        assert sum(count.anomalous for count in counts.values()) == dataset.total.anomalous


@pytest.mark.parametrize("name", FAPROMPT_TOTALS)
def test_totals_are_those_of_the_paper(name: DatasetName) -> None:
    dataset = named_dataset(name)

    assert dataset.total == dataset.published == Counts(*FAPROMPT_TOTALS[name])


def test_mvtec_differs_from_the_paper_by_one_tile() -> None:
    dataset = named_dataset("mvtec_ad")

    assert (dataset.total, dataset.published) == (Counts(467, 1258), Counts(467, 1257))
    assert dataset.expected_counts["tile"] == Counts(33, 84)
    assert "tile" in dataset.deviation


def test_folders_do_not_collide() -> None:
    folders = [named_dataset(name).folder for name in DATASET_NAMES]

    assert len(set(folders)) == len(folders)


# --- layouts ---


@pytest.mark.parametrize(
    ("name", "category", "good"),
    [("mvtec_ad", "tile", "good"), ("btad", "02", "ok"), ("dtd_synthetic", "Mesh_114", "good")],
)
def test_mvtec_tree_is_read(
    tmp_path: Path,
    write_image: Write,
    write_mask: Write,
    name: DatasetName,
    category: str,
    good: str,
) -> None:
    root = tmp_path / named_dataset(name).folder / category
    write_image(root / "train" / good / "9.png")
    write_image(root / "test" / good / "0.png")
    write_image(root / "test" / "crack" / "1.png", has_defect=True)
    write_mask(root / "ground_truth" / "crack" / "1_mask.png")

    samples = small(name, 1, 1, category).read(tmp_path, warn=no_warning)

    check_samples(samples, warn=no_warning)
    assert labels(samples) == [
        (category, False, "good", False),
        (category, True, "crack", True),
    ]


def test_every_known_category_must_be_there(
    tmp_path: Path, write_image: Write, write_mask: Write
) -> None:
    root = tmp_path / "MPDD" / "tubes"
    write_image(root / "test" / "good" / "0.png")
    write_image(root / "test" / "anomalous" / "1.png", has_defect=True)
    write_mask(root / "ground_truth" / "anomalous" / "1_mask.png")

    with pytest.raises(DataError, match=r"connector: no images \(its folder is missing"):
        small("mpdd", 1, 1).read(tmp_path)


@pytest.fixture
def visa(tmp_path: Path, write_image: Write, write_mask: Write) -> Path:
    root = tmp_path / "VisA_20220922"
    data = root / "candle" / "Data"
    write_image(data / "Images" / "Normal" / "0.JPG")
    write_image(data / "Images" / "Normal" / "1.JPG")
    write_image(data / "Images" / "Anomaly" / "0.JPG", has_defect=True)
    write_mask(data / "Masks" / "Anomaly" / "0.png", value=1)
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text(
        "object,split,label,image,mask\n"
        "candle,train,normal,candle/Data/Images/Normal/0.JPG,\n"
        "candle,test,normal,candle/Data/Images/Normal/1.JPG,\n"
        "candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png\n"
    )
    return root


def test_visa_is_read_by_its_list(visa: Path) -> None:
    samples = small("visa", 1, 1, "candle").read(visa.parent, warn=no_warning)

    check_samples(samples, warn=no_warning)
    assert labels(samples) == [
        ("candle", False, "good", False),
        ("candle", True, "anomaly", True),
    ]
    assert samples[0].image_path.name == "1.JPG"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("candle,test,normal,candle/Data/Images/Normal/1.JPG,", r"1\.JPG is listed 2 times"),
        ("candle,test,normal,../outside.png,", "leads out of"),
        ("candle,test,normal,candle/none.JPG,", "does not exist"),
        ("candle,test,broken,candle/Data/Images/Normal/0.JPG,", "'broken' is unknown"),
        ("lamp,test,normal,candle/Data/Images/Normal/0.JPG,", "'lamp', 'normal' is unknown"),
        ("candle,test", r"1cls\.csv line 5 has 2 words, not 5"),
    ],
)
def test_a_bad_line_of_visa_is_refused(visa: Path, line: str, complaint: str) -> None:
    path = visa / "split_csv" / "1cls.csv"
    path.write_text(path.read_text() + line + "\n")

    with pytest.raises(DataError, match=complaint):
        small("visa", 1, 1, "candle").read(visa.parent)


def test_dagm_takes_the_labelled_pictures_as_anomalous(
    tmp_path: Path, write_image: Write, write_mask: Write
) -> None:
    test = tmp_path / "DAGM" / "Class3" / "Test"
    write_image(test / "0001.PNG")
    write_image(test / "0002.PNG", has_defect=True)
    write_mask(test / "Label" / "0002_label.PNG")
    (test / "Label" / "Labels.txt").write_text("1\n")

    samples = small("dagm", 1, 1, "Class3").read(tmp_path, warn=no_warning)

    check_samples(samples, warn=no_warning)
    assert labels(samples) == [
        ("Class3", False, "good", False),
        ("Class3", True, "defect", True),
    ]


@pytest.mark.parametrize("inner", ["", "src/elpv_dataset/data"])
def test_elpv_leaves_uncertain_cells_out(tmp_path: Path, write_image: Write, inner: str) -> None:
    base = tmp_path / "elpv-dataset" / inner
    lines = []
    for number, probability in enumerate(("0.0", "1.0", "0.3333333333333333", "0.0", "0.0")):
        write_image(base / "images" / f"cell{number:04d}.png")
        lines.append(f"images/cell{number:04d}.png  {probability}  mono\n")
    (base / "labels.csv").write_text("".join(lines))

    samples = small("elpv", 1, 1).read(tmp_path, warn=no_warning)

    assert labels(samples) == [("elpv", False, "good", False), ("elpv", True, "mono", False)]


def test_head_ct_is_read_by_its_list(tmp_path: Path, write_image: Write) -> None:
    for number in range(2):
        write_image(tmp_path / "HeadCT" / "head_ct" / "head_ct" / f"{number:03d}.png")
    (tmp_path / "HeadCT" / "labels.csv").write_text("id, hemorrhage\n0,1\n1,0\n")

    samples = small("head_ct", 1, 1).read(tmp_path, warn=no_warning)

    assert [(s.image_path.name, s.is_anomalous) for s in samples] == [
        ("001.png", False),
        ("000.png", True),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"has columns \[\], not \['id', 'hemorrhage'\]"),
        ("id, hemorrhage\nx,1\n", "'x' is no number"),
        ("id, hemorrhage\nnan,1\n", "'nan' is no number"),
        ("id, hemorrhage\n0,2\n", "hemorrhage is 2.0, not 0 or 1"),
    ],
)
def test_a_bad_list_of_head_ct_is_refused(
    tmp_path: Path, write_image: Write, text: str, complaint: str
) -> None:
    write_image(tmp_path / "HeadCT" / "head_ct" / "head_ct" / "000.png")
    (tmp_path / "HeadCT" / "labels.csv").write_text(text)

    with pytest.raises(DataError, match=complaint):
        small("head_ct", 1, 1).read(tmp_path)


@pytest.mark.parametrize(
    ("name", "normal", "anomalous"),
    [
        ("brain_mri", "BrainMRI/no", "BrainMRI/yes"),
        ("br35h", "Br35H/no", "Br35H/yes"),
        ("lag", "LAG/non_glaucoma/image", "LAG/suspicious_glaucoma/image"),
    ],
)
def test_two_folders_are_two_labels(
    tmp_path: Path, write_image: Write, name: DatasetName, normal: str, anomalous: str
) -> None:
    write_image(tmp_path / normal / "a.jpg")
    write_image(tmp_path / anomalous / "b.jpg")
    write_image(tmp_path / "BrainMRI" / "brain_tumor_dataset" / "yes" / "b.jpg")

    samples = small(name, 1, 1).read(tmp_path, warn=no_warning)

    assert [(s.is_anomalous, s.mask_path) for s in samples] == [(False, None), (True, None)]


@pytest.mark.parametrize(
    ("name", "image", "mask"),
    [
        ("cvc_colondb", "CVC-ColonDB/images/7.png", "CVC-ColonDB/masks/7.png"),
        ("cvc_300", "CVC-300/images/7.png", "CVC-300/masks/7.png"),
        ("cvc_clinicdb", "CVC-ClinicDB/Original/7.tif", "CVC-ClinicDB/Ground Truth/7.tif"),
        ("cvc_clinicdb", "CVC-ClinicDB/PNG/Original/7.png", "CVC-ClinicDB/PNG/Ground Truth/7.png"),
        ("kvasir", "Kvasir-SEG/images/a7.jpg", "Kvasir-SEG/masks/a7.jpg"),
        (
            "endo",
            "EndoTect_2020_Segmentation_Test_Dataset/images/7.jpg",
            "EndoTect_2020_Segmentation_Test_Dataset/masks/7.jpg",
        ),
        (
            "isic",
            "ISIC2016/ISBI2016_ISIC_Part1_Test_Data/ISIC_0000003.jpg",
            "ISIC2016/ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000003_Segmentation.png",
        ),
        ("tn3k", "tn3k/test-image/0000.jpg", "tn3k/test-mask/0000.jpg"),
    ],
)
def test_image_and_mask_folders_are_paired(
    tmp_path: Path,
    write_image: Write,
    write_mask: Write,
    name: DatasetName,
    image: str,
    mask: str,
) -> None:
    write_image(tmp_path / image, has_defect=True)
    write_mask(tmp_path / mask)

    (sample,) = small(name, 0, 1).read(tmp_path, warn=no_warning)

    check_samples([sample], warn=lambda _: None)  # JPEG masks are said
    assert (sample.is_anomalous, sample.mask_path) == (True, tmp_path / mask)


@pytest.mark.parametrize(
    ("name", "good", "bad", "label"),
    [
        ("bmad_brain", "good/img", "Ungood/img", "Ungood/label"),
        ("bmad_retina", "good/img", "ungood/img", "ungood/label"),
        ("bmad_liver", "img/good", "img/Ungood", "label/Ungood"),
    ],
)
@pytest.mark.parametrize("is_nested", [False, True])
def test_bmad_is_read_in_both_orders_of_its_folders(
    tmp_path: Path,
    write_image: Write,
    write_mask: Write,
    name: DatasetName,
    good: str,
    bad: str,
    label: str,
    is_nested: bool,
) -> None:
    inner = {
        "bmad_brain": "BraTS2021_slice",
        "bmad_retina": "RESC",
        "bmad_liver": "hist_DIY",
    }[name]
    test = tmp_path / named_dataset(name).folder / (inner if is_nested else "") / "test"
    write_image(test / good / "0.png")
    write_image(test / bad / "1.png", has_defect=True)
    write_mask(test / label / "1.png")

    samples = small(name, 1, 1).read(tmp_path, warn=no_warning)

    check_samples(samples, warn=no_warning)
    assert [(s.is_anomalous, s.mask_path is not None) for s in samples] == [
        (False, False),
        (True, True),
    ]


# --- crops ---


@pytest.fixture
def sdd(tmp_path: Path) -> Path:
    """Two pictures of 10 x 30 pixels; the second is marked in its lowest third."""
    folder = tmp_path / "KolektorSDD" / "kos01"
    folder.mkdir(parents=True)
    for part in range(2):
        picture = np.repeat(np.arange(30, dtype=np.uint8)[:, None] * 5, 10, axis=1)
        mask = np.zeros((30, 10), np.uint8)
        mask[25:, 5:] = 255 * part
        PIL.Image.fromarray(picture).save(folder / f"Part{part}.jpg", quality=100)
        PIL.Image.fromarray(mask).save(folder / f"Part{part}_label.bmp")
    return tmp_path


def test_sdd_is_cut_in_three_and_labelled_by_its_mask(sdd: Path) -> None:
    dataset = small("sdd", 2, 1)

    dataset.make_ready(sdd, warn=no_warning, progress=no_progress)
    samples = dataset.read(sdd, warn=no_warning)

    check_samples(samples, warn=no_warning)
    (anomalous,) = (s for s in samples if s.is_anomalous)
    assert anomalous.image_path.name == "kos01_Part1_2.png"
    pixels = load_image(anomalous.image_path)
    assert pixels.shape == (10, 10, 3)
    assert abs(int(pixels[0, 0, 0]) - 100) <= 2
    assert anomalous.mask_path is not None
    assert load_mask(anomalous.mask_path).sum() == 25
    assert len([s for s in samples if not s.is_anomalous]) == 2  # a quarter of 5, rounded up


def test_crops_are_asked_for_when_they_are_missing(sdd: Path) -> None:
    with pytest.raises(DataError, match=r"run once: zsad datasets sdd --data .* --prepare"):
        named_dataset("sdd").read(sdd)


def test_crops_are_not_overwritten(sdd: Path) -> None:
    dataset = named_dataset("sdd")
    dataset.make_ready(sdd, warn=no_warning, progress=no_progress)

    with pytest.raises(DataError, match="KolektorSDD_crops already exists: delete it"):
        dataset.make_ready(sdd, warn=no_warning, progress=no_progress)


def test_crops_are_complete_or_absent(sdd: Path) -> None:
    damaged = sdd / "KolektorSDD" / "kos01" / "Part1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:400])

    with pytest.raises(DataError, match=r"Part1\.jpg cannot be read"):
        named_dataset("sdd").make_ready(sdd, warn=no_warning, progress=no_progress)

    assert not (sdd / "KolektorSDD_crops").exists()


def test_crops_that_cannot_be_written_are_one_sentence(sdd: Path) -> None:
    (sdd / ".KolektorSDD_crops.part").write_text("in the way")

    with pytest.raises(DataError, match="KolektorSDD_crops cannot be written"):
        named_dataset("sdd").make_ready(sdd, warn=no_warning, progress=no_progress)


def test_crops_need_masks_of_the_picture_s_size(sdd: Path, write_mask: Write) -> None:
    write_mask(sdd / "KolektorSDD" / "kos01" / "Part0_label.bmp")

    with pytest.raises(
        DataError, match=r"Part0_label\.bmp is 40 x 40 pixels, its image .* 10 x 30"
    ):
        named_dataset("sdd").make_ready(sdd, warn=no_warning, progress=no_progress)


def test_a_set_without_crops_has_nothing_to_prepare(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to prepare"):
        named_dataset("visa").make_ready(tmp_path, warn=no_warning, progress=no_progress)


@pytest.mark.parametrize("is_nested", [False, True])
def test_aitex_keeps_marked_squares_and_a_quarter_of_the_good_ones(
    tmp_path: Path, is_nested: bool
) -> None:
    def place(name: str) -> Path:
        folder = tmp_path / "AITEX" / name / (name if is_nested else "")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    strip, empty = np.full((256, 600), 90, np.uint8), np.zeros((256, 600), np.uint8)
    left, right = empty.copy(), empty.copy()
    left[10:20, 10:20] = 255
    right[10:20, 590:600] = 255
    good = place("NODefect_images") / "2306881-210020u"
    good.mkdir()
    PIL.Image.fromarray(np.full((256, 1024), 80, np.uint8)).save(good / "0001_000_00.png")
    for stem in ("0044_019_04", "0100_025_08", "0106_010_03"):
        PIL.Image.fromarray(strip).save(place("Defect_images") / f"{stem}.png")
    for number, mask in ((1, left), (2, right)):
        PIL.Image.fromarray(mask).save(place("Mask_images") / f"0044_019_04_mask{number}.png")
    PIL.Image.fromarray(empty).save(place("Mask_images") / "0106_010_03_mask.png")
    said: list[str] = []
    dataset = small("aitex", 1, 2)

    dataset.make_ready(tmp_path, warn=said.append, progress=no_progress)
    samples = dataset.read(tmp_path, warn=no_warning)

    check_samples(samples, warn=no_warning)
    assert [(s.image_path.stem, s.defect) for s in samples if s.is_anomalous] == [
        ("0044_019_04_0", "Fuzzyball"),
        ("0044_019_04_2", "Fuzzyball"),
    ]
    assert image_size(samples[-1].image_path) == (88, 256)
    assert [message.split("/")[-1] for message in said] == [
        "0100_025_08.png has no mask: left out, as in the papers",
        "0106_010_03_mask.png marks no pixel: its image is left out, as in the papers",
    ]


@given(n=st.integers(1, 3200))
def test_the_drawn_quarter_is_scikit_learn_s(n: int) -> None:
    items = list(range(n))

    drawn = held_out(items)

    expected = train_test_split(items, test_size=0.25, random_state=42)[1] if n > 1 else [0]
    assert drawn == sorted(expected)


@pytest.mark.parametrize(("n_normal", "n_test"), [(1143, 286), (2256, 564), (1508, 377)])
def test_a_quarter_of_the_public_sets_is_the_paper_s_number(n_normal: int, n_test: int) -> None:
    assert len(held_out(range(n_normal))) == n_test


# --- what is refused ---


def test_a_missing_set_says_what_to_download_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        named_dataset("mpdd").read(tmp_path)

    message = str(caught.value)
    assert str(tmp_path / "MPDD") in message
    assert "https://github.com/stepanje/MPDD" in message
    assert "1.8 GB, CC BY-NC-SA 4.0" in message


def test_the_set_itself_as_root_is_refused_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "MPDD").mkdir()

    with pytest.raises(DataError, match=rf"MPDD itself: give its parent {tmp_path}"):
        named_dataset("mpdd").read(tmp_path / "MPDD")


def test_an_unpacked_but_empty_folder_says_what_it_must_hold(tmp_path: Path) -> None:
    (tmp_path / "Kvasir-SEG").mkdir()

    with pytest.raises(DataError, match=r"holds no test images of Kvasir: expected images/\*"):
        named_dataset("kvasir").read(tmp_path)


def constructed(dataset: NamedDataset) -> Iterator[Sample]:
    """Samples in exactly the expected numbers, without files."""
    for name, counts in dataset.expected_counts.items():
        for number in range(counts.normal + counts.anomalous):
            is_anomalous = number >= counts.normal
            yield Sample(
                image_path=Path(f"{name}/{number}.png"),
                category=name,
                class_name=name,
                is_anomalous=is_anomalous,
                mask_path=Path(f"{name}/{number}_mask.png") if is_anomalous else None,
                defect="cut" if is_anomalous else "good",
            )


@pytest.mark.parametrize("name", [n for n in DATASET_NAMES if n != "dtd_synthetic"])
def test_the_expected_numbers_pass(name: DatasetName) -> None:
    dataset = named_dataset(name)

    assert complaints(dataset, list(constructed(dataset))) == []


def test_every_category_with_other_numbers_is_named() -> None:
    dataset = named_dataset("mvtec_ad")
    samples = [
        s
        for s in constructed(dataset)
        if s.category != "grid" and not (s.category == "tile" and s.image_path.stem == "40")
    ]

    assert complaints(dataset, samples) == [
        "grid: found 0 normal + 0 anomalous, expected 21 normal + 57 anomalous "
        "(its folder is missing or has another name)",
        "tile: found 33 normal + 83 anomalous, expected 33 normal + 84 anomalous "
        "(the download or its unpacking stopped early, or files were removed)",
    ]


def test_too_many_images_are_named() -> None:
    dataset = named_dataset("cvc_300")
    samples = list(constructed(dataset))
    samples.append(replace(samples[0], image_path=Path("copy.png")))

    (message,) = complaints(dataset, samples)

    assert "found 0 normal + 61 anomalous, expected 0 normal + 60 anomalous" in message
    assert "files were added" in message


def test_labels_mixed_up_are_guessed() -> None:
    dataset = named_dataset("head_ct")
    samples = list(constructed(dataset))
    samples[0] = replace(samples[0], is_anomalous=True)

    (message,) = complaints(dataset, samples)

    assert "images of one label lie in the other's folder" in message


def test_a_wrong_total_is_named_where_categories_have_no_numbers() -> None:
    dataset = named_dataset("dtd_synthetic")
    samples = [
        Sample(Path(f"{c.name}.png"), c.name, c.class_name, False, None, "good")
        for c in dataset.categories
    ]

    assert complaints(dataset, samples) == [
        "all: found 12 normal + 0 anomalous, expected 357 normal + 947 anomalous "
        "(the download or its unpacking stopped early, or files were removed)"
    ]


def test_missing_masks_are_named_where_all_must_be_there() -> None:
    dataset = named_dataset("isic")
    samples = [replace(sample, mask_path=None) for sample in constructed(dataset)]

    (message,) = complaints(dataset, samples)

    assert message.startswith("isic: 379 anomalous images have no mask")


def test_other_counts_are_refused_or_allowed_and_said(tmp_path: Path, write_image: Write) -> None:
    write_image(tmp_path / "Br35H" / "no" / "0.jpg")
    write_image(tmp_path / "Br35H" / "yes" / "0.jpg")
    dataset, said = named_dataset("br35h"), list[str]()

    with pytest.raises(DataError, match=r"found 1 normal \+ 1 anomalous, expected 1500 normal"):
        dataset.read(tmp_path)
    samples = dataset.read(tmp_path, warn=said.append, allow_other_counts=True)

    assert len(samples) == 2
    assert len(said) == 1
    assert "expected 1500 normal" in said[0]


def test_a_known_deviation_is_said(tmp_path: Path, write_image: Write, write_mask: Write) -> None:
    write_image(tmp_path / "tn3k" / "test-image" / "0.jpg")
    write_mask(tmp_path / "tn3k" / "test-mask" / "0.jpg")
    said: list[str] = []
    dataset = replace(named_dataset("tn3k"), total=Counts(0, 1))

    dataset.read(tmp_path, warn=said.append)

    assert said == [f"TN3K: {dataset.deviation}"]


def test_a_link_out_of_the_set_is_refused(tmp_path: Path, write_image: Write) -> None:
    outside = write_image(tmp_path / "outside.png")
    images = tmp_path / "CVC-300" / "images"
    images.mkdir(parents=True)
    (images / "0.png").symlink_to(outside)

    with pytest.raises(DataError, match=r"0\.png leads out of"):
        small("cvc_300", 0, 1).read(tmp_path)


def test_the_set_s_folder_may_be_a_link(
    tmp_path: Path, write_image: Write, write_mask: Write
) -> None:
    write_image(tmp_path / "elsewhere" / "images" / "0.png")
    write_mask(tmp_path / "elsewhere" / "masks" / "0.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "CVC-300").symlink_to(tmp_path / "elsewhere", target_is_directory=True)

    assert len(small("cvc_300", 0, 1).read(tmp_path / "root", warn=no_warning)) == 1


def test_a_mask_of_another_size_is_refused(
    tmp_path: Path, write_image: Write, write_mask: Write
) -> None:
    write_image(tmp_path / "CVC-300" / "images" / "0.png")
    write_mask(tmp_path / "CVC-300" / "masks" / "0.png", side=41)

    with pytest.raises(DataError, match=r"41 x 41 pixels, its image .* 40 x 40"):
        check_samples(small("cvc_300", 0, 1).read(tmp_path))
