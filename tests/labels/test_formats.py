"""Every format: what is written is read again, and files of the tools themselves are understood."""

import base64
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from daemon.core import LabelVerdict
from daemon.labels import coco, cvat, label_studio, labelme, masks, mvtec
from daemon.labels.found import LabelFound, defect_name, image_key, settle
from daemon.labels.mask import Mask, decode_mask, encode_mask
from daemon.labels.picture import LabelledPicture
from zsad.image_files import DataError

OK, NG, UNCERTAIN = LabelVerdict
WIDTH, HEIGHT = 12, 9
PHOTO = cv2.imencode(".jpg", np.full((3, 4, 3), 90, np.uint8))[1].tobytes()
# made by pycocotools 2.0 of the mask in `pycocotools_mask`
PYCOCOTOOLS_COUNTS = "01Z6`0]JD[O5e0K[O5e07do1@"


def pycocotools_mask() -> Mask:
    mask = np.zeros((40, 60), dtype=np.bool_)
    mask[3:20, 5:9] = True
    mask[8:10, 6:8] = False
    mask[39, 59] = mask[0, 0] = True
    return mask


def picture(found: LabelFound, photo: bytes | None = PHOTO) -> LabelledPicture:
    return LabelledPicture(found, "fabric", WIDTH, HEIGHT, photo)


@st.composite
def labels(draw: st.DrawFn) -> list[LabelFound]:
    """Labels of different images, as an export writes them."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        verdict = draw(st.sampled_from(LabelVerdict))
        defect = mask_png = None
        if verdict is not OK:
            defect = draw(st.none() | st.sampled_from(["scratch", "Öl + Staub", "a.b-c_1", "孔"]))
            mask = draw(st.none() | arrays(np.bool_, (HEIGHT, WIDTH)))
            mask_png = None if mask is None or not mask.any() else encode_mask(mask)
        found.append(LabelFound(f"cam.1-7-{number}", verdict, defect, mask_png))
    return found


def sortable(found: Iterable[LabelFound]) -> list[tuple[object, ...]]:
    return sorted(
        (
            label.image,
            label.verdict,
            label.defect,
            None if label.mask_png is None else decode_mask(label.mask_png).tobytes(),
        )
        for label in found
    )


quick = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(found=labels())
@pytest.mark.parametrize("tool", [coco, labelme, label_studio, cvat])
def test_files_of_tools_hold_every_label(
    tmp_path_factory: pytest.TempPathFactory, found: list[LabelFound], tool: object
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    problems: list[str] = []

    written = tool.write(folder, map(picture, found))
    read = list(tool.read(folder, problems.append, None))

    assert (written, problems) == (len(found), [])
    assert sortable(read) == sortable(found)


@quick
@given(found=labels())
@pytest.mark.parametrize("tool", [masks, mvtec])
def test_folders_hold_what_they_can_and_name_the_rest(
    tmp_path_factory: pytest.TempPathFactory, found: list[LabelFound], tool: object
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    left_out: list[str] = []
    problems: list[str] = []

    written = tool.write(folder, map(picture, found), left_out.append)
    read = list(tool.read(folder, problems.append)) if written else []

    held = [label for label in found if not any(label.image in text for text in left_out)]
    if tool is masks:
        held = [LabelFound(label.image, label.verdict, None, label.mask_png) for label in held]
    assert (written, len(left_out), problems) == (len(held), len(found) - len(held), [])
    assert sortable(read) == sortable(held)
    assert all(label.verdict is not OK for label in found if label not in held) or tool is masks


def test_pictures_are_written_in_the_size_of_the_frame(tmp_path: Path) -> None:
    coco.write(tmp_path, [picture(LabelFound("a-1-1", OK)), picture(LabelFound("a-1-2", OK), None)])

    assert cv2.imread(str(tmp_path / "images" / "a-1-1.jpg")).shape == (HEIGHT, WIDTH, 3)
    assert not (tmp_path / "images" / "a-1-2.jpg").exists()


def test_a_coarse_mask_is_written_in_the_size_of_the_frame(tmp_path: Path) -> None:
    coarse = np.zeros((3, 4), dtype=np.bool_)
    coarse[1, 2] = True
    found = LabelFound("a-1-1", NG, None, encode_mask(coarse))

    masks.write(tmp_path, [picture(found)], pytest.fail)

    (read,) = masks.read(tmp_path, pytest.fail)
    assert read.mask_png is not None
    assert np.array_equal(decode_mask(read.mask_png), np.kron(coarse, np.ones((3, 3))) > 0)


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def coco_file(**changes: object) -> dict[str, object]:
    """A file as annotation tools write it, with things that we do not need."""
    return {
        "info": {"year": 2026},
        "licenses": [],
        "images": [
            {"id": 7, "file_name": "P-0001.png", "width": 60, "height": 40, "license": 0},
            {"id": 8, "file_name": "sub/P-0002.png", "width": 60, "height": 40},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 2,
                "segmentation": [[10.0, 10.0, 20.0, 10.0, 20.0, 15.0, 10.0, 15.0]],
                "area": 50.0,
                "bbox": [10, 10, 10, 5],
                "iscrowd": 0,
            }
        ],
        "categories": [{"id": 2, "name": "scratch", "supercategory": "defect"}],
    } | changes


def test_a_coco_file_of_polygons_leaves_out_what_nobody_marked(tmp_path: Path) -> None:
    path = write_json(tmp_path / "instances.json", coco_file())
    problems: list[str] = []

    (found,) = coco.read(path, problems.append, None)
    with_ok = list(coco.read(path, pytest.fail, OK))

    assert (found.image, found.verdict, found.defect) == ("P-0001", NG, "scratch")
    assert found.mask_png is not None
    mask = decode_mask(found.mask_png)
    assert (mask.shape, mask.sum(), mask[10:15, 10:20].all()) == ((40, 60), 50, True)
    assert problems == ["sub/P-0002.png: no annotation, and nobody said that it is OK"]
    assert with_ok[1] == LabelFound("P-0002", OK)


def test_run_lengths_of_pycocotools_are_read(tmp_path: Path) -> None:
    runs = {"size": [40, 60], "counts": PYCOCOTOOLS_COUNTS}
    marks = [{"image_id": 7, "category_id": 2, "segmentation": runs}]
    path = write_json(tmp_path / "a.json", coco_file(annotations=marks))

    (found,) = coco.read(path, lambda _: None, None)

    assert found.mask_png is not None
    assert np.array_equal(decode_mask(found.mask_png), pycocotools_mask())


def test_boxes_and_several_classes_become_one_label(tmp_path: Path) -> None:
    marks = [
        {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "segmentation": []},
        {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]},
    ]
    names = [{"id": 2, "name": "scratch"}, {"id": 3, "name": "hole"}]
    path = write_json(tmp_path / "a.json", coco_file(annotations=marks, categories=names))

    (found,) = coco.read(path, lambda _: None, None)

    assert found == LabelFound("P-0001", NG, "hole+scratch")


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ({"category_id": 9}, "category 9 is not in the file"),
        ({"segmentation": [[1, 2, 3, 4]]}, "polygon of 2 points"),
        ({"segmentation": [[]] * 1001}, "annotation of 1001 polygons, limit 1000"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "run lengths for height and width"),
        ({"segmentation": {"size": [40, 60], "counts": [1]}}, "sum up to 1"),
        ({"segmentation": {"size": [40, 60], "counts": "0o"}}, "end in the middle"),
        ({"segmentation": {"size": [40, 60], "counts": "~"}}, "'~' at the wrong place"),
        ({"segmentation": {"size": [40, 60], "counts": "o" * 99}}, "'o' at the wrong place"),
    ],
)
def test_a_bad_coco_mark_costs_its_image_only(
    tmp_path: Path, mark: dict[str, object], message: str
) -> None:
    bad = {"image_id": 8, "category_id": 2, "segmentation": []} | mark
    good = {"image_id": 7, "category_id": 2}
    path = write_json(tmp_path / "a.json", coco_file(annotations=[bad, good]))
    problems: list[str] = []

    (found,) = coco.read(path, problems.append, None)

    assert found.image == "P-0001"
    assert len(problems) == 1
    assert message in problems[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file: Invalid JSON"),
        ("[" * 100_000, "Invalid JSON: recursion limit"),
        ('{"images": [{"id": 1}]}', r"images.0.file_name: Field required \(3 such places\)"),
        ('{"images": [], "annotations": 3}', "annotations: Input should be a valid array"),
        (json.dumps(coco_file()).replace("10.0", "NaN", 1), "finite number"),
    ],
)
def test_a_file_that_is_no_coco_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)

    with pytest.raises(DataError, match=message):
        list(coco.read(tmp_path / "a.json", pytest.fail, None))


def labelme_file(*shapes: dict[str, object], **changes: object) -> dict[str, object]:
    """A file as LabelMe 5 saves it."""
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": [
            {"group_id": None, "description": "", "flags": {}, "mask": None, **shape}
            for shape in shapes
        ],
        "imagePath": "..\\pictures\\P-0001.png",
        "imageData": "AAAA",
        "imageHeight": 40,
        "imageWidth": 60,
    } | changes


def read_labelme(tmp_path: Path, content: object) -> tuple[list[LabelFound], list[str]]:
    problems: list[str] = []
    write_json(tmp_path / "P-0001.json", content)
    return list(labelme.read(tmp_path, problems.append, None)), problems


def test_labelme_shapes_become_one_mask(tmp_path: Path) -> None:
    part = cv2.imencode(".png", np.ones((2, 3), np.uint8))[1].tobytes()
    shapes: list[dict[str, object]] = [
        {"label": "scratch", "points": [[0, 0], [4, 0], [4, 2], [0, 2]], "shape_type": "polygon"},
        {"label": "scratch", "points": [[12, 32], [10, 30]], "shape_type": "rectangle"},
        {"label": "scratch", "points": [[30, 20], [30, 21]], "shape_type": "circle"},
        {"label": "scratch", "points": [[50, 5], [52, 6]], "shape_type": "mask"},
        {"label": "scratch", "points": [[1, 1]], "shape_type": "point"},
    ]
    shapes[3]["mask"] = base64.b64encode(part).decode()

    (found,), problems = read_labelme(tmp_path, labelme_file(*shapes))

    assert (found.image, found.verdict, found.defect) == ("P-0001", NG, "scratch")
    assert found.mask_png is not None
    mask = decode_mask(found.mask_png)
    areas = mask[:2, :4], mask[30:32, 10:12], mask[19:21, 29:31], mask[5:7, 50:53]
    assert [int(area.sum()) for area in areas] == [8, 4, 4, 6]
    assert (int(mask.sum()), problems) == (22, [])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"OK": True, "NG": False}, LabelFound("P-0001", OK)),
        ({"ng": True, "scratch": True}, LabelFound("P-0001", NG, "scratch")),
        ({"UNCERTAIN": True}, LabelFound("P-0001", UNCERTAIN)),
    ],
)
def test_labelme_flags_speak_of_the_whole_image(
    tmp_path: Path, flags: dict[str, bool], expected: LabelFound
) -> None:
    assert read_labelme(tmp_path, labelme_file(flags=flags)) == ([expected], [])


def of_shape(**shape: object) -> dict[str, object]:
    return labelme_file({"label": "scratch", "points": [[58, 38], [59, 39]], **shape})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (labelme_file(), "neither shapes nor a flag"),
        (labelme_file(flags={"OK": True, "NG": True}), "['NG', 'OK'] contradict each other"),
        (labelme_file(imageHeight=10**9), "60 x 1000000000 pixels"),
        (of_shape(label="../x", shape_type="line"), "defect name '../x'"),
        (of_shape(shape_type="cube"), "shape 'cube' of 2 points is not known"),
        (of_shape(shape_type="mask", mask="%%"), "no base64"),
        (of_shape(shape_type="mask", mask="AAAA"), "not a PNG"),
        (
            of_shape(
                shape_type="mask",
                mask=base64.b64encode(encode_mask(np.ones((3, 3), dtype=np.bool_))).decode(),
            ),
            "3 x 3 pixels at 58,38 does not lie inside",
        ),
        (labelme_file(*[{"label": "a", "points": []}] * 1001), "at most 1000 items"),
    ],
)
def test_a_bad_labelme_file_costs_its_image_only(
    tmp_path: Path, content: object, message: str
) -> None:
    write_json(tmp_path / "fine.json", labelme_file(flags={"OK": True}, imagePath="fine.jpg"))

    found, problems = read_labelme(tmp_path, content)

    assert found == [LabelFound("fine", OK)]
    assert len(problems) == 1
    assert message in problems[0]


@pytest.mark.parametrize("read", [masks.read, mvtec.read])
def test_a_link_out_of_the_folder_is_refused(
    tmp_path: Path, read: Callable[..., Iterable[LabelFound]]
) -> None:
    outside = tmp_path / "secret.png"
    cv2.imwrite(str(outside), np.ones((4, 4), np.uint8))
    folder = tmp_path / "labels" / "fabric" / "test" / "scratch"
    folder.mkdir(parents=True)
    (folder / "part1.png").symlink_to(outside)

    with pytest.raises(DataError, match="leads out of"):
        list(read(folder if read is masks.read else tmp_path / "labels", pytest.fail))


def test_a_damaged_mask_costs_its_image_only(tmp_path: Path) -> None:
    (tmp_path / "a_mask.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    cv2.imwrite(str(tmp_path / "b_mask.png"), np.zeros((4, 4), np.uint8))
    problems: list[str] = []

    assert list(masks.read(tmp_path, problems.append)) == [LabelFound("b", OK)]
    assert len(problems) == 1
    assert "a_mask.png cannot be read" in problems[0]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("P1.png", "P1"),
        ("../../etc/passwd", "passwd"),
        (r"C:\pictures\cam1-7-0.JPG", "cam1-7-0"),
        ("cam.1-7-0", "cam.1-7-0"),
        (".png", ".png"),
    ],
)
def test_only_the_last_part_of_an_image_name_counts(name: str, key: str) -> None:
    assert image_key(name) == key


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "a\\b", ".hidden", "x" * 65, "a\nb", "Good", "ng"]
)
def test_what_cannot_name_a_folder_cannot_name_a_defect(name: str) -> None:
    with pytest.raises(DataError, match="defect name"):
        defect_name(name)


def test_marks_win_over_ok_and_uncertain_wins_over_marks() -> None:
    assert settle("a", ["scratch"], said=OK) == LabelFound("a", NG, "scratch")
    assert settle("a", ["scratch"], said=UNCERTAIN) == LabelFound("a", UNCERTAIN, "scratch")
    assert settle("a", ["good", "unsure"]) == LabelFound("a", UNCERTAIN)
    assert settle("a", ["good"]) == LabelFound("a", OK)
    assert settle("a", []) is None


def test_too_many_marks_cost_their_image(tmp_path: Path) -> None:
    marks = [{"image_id": 7, "category_id": 2}] * (coco.MAX_MARKS + 1)
    path = write_json(tmp_path / "a.json", coco_file(annotations=marks))
    problems: list[str] = []

    assert list(coco.read(path, problems.append, None)) == []
    assert problems[0] == "P-0001.png: 1001 annotations, limit 1000 of an image"
