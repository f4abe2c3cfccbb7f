"""Readers of the four layouts: what they list, what they say and what they refuse."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from zsad.data import Sample, check_samples, limit_per_category, prompt_noun
from zsad.datasets.layouts import read_dataset
from zsad.image_files import DataError

Write = Callable[..., Path]


def no_warning(message: str) -> None:
    pytest.fail(f"unexpected warning: {message}")


def test_mvtec_lists_test_images_with_labels_and_masks(mvtec: Path) -> None:
    samples = read_dataset(mvtec, "mvtec", warn=no_warning)

    assert len(samples) == 12
    scratch = mvtec / "metal_nut" / "test" / "scratch" / "1.png"
    assert samples[10] == Sample(
        image_path=scratch,
        category="metal_nut",
        class_name="metal nut",
        is_anomalous=True,
        mask_path=mvtec / "metal_nut" / "ground_truth" / "scratch" / "1_mask.png",
        defect="scratch",
    )


def test_order_is_category_then_normal_first_then_path(mvtec: Path) -> None:
    samples = read_dataset(mvtec, "mvtec", warn=no_warning)

    keys = [(s.category, s.is_anomalous, s.defect, s.image_path.name) for s in samples]
    assert keys == sorted(keys)


def test_mvtec_train_split_is_all_normal(mvtec: Path) -> None:
    samples = read_dataset(mvtec, "mvtec", "train", warn=no_warning)

    assert len(samples) == 6
    assert not any(sample.is_anomalous for sample in samples)


@pytest.mark.parametrize("name", ["good", "ok", "normal", "OK"])
def test_every_word_for_normal_is_known(tmp_path: Path, write_image: Write, name: str) -> None:
    write_image(tmp_path / "felt" / "test" / name / "0.png")

    (sample,) = read_dataset(tmp_path, "mvtec", warn=no_warning)

    assert (sample.is_anomalous, sample.defect) == (False, "good")


def test_mask_without_suffix_is_found(
    tmp_path: Path, write_image: Write, write_mask: Write
) -> None:
    write_image(tmp_path / "felt" / "test" / "ko" / "0.png", has_defect=True)
    mask = write_mask(tmp_path / "felt" / "ground_truth" / "ko" / "0.png")

    (sample,) = read_dataset(tmp_path, "mvtec", warn=no_warning)

    assert sample.mask_path == mask


def test_missing_masks_are_said_with_their_number(mvtec: Path) -> None:
    (mvtec / "felt" / "ground_truth" / "scratch" / "2_mask.png").unlink()
    said: list[str] = []

    samples = read_dataset(mvtec, "mvtec", warn=said.append)

    assert said == [
        "felt: 1 of 3 anomalous images have no mask and no part in pixel metrics",
    ]
    assert sum(s.is_anomalous and s.mask_path is None for s in samples) == 1


def test_warnings_without_a_listener_are_logged(
    mvtec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (mvtec / "felt" / "ground_truth" / "scratch" / "2_mask.png").unlink()

    with caplog.at_level(logging.WARNING):
        read_dataset(mvtec, "mvtec")

    assert "1 of 3" in caplog.records[0].__dict__["detail"]


def test_a_folder_without_the_split_is_left_out_and_said(mvtec: Path) -> None:
    (mvtec / "docs").mkdir()
    said: list[str] = []

    samples = read_dataset(mvtec, "mvtec", warn=said.append)

    assert {sample.category for sample in samples} == {"felt", "metal_nut"}
    assert said == [f"{mvtec / 'docs'} has no folder test: left out"]


def test_a_category_given_as_root_is_refused_with_its_parent(mvtec: Path) -> None:
    with pytest.raises(DataError, match=rf"give its parent, {mvtec}"):
        read_dataset(mvtec / "felt", "mvtec", warn=no_warning)


def test_a_root_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        read_dataset(tmp_path / "nowhere", "mvtec")


def test_an_empty_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no test images in layout mvtec"):
        read_dataset(tmp_path, "mvtec")


def test_a_link_out_of_the_root_is_refused(mvtec: Path, tmp_path: Path, write_image: Write) -> None:
    outside = write_image(tmp_path / "outside.png")
    (mvtec / "felt" / "test" / "good" / "link.png").symlink_to(outside)

    with pytest.raises(DataError, match=r"link\.png leads out of"):
        read_dataset(mvtec, "mvtec", warn=no_warning)


def test_a_linked_folder_out_of_the_root_is_refused(mvtec: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (mvtec / "linked").symlink_to(tmp_path / "other", target_is_directory=True)

    with pytest.raises(DataError, match="linked leads out of"):
        read_dataset(mvtec, "mvtec", warn=no_warning)


def test_folder_layout_of_one_category(
    tmp_path: Path, write_image: Write, write_mask: Write
) -> None:
    root = tmp_path / "brass_ring"
    write_image(root / "normal" / "a.png")
    write_image(root / "abnormal" / "b.png", has_defect=True)
    mask = write_mask(root / "mask" / "b.png")
    said: list[str] = []

    normal, abnormal = read_dataset(root, "folder", warn=said.append)

    assert (normal.category, normal.class_name, normal.is_anomalous) == (
        "brass_ring",
        "brass ring",
        False,
    )
    assert (abnormal.is_anomalous, abnormal.mask_path) == (True, mask)
    assert said == [f"{root}: layout folder has no splits; all 2 images are taken as test"]


def test_folder_layout_of_two_categories(tmp_path: Path, write_image: Write) -> None:
    for category in ("a", "b"):
        write_image(tmp_path / category / "ok" / "0.png")
        write_image(tmp_path / category / "ng" / "0.png", has_defect=True)

    samples = read_dataset(tmp_path, "folder", warn=[].append)

    assert [(s.category, s.is_anomalous) for s in samples] == [
        ("a", False),
        ("a", True),
        ("b", False),
        ("b", True),
    ]


def test_folder_layout_says_which_folder_it_does_not_know(
    tmp_path: Path, write_image: Write
) -> None:
    write_image(tmp_path / "ok" / "0.png")
    write_image(tmp_path / "unsure" / "0.png")
    said: list[str] = []

    read_dataset(tmp_path, "folder", warn=said.append)

    assert any("unsure is neither normal" in message for message in said)


def test_folder_layout_has_no_training_split(tmp_path: Path, write_image: Write) -> None:
    write_image(tmp_path / "ok" / "0.png")

    with pytest.raises(DataError, match="no training split"):
        read_dataset(tmp_path, "folder", "train")


def write_jsonl(path: Path, *entries: dict[str, object]) -> None:
    path.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n", encoding="utf-8")


def test_jsonl_lists_images_labels_and_masks(
    tmp_path: Path, write_image: Write, write_mask: Write
) -> None:
    good = write_image(tmp_path / "img" / "0.png")
    bad = write_image(tmp_path / "img" / "1.png", has_defect=True)
    mask = write_mask(tmp_path / "gt" / "1.png")
    write_jsonl(
        tmp_path / "test.jsonl",
        {"image_path": "img/0.png", "label": 0.0, "class_name": "pipe_fryum", "mask_path": ""},
        {
            "image_path": "img/1.png",
            "label": 1.0,
            "class_name": "pipe_fryum",
            "mask_path": "gt/1.png",
        },
    )

    normal, anomalous = read_dataset(tmp_path, "jsonl", warn=no_warning)

    assert (normal.image_path, normal.mask_path, normal.class_name) == (good, None, "pipe fryum")
    assert (anomalous.image_path, anomalous.mask_path) == (bad, mask)


def test_the_only_list_of_another_name_is_taken_and_said(
    tmp_path: Path, write_image: Write
) -> None:
    write_image(tmp_path / "0.png")
    write_jsonl(
        tmp_path / "full-shot.jsonl", {"image_path": "0.png", "label": 0, "class_name": "a"}
    )
    said: list[str] = []

    read_dataset(tmp_path, "jsonl", warn=said.append)

    assert said == [
        f"{tmp_path / 'full-shot.jsonl'} is taken as split test, for there is no test.jsonl"
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", r"test\.jsonl line 1"),
        ("[" * 4096, r"test\.jsonl line 1"),
        ('{"label": 0, "class_name": "a"}', "image_path: Field required"),
        ('{"image_path": "0.png", "label": 2, "class_name": "a"}', "label is 2.0, must be 0"),
        ('{"image_path": "no.png", "label": 0, "class_name": "a"}', "does not exist"),
        ('{"image_path": "../0.png", "label": 0, "class_name": "a"}', "leads out of"),
        ('{"image_path": "/etc/hostname", "label": 0, "class_name": "a"}', "leads out of"),
    ],
)
def test_a_bad_jsonl_line_is_refused_with_its_place(
    tmp_path: Path, line: str, complaint: str
) -> None:
    (tmp_path / "test.jsonl").write_text(line, encoding="utf-8")

    with pytest.raises(DataError, match=complaint):
        read_dataset(tmp_path, "jsonl")


def test_meta_lists_images_labels_and_masks(
    tmp_path: Path, write_image: Write, write_mask: Write
) -> None:
    write_image(tmp_path / "cable" / "0.png")
    write_image(tmp_path / "cable" / "1.png", has_defect=True)
    mask = write_mask(tmp_path / "cable" / "1_mask.png")
    entry = {"cls_name": "cable", "mask_path": "", "specie_name": "good", "anomaly": 0}
    meta = {
        "train": {},
        "test": {
            "cable": [
                {**entry, "img_path": "cable/0.png"},
                {
                    **entry,
                    "img_path": "cable/1.png",
                    "mask_path": "cable/1_mask.png",
                    "specie_name": "cut",
                    "anomaly": 1,
                },
            ]
        },
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")

    normal, anomalous = read_dataset(tmp_path, "meta", warn=no_warning)

    assert (normal.is_anomalous, normal.defect) == (False, "good")
    assert (anomalous.defect, anomalous.mask_path) == ("cut", mask)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "no split 'test'"),
        ("[]", "meta.json"),
        ('{"test": {"a": [{}]}}', "test.a.0.img_path"),
    ],
)
def test_a_bad_meta_file_is_refused_with_its_place(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "meta.json").write_text(text, encoding="utf-8")

    with pytest.raises(DataError, match=complaint):
        read_dataset(tmp_path, "meta")


def test_check_passes_a_good_set_and_reports_progress(mvtec: Path) -> None:
    samples = read_dataset(mvtec, "mvtec", warn=no_warning)
    seen: list[tuple[int, int]] = []

    check_samples(samples, warn=no_warning, progress=lambda done, total: seen.append((done, total)))

    assert seen == [(i, 12) for i in range(1, 13)]


def test_check_refuses_a_mask_of_another_size(mvtec: Path, write_mask: Write) -> None:
    write_mask(mvtec / "felt" / "ground_truth" / "scratch" / "1_mask.png", side=41)

    with pytest.raises(DataError, match=r"1_mask\.png is 41 x 41 pixels, its image .* 40 x 40"):
        check_samples(read_dataset(mvtec, "mvtec"))


def test_check_refuses_an_empty_mask(mvtec: Path, write_mask: Write) -> None:
    write_mask(mvtec / "felt" / "ground_truth" / "scratch" / "1_mask.png", value=0)

    with pytest.raises(DataError, match=r"1_mask\.png marks no pixel"):
        check_samples(read_dataset(mvtec, "mvtec"))


def test_check_refuses_a_file_that_is_no_image(mvtec: Path) -> None:
    (mvtec / "felt" / "test" / "good" / "1.png").write_bytes(b"not a picture")

    with pytest.raises(DataError, match=r"good/1\.png cannot be read as an image"):
        check_samples(read_dataset(mvtec, "mvtec"))


def test_check_says_that_masks_are_lossy(
    tmp_path: Path, write_image: Write, write_mask: Write
) -> None:
    write_image(tmp_path / "felt" / "test" / "cut" / "0.png", has_defect=True)
    write_mask(tmp_path / "felt" / "ground_truth" / "cut" / "0_mask.jpg")
    said: list[str] = []

    check_samples(read_dataset(tmp_path, "mvtec"), warn=said.append)

    assert said == [
        "1 masks are JPEG or WebP, read as anomalous above 127: better save as PNG",
    ]


def test_limit_keeps_both_labels_of_every_category(mvtec: Path) -> None:
    samples = read_dataset(mvtec, "mvtec", warn=no_warning)

    kept = limit_per_category(samples, 2)

    assert [(s.category, s.is_anomalous) for s in kept] == [
        ("felt", False),
        ("felt", True),
        ("metal_nut", False),
        ("metal_nut", True),
    ]


def test_limit_fills_up_with_the_label_that_has_more(mvtec: Path) -> None:
    samples = [
        s for s in read_dataset(mvtec, "mvtec") if s.is_anomalous or "0" in s.image_path.stem
    ]

    kept = limit_per_category(samples, 4)

    assert [s.is_anomalous for s in kept if s.category == "felt"] == [False, True, True, True]


def test_a_limit_above_the_size_changes_nothing(mvtec: Path) -> None:
    samples = read_dataset(mvtec, "mvtec", warn=no_warning)

    assert limit_per_category(samples, 100) == samples


def test_prompt_noun_has_spaces_for_underscores() -> None:
    assert prompt_noun("metal_nut") == "metal nut"


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_bytes(b"\xff\xfe")

    with pytest.raises(DataError, match="cannot be read"):
        read_dataset(tmp_path, "meta")
