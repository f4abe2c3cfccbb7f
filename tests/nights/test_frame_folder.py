"""The folder of frames: names cannot lead out of it, files are complete or absent."""

import errno
import os
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core import FrameId
from daemon.errors import StorageError
from daemon.storage.frame_folder import calibration_path, frame_path, locate, write_durably

NOW = datetime(2026, 11, 22, 13, 59, tzinfo=UTC)
HOSTILE = ["..", ".", "", "a/b", "/etc", "a\\b", "a\x00b", "~", "a\n", "é", ".hidden", "x" * 65]


def test_a_frame_lies_under_its_line_camera_and_hour() -> None:
    path = frame_path("line1", FrameId("cam1", 7, 42), NOW, "jpg")

    assert path == PurePosixPath("frames/line1/cam1/2026-11-22/13/cam1-7-42.jpg")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_makes_no_path(name: str) -> None:
    for make in (
        lambda: frame_path("line1", FrameId(name, 7, 1), NOW, "jpg"),
        lambda: frame_path(name, FrameId("cam1", 7, 1), NOW, "jpg"),
        lambda: calibration_path("line1", name, "0" * 64, "png"),
        lambda: calibration_path("line1", "fabric", "0" * 64, name),
    ):
        with pytest.raises(StorageError, match="letters"):
            make()


@given(line=st.text(), camera=st.text(), category=st.text(), suffix=st.text(max_size=6))
def test_whatever_makes_a_path_stays_in_the_folder(
    line: str, camera: str, category: str, suffix: str
) -> None:
    made = []
    for make in (
        lambda: frame_path(line, FrameId(camera, 7, 1), NOW, "png"),
        lambda: calibration_path(line, category, "0" * 64, suffix),
    ):
        try:
            made.append(make())
        except StorageError:
            continue
    for path in made:
        assert locate(Path("/srv/frames"), str(path)) == Path("/srv/frames") / path


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "frames/../../x", "", ".", "link/x"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)

    with pytest.raises(StorageError, match="leads out of"):
        locate(folder, path)


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = frame_path("line1", FrameId("cam1", 7, 1), NOW, "jpg")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full) if fails == "fsync" else patch.setattr(
            Path, "replace", full
        )
        with pytest.raises(OSError, match="No space left"):
            write_durably(tmp_path, path, b"content")

    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    write_durably(tmp_path, path, b"content")
    assert (tmp_path / path).read_bytes() == b"content"
