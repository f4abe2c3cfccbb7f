"""`zsad label` on a configured line: set, list, queue, import and export."""

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from sqlalchemy import Engine, select

from daemon.cli import label
from daemon.core import FrameId, Inspection, KeptFrame, Thumbnails, Verdict
from daemon.errors import ConfigError, StorageError
from daemon.labels.mask import decode_mask
from daemon.storage import frame_files, frame_folder, repository
from daemon.storage.database import write_transaction
from daemon.storage.tables import LabelRow

MakeInspection = Callable[..., Inspection]
PHOTO = cv2.imencode(".jpg", np.full((12, 16, 3), 90, np.uint8))[1].tobytes()
CONFIG = """
line: line1
timezone: Europe/Berlin
run_dir: run
sources: [{endpoint: "tcp://127.0.0.1:5555"}]
cameras: {cam1: {}}
categories: {fabric: {class_name: fabric}}
storage: {url: "sqlite:///zsad.db"}
shifts: [{name: all, start: "06:00"}]
"""


@pytest.fixture
def config_path(
    sqlite_engine: Engine,
    register: Callable[[Engine], None],
    make_inspection: MakeInspection,
    tmp_path: Path,
) -> Path:
    """A configured line with four REVIEW frames of 64 x 48 pixels, received just now."""
    register(sqlite_engine)
    made = [
        make_inspection(
            seq,
            verdict=Verdict.REVIEW,
            pred_score=0.5,
            width_px=64,
            height_px=48,
            received_utc=datetime.now(UTC),
            thumbnails=Thumbnails(PHOTO, b"overlay", b"map"),
        )
        for seq in range(4)
    ]
    with write_transaction(sqlite_engine) as connection:
        repository.add_results(connection, "line1", made)
    path = tmp_path / "daemon.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def run(config_path: Path) -> Callable[..., int]:
    def run_label(*arguments: object) -> int:
        parser = argparse.ArgumentParser()
        label.add_commands(parser.add_subparsers(required=True))
        words = ["label", *map(str, arguments), "--config", str(config_path)]
        args = parser.parse_args(words)
        return int(args.run(args))

    return run_label


@pytest.fixture
def mask_path(tmp_path: Path) -> Path:
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 30:50] = 255
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), mask)
    return path


Run = Callable[..., int]


def listed(run: Run, capsys: pytest.CaptureFixture[str], *more: object) -> list[dict[str, object]]:
    capsys.readouterr()
    assert run("list", "--json", *more) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["labels"]
    return found


def test_a_label_is_set_corrected_and_listed(
    run: Run, mask_path: Path, capsys: pytest.CaptureFixture[str], sqlite_engine: Engine
) -> None:
    said = ("set", 1, "--author", "ana")
    run(*said, "--verdict", "ng", "--defect", "scratch", "--mask", mask_path, "--note", "deep")
    run(*said, "--verdict", "OK")

    (in_force,) = listed(run, capsys)
    history = listed(run, capsys, "--inspection", 1)

    assert (in_force["label"], in_force["verdict"], in_force["author"]) == ("OK", "REVIEW", "ana")
    assert [row["defect"] for row in history] == [None, "scratch"]
    assert (history[1]["has_mask"], history[1]["note"]) == (True, "deep")
    with sqlite_engine.connect() as connection:
        png = connection.scalar(select(LabelRow.mask_png).where(LabelRow.id == 1))
    assert png is not None
    assert int(decode_mask(png).sum()) == 200


def test_a_labelled_frame_leaves_the_queue(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("set", 2, "--verdict", "UNCERTAIN", "--author", "ana")
    capsys.readouterr()

    assert run("queue", "--json") == 0

    queue = json.loads(capsys.readouterr().out)["queue"]
    assert sorted(row["inspection_id"] for row in queue) == [1, 3, 4]
    assert {row["reason"] for row in queue} == {"review"}
    assert run("queue", "--limit", 1) == 0
    assert "review:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((9, "--verdict", "OK"), StorageError, "no inspection 9"),
        ((1, "--verdict", "NG", "--defect", "../x"), ConfigError, "defect name '../x'"),
        ((1, "--verdict", "OK", "--defect", "scratch"), StorageError, "an OK label has no defect"),
        ((1, "--verdict", "NG", "--mask", "missing.png"), ConfigError, "missing.png is no file"),
    ],
)
def test_a_wrong_label_is_refused(
    run: Run,
    arguments: tuple[object, ...],
    error: type[Exception],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(error, match=message):
        run("set", *arguments, "--author", "ana")

    assert listed(run, capsys) == []


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ((48, 48), 255, "the mask has 48 x 48 pixels, the frame 64 x 48"),
        ((48, 64), 0, "all black"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(
    run: Run, tmp_path: Path, shape: tuple[int, int], value: int, message: str
) -> None:
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), np.full(shape, value, np.uint8))

    with pytest.raises(ConfigError, match=message):
        run("set", 1, "--verdict", "NG", "--mask", path, "--author", "ana")


@pytest.mark.parametrize("form", ["masks", "mvtec", "coco", "labelme", "label-studio", "cvat"])
def test_what_is_exported_comes_in_again(
    run: Run,
    form: str,
    mask_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sqlite_engine: Engine,
) -> None:
    run("set", 1, "--verdict", "NG", "--mask", mask_path, "--author", "ana")
    run("set", 3, "--verdict", "OK", "--author", "ana")

    assert run("export", form, tmp_path / "out") == 0
    assert "thumbnails, enlarged" in capsys.readouterr().out
    assert run("import", form, tmp_path / "out", "--author", "ben") == 0

    rows = {row["inspection_id"]: row for row in listed(run, capsys)}
    assert {number: row["label"] for number, row in rows.items()} == {1: "NG", 3: "OK"}
    assert {(row["author"], row["source"]) for row in rows.values()} == {("ben", f"import:{form}")}
    with sqlite_engine.connect() as connection:
        masks = connection.scalars(
            select(LabelRow.mask_png).where(LabelRow.mask_png.is_not(None)).order_by(LabelRow.id)
        ).all()
    assert len(masks) == 2
    assert np.array_equal(decode_mask(masks[0] or b""), decode_mask(masks[1] or b""))


def test_export_hands_out_whole_frames_where_they_were_kept(
    run: Run,
    config_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sqlite_engine: Engine,
) -> None:
    config_path.write_text(CONFIG + "frames: {dir: whole}\n")
    frames = []
    for seq in range(2):
        content = b"as the camera sent it"
        frame_id, now = FrameId("cam1", 7, seq), datetime.now(UTC)
        path = frame_folder.frame_path("line1", frame_id, now, "png")
        frame_folder.write_durably(tmp_path / "whole", path, content)
        sha256 = frame_folder.digest(content)
        kept = KeptFrame(frame_id, "fabric", Verdict.REVIEW, now, str(path), len(content), sha256)
        frames.append((kept, tmp_path / "whole" / path))
    with write_transaction(sqlite_engine) as connection:
        frame_files.add_frames(connection, "line1", [kept for kept, _ in frames])
    for number in (1, 2, 3):
        run("set", number, "--verdict", "OK", "--author", "ana")
    frames[1][1].write_bytes(b"changed")

    assert run("export", "coco", tmp_path / "out") == 1

    told = capsys.readouterr()
    assert "3 labels written" in told.out
    assert "1 problems. Pictures: 1 whole frames, 2 thumbnails" in told.out
    assert "inspection 2: frames/line1/cam1/" in told.err
    names = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    assert names == ["cam1-7-0.png", "cam1-7-1.jpg", "cam1-7-2.jpg"]
    assert (tmp_path / "out" / "images" / names[0]).read_bytes() == b"as the camera sent it"


def test_import_brings_in_what_fits_and_names_the_rest(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, shape in (
        ("part0", (48, 64)),
        ("inspection-2", (12, 16)),
        ("part9", (48, 64)),
        ("part3", (48, 48)),
        ("cam1-7-2", (48, 64)),
        ("part2_mask", (48, 64)),
    ):
        cv2.imwrite(str(folder / f"{name}.png"), np.full(shape, 255, np.uint8))

    assert run("import", "masks", folder, "--author", "ana", "--dry-run") == 1
    assert listed(run, capsys) == []
    assert run("import", "masks", folder, "--author", "ana") == 1

    told = capsys.readouterr()
    assert "2 labels came in: 0 OK, 2 NG, 0 UNCERTAIN, 2 with a mask; 4 images left" in told.out
    assert "part9: no inspection of this line" in told.err
    assert "the mask has 48 x 48 pixels, the frame 64 x 48" in told.err
    assert told.err.count("2 labels for inspection 3") == 2
    assert sorted(row["inspection_id"] for row in listed(run, capsys)) == [1, 2]


def test_export_overwrites_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    with pytest.raises(ConfigError, match="not an empty folder"):
        run("export", "coco", tmp_path / "out")


@pytest.mark.parametrize("form", ["masks", "mvtec", "coco", "labelme", "label-studio", "cvat"])
def test_a_wrong_path_is_one_sentence(run: Run, tmp_path: Path, form: str) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        run("import", form, tmp_path / "nowhere")
