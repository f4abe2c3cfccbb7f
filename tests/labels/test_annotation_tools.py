"""Label Studio and CVAT: files as the tools write them are understood, bad ones cost one image."""

import contextlib
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from daemon.core import ImageFile, LabelVerdict
from daemon.labels import cvat, label_studio
from daemon.labels.brush import from_brush, to_brush
from daemon.labels.found import LabelFound
from daemon.labels.mask import Mask, decode_mask, encode_mask
from daemon.labels.picture import LabelledPicture
from zsad.image_files import DataError

OK, NG, UNCERTAIN = LabelVerdict
# by Label Studio's own encoder (label-studio-sdk 2.1.2) of 9 x 6 pixels: a box in orange from 2,1
# to 6,3 whose corners 2,1 and 6,3 have an alpha of 100 and 200
_ROW = [3, 76, 5, 64, 0, 0, 255]
_SECOND = [6, 152, 10, 128, 0, 1]
_THIRD = [13, 48, 21, 0, 0, 3]
LABEL_STUDIO_BRUSH = [
    *(0, 0, 0, 216, 57, 27, 254, 43, 0, 3, 76, 5, 64, 0, 0, 100),
    *(_ROW * 4),
    *(190, 0, *_SECOND, 254, *_SECOND, 254, *_SECOND, 254, *_SECOND, 254, *_SECOND, 255, 124, 0),
    *(*_THIRD, 252, *_THIRD, 252, *_THIRD, 252, *_THIRD, 252, *_THIRD, 35, 39, 128, 0),
]


def mask_of(found: LabelFound) -> Mask:
    assert found.mask_png is not None
    return decode_mask(found.mask_png)


@given(mask=arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_a_brush_holds_every_mask(mask: Mask) -> None:
    height, width = mask.shape

    assert np.array_equal(from_brush(to_brush(mask), width, height), mask)


def test_a_brush_of_label_studio_is_read_with_its_soft_edge() -> None:
    mask = from_brush(LABEL_STUDIO_BRUSH, 9, 6)

    expected = np.zeros((6, 9), dtype=np.bool_)
    expected[1:4, 2:7] = True
    expected[1, 2] = False
    assert np.array_equal(mask, expected)


@given(stream=st.lists(st.integers(-1, 256), max_size=60))
def test_hostile_brushes_raise_data_errors_only(stream: list[int]) -> None:
    for begin in ([], LABEL_STUDIO_BRUSH[:7]):
        with contextlib.suppress(DataError):  # a few bytes can be a valid end
            assert from_brush([*begin, *stream], 9, 6).shape == (6, 9)


def test_a_brush_that_is_cut_off_is_refused() -> None:
    with pytest.raises(DataError):
        from_brush(LABEL_STUDIO_BRUSH[:7], 9, 6)


def test_two_bytes_can_end_a_brush() -> None:
    assert from_brush([*LABEL_STUDIO_BRUSH[:7], 215, 0], 9, 6).shape == (6, 9)


def result(kind: str, region: str = "r1", **value: object) -> dict[str, object]:
    """A mark as Label Studio exports it, with fields that we do not need."""
    return {
        "original_width": 60,
        "original_height": 40,
        "image_rotation": 0,
        "value": value,
        "id": region,
        "from_name": "label",
        "to_name": "image",
        "type": kind,
        "origin": "manual",
    }


def task(*results: object, name: str = "P-0001.png", **changes: object) -> dict[str, object]:
    annotation = {
        "id": 6,
        "completed_by": 1,
        "result": results,
        "was_cancelled": False,
        "ground_truth": False,
        "updated_at": "2026-11-22T22:16:08.728378Z",
        "lead_time": 4.288,
    }
    return {
        "id": 5,
        "annotations": [annotation],
        "file_upload": f"3ad1f4b2-{name}",
        "drafts": [],
        "predictions": [],
        "data": {"image": f"/data/upload/2/3ad1f4b2-{name}"},
        "meta": {},
        "project": 83,
    } | changes


def read_tasks(tmp_path: Path, *tasks: object) -> tuple[list[LabelFound], list[str]]:
    problems: list[str] = []
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    return list(label_studio.read(tmp_path, problems.append, None)), problems


def test_marks_of_label_studio_become_one_mask(tmp_path: Path) -> None:
    box = {"x": 10.0, "y": 10.0, "width": 5.0, "height": 5.0, "rotation": 0}
    marks = [
        result("rectanglelabels", "a", **box, rectanglelabels=["scratch"]),
        result(
            "polygonlabels",
            "b",
            points=[[50, 50], [60, 50], [60, 60], [50, 60]],
            closed=True,
            polygonlabels=["scratch"],
        ),
        result("ellipselabels", "c", x=90, y=20, radiusX=5, radiusY=5, ellipselabels=["scratch"]),
        # a turned box: from its upper left corner, clockwise, it lies to the left and below
        result(
            "rectanglelabels", "d", **(box | {"x": 30.0, "rotation": 90}), rectanglelabels=["hole"]
        ),
        result("keypointlabels", "e", x=1, y=1, width=0.5, keypointlabels=["hole"]),
    ]

    (found,), problems = read_tasks(tmp_path, task(*marks))

    assert (found.image, found.verdict, found.defect) == ("P-0001", NG, "hole+scratch")
    mask = mask_of(found)
    assert mask.shape == (40, 60)
    areas = mask[4:6, 6:9], mask[20:24, 30:36], mask[6:10, 51:57], mask[4:7, 16:18]
    assert [int(area.sum()) for area in areas] == [6, 24, 20, 6]
    assert (int(mask.sum()), problems) == (56, [])


def test_a_brush_with_labels_apart_is_one_mark(tmp_path: Path) -> None:
    brush = result("brush", "a", format="rle", rle=LABEL_STUDIO_BRUSH)
    marks = [
        {**brush, "original_width": 9, "original_height": 6},
        result("labels", "a", labels=["scratch"]),
    ]

    (found,), _ = read_tasks(tmp_path, task(*marks))

    assert found.defect == "scratch"
    assert int(mask_of(found).sum()) == 14


def choices(*words: str) -> dict[str, object]:
    return result("choices", "c", choices=list(words))


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([choices("OK")], LabelFound("P-0001", OK)),
        ([choices("good")], LabelFound("P-0001", OK)),
        ([choices("NG"), choices("scratch")], LabelFound("P-0001", NG, "scratch")),
        ([choices("UNCERTAIN", "scratch")], LabelFound("P-0001", UNCERTAIN, "scratch")),
        ([choices("bad")], LabelFound("P-0001", NG)),
    ],
)
def test_choices_speak_of_the_whole_image(
    tmp_path: Path, results: list[dict[str, object]], expected: LabelFound
) -> None:
    assert read_tasks(tmp_path, task(*results)) == ([expected], [])


def test_the_newest_annotation_that_was_not_skipped_counts(tmp_path: Path) -> None:
    annotations = [
        {"result": [choices("NG")], "updated_at": "2026-01-02"},
        {"result": [choices("OK")], "updated_at": "2026-01-03"},
        {"result": [], "updated_at": "2026-01-04", "was_cancelled": True},
    ]

    found, _ = read_tasks(tmp_path, task(annotations=annotations))

    assert found == [LabelFound("P-0001", OK)]


@pytest.mark.parametrize(
    ("data", "image"),
    [
        ({"image": "/data/local-files/?d=images/cam1-7-1.jpg"}, "cam1-7-1"),
        ({"image": "/data/local-files/?d=cam1-7-1.jpg"}, "cam1-7-1"),
        ({"image": "https://host/a/cam1-7-1.jpg?X-Sign=a/b.jpg"}, "cam1-7-1"),
        ({"image": "s3://bucket/%C3%96l%20a.png", "text": "x"}, "Öl a"),
        ({"photo": "/data/upload/1/0123abcd-x.png", "n": 3}, "x"),
        ({"image": "s3://bucket/0123abcd-x.png"}, "0123abcd-x"),
    ],
)
def test_the_name_of_the_image_is_that_before_its_upload(
    tmp_path: Path, data: dict[str, object], image: str
) -> None:
    # as Label Studio 1.23.2 exports tasks that were imported as a file
    found, _ = read_tasks(
        tmp_path, task(choices("OK"), file_upload="8d1f3c0a-tasks.json", data=data)
    )

    assert found == [LabelFound(image, OK)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (task(), "P-0001.png: neither marks nor a choice"),
        (task(annotations=[]), "P-0001.png: nobody has submitted"),
        (task(data={"a": "x.png", "b": "y.png"}), "task 1: its data names no"),
        (task(choices("OK", "NG")), "['NG', 'OK'] contradict each other"),
        (
            task(result("rectanglelabels", x=1, y=1, width=2, height=2, rectanglelabels=["../x"])),
            "defect name '../x'",
        ),
        (
            task({**result("brushlabels", rle=[1, 2]), "original_width": None}),
            "without original_width",
        ),
        (task({**result("brushlabels", rle=[1, 2]), "image_rotation": 90}), "turned by 90 degrees"),
        (task(result("brushlabels", rle=[1, 2])), "brush ends after 2 bytes"),
        (task(result("polygonlabels", points=[[1, 2]])), "polygon of 1 points"),
        (
            task(result("brushlabels", rle=LABEL_STUDIO_BRUSH)),
            "brush of 216 values of 8 bits, 60 x 40 pixels need 9600",
        ),
    ],
)
def test_a_bad_task_costs_its_image_only(tmp_path: Path, bad: object, message: str) -> None:
    found, problems = read_tasks(tmp_path, bad, task(choices("OK"), name="fine.jpg"))

    assert found == [LabelFound("fine", OK)]
    assert len(problems) == 1
    assert message in problems[0]


def test_an_export_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0\.annotations: Field required"):
        read_tasks(tmp_path, {"image": "a.png", "id": 1, "label": []})


def picture(found: LabelFound, **changes: Any) -> LabelledPicture:
    return LabelledPicture(found, "fabric", 60, 40, None, **changes)


def test_a_setup_that_knows_every_written_name_is_written(tmp_path: Path) -> None:
    marked = LabelFound("a-1-1", NG, "Öl + Staub", encode_mask(np.ones((40, 60), dtype=np.bool_)))

    label_studio.write(tmp_path, [picture(marked), picture(LabelFound("a-1-2", NG, "hole"))])

    setup = ElementTree.parse(tmp_path / "labeling_setup.xml")  # noqa: S314 - we wrote it
    names = {element.get("name") for element in setup.iter() if element.get("name")}
    values = {element.get("value") for element in setup.iter()}
    for one in json.loads((tmp_path / "tasks.json").read_text()):
        for written in one["annotations"][0]["result"]:
            assert {written["from_name"], written["to_name"]} <= names
            value = written["value"]
            assert set(value.get("choices", []) + value.get("brushlabels", [])) <= values


@pytest.mark.parametrize("tool", [label_studio, cvat])
def test_whole_frames_are_written_byte_for_byte(tmp_path: Path, tool: Any) -> None:
    frame = ImageFile("png", b"as the camera sent it")

    tool.write(tmp_path, [picture(LabelFound("a-1-1", OK), frame=frame)])

    assert (tmp_path / "images" / "a-1-1.png").read_bytes() == frame.data
    assert list(tool.read(tmp_path, pytest.fail, None)) == [LabelFound("a-1-1", OK)]


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task><id>1</id><name>t</name><size>2</size><mode>annotation</mode>
      <labels><label><name>scratch</name><color>#fa3253</color><type>any</type></label></labels>
    </task>
    <dumped>2026-11-22 03:45:18.553526+00:00</dumped>
  </meta>
{images}
</annotations>
"""


def image(
    inside: str, name: str = "images/P-0001.png", size: str = 'width="60" height="40"'
) -> str:
    return f'  <image id="0" name="{name}" {size}>\n{inside}\n  </image>'


def read_xml(tmp_path: Path, *images: str) -> tuple[list[LabelFound], list[str]]:
    problems: list[str] = []
    (tmp_path / "annotations.xml").write_text(CVAT.format(images="\n".join(images)))
    return list(cvat.read(tmp_path, problems.append, None)), problems


def test_marks_of_cvat_become_one_mask(tmp_path: Path) -> None:
    inside = """
    <polygon label="scratch" source="manual" occluded="0"
             points="0.00,0.00;4.00,0.00;4.00,2.00;0.00,2.00" z_order="0">
      <attribute name="depth">deep</attribute>
    </polygon>
    <box label="scratch" source="manual" occluded="0" xtl="10.00" ytl="30.00" xbr="14.00"
         ybr="32.00" rotation="90.00" z_order="0">
    </box>
    <ellipse label="scratch" source="manual" occluded="0" cx="30.00" cy="20.00" rx="2.00"
             ry="2.00" z_order="0">
    </ellipse>
    <mask label="scratch" source="semi-auto" occluded="0" rle="1, 2, 1, 2" left="50" top="5"
          width="3" height="2" z_order="0">
    </mask>
    <points label="hole" source="manual" occluded="0" points="1.00,1.00" z_order="0">
    </points>"""

    (found,), problems = read_xml(tmp_path, image(inside))

    assert (found.image, found.verdict, found.defect) == ("P-0001", NG, "hole+scratch")
    mask = mask_of(found)
    areas = mask[:2, :4], mask[29:33, 11:13], mask[18:22, 28:32], mask[5:7, 50:53]
    assert [int(area.sum()) for area in areas] == [8, 8, 12, 4]
    assert areas[3].tolist() == [[False, True, True], [False, True, True]]
    assert (int(mask.sum()), problems) == (32, [])


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ('<tag label="OK" source="manual"></tag>', LabelFound("P-0001", OK)),
        ('<tag label="ng"/><tag label="scratch"/>', LabelFound("P-0001", NG, "scratch")),
        ('<tag label="UNCERTAIN"/>', LabelFound("P-0001", UNCERTAIN)),
        ('<tag label="Öl &amp; x"/>', None),
    ],
)
def test_tags_speak_of_the_whole_image(
    tmp_path: Path, inside: str, expected: LabelFound | None
) -> None:
    found, problems = read_xml(tmp_path, image(inside))

    assert found == ([] if expected is None else [expected])
    assert len(problems) == (expected is None)


BOX = '<box label="scratch" xtl="1" ytl="1" xbr="3" ybr="{}"/>'
MASK = '<mask label="a" rle="{}" left="{}" top="0" width="2" height="2"/>'


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (image(""), "neither marks nor tags"),
        (image('<tag label="OK"/><tag label="NG"/>'), "contradict each other"),
        (image(BOX.format("x")), "ybr 'x' is no number"),
        (image(BOX.format("nan")), "ybr 'nan' is out of bounds"),
        (image('<box label="scratch" xtl="1"/>'), "without 'ytl'"),
        (image('<polygon label="a" points="1,1;2"/>'), "point '2' is not x,y"),
        (image('<polygon label="../a" points="1,1;2,2;3,1"/>'), "defect name '../a'"),
        (image(MASK.format("1, 2", 0)), "sum up to 3, 2 x 2 = 4 expected"),
        (image(MASK.format("0, 4", 59)), "2 x 2 pixels at 59,0 does not lie inside"),
        (image(BOX.format(2) * 1001), "more than 1000 marks"),
        (image('<tag label="NG"/>' * 1001), "more than 1000 tags"),
        (image(BOX.format(2), size='width="60" height="1e9"'), "60 x 1000000000 pixels"),
        (image(BOX.format(2), size=""), "without 'width'"),
    ],
)
def test_a_bad_image_of_cvat_costs_itself_only(tmp_path: Path, bad: str, message: str) -> None:
    fine = image('<tag label="OK"/>', name="fine.jpg")

    found, problems = read_xml(tmp_path, bad, fine)

    assert found == [LabelFound("fine", OK)]
    assert len(problems) == 1
    assert message in problems[0]


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotations>&c;</annotations>'
FOREIGN = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotations>&b;</annotations>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no XML"),
        ("<annotations><image", "is no XML"),
        ("<html></html>", "holds no <annotations>"),
        ("<annotations><track/></annotations>", "is of a video"),
        (BOMB, "has a document type"),
        (FOREIGN, "has a document type"),
    ],
)
def test_what_is_no_file_of_cvat_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xml").write_text(text)

    with pytest.raises(DataError, match=message):
        list(cvat.read(tmp_path / "a.xml", pytest.fail, None))


@given(text=st.text(max_size=200))
def test_hostile_xml_raises_data_errors_only(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.xml"
    path.write_text(text, encoding="utf-8", errors="replace")

    with pytest.raises(DataError):
        list(cvat.read(path, lambda _: None, None))


def test_cvat_names_are_escaped(tmp_path: Path) -> None:
    found = LabelFound("a-1-1", NG, "a.b-c_1")

    cvat.write(tmp_path, [picture(found)])

    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()  # noqa: S314 - we wrote it
    assert [tag.get("label") for tag in root.iter("tag")] == ["NG", "a.b-c_1"]
    assert {name.text for name in root.iter("name")} >= {"OK", "NG", "UNCERTAIN", "a.b-c_1"}


def test_cvat_images_are_numbered_as_cvat_numbers_files(tmp_path: Path) -> None:
    names = ["a-1-2", "a-1-10", "a-1-1"]

    cvat.write(tmp_path, [picture(LabelFound(name, OK)) for name in names])

    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()  # noqa: S314 - we wrote it
    found = {image.get("name"): image.get("id") for image in root.iter("image")}
    assert [found[name] for name in sorted(found)] == ["0", "1", "2"]
