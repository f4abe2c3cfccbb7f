"""`zsad calibrate` on images: NG examples, images the daemon would refuse, and what is printed."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from sqlalchemy import create_engine

from daemon.cli.main import main
from daemon.training.snapshot import good_images

CONFIG = """\
line: L1
timezone: Europe/Berlin
run_dir: run
sources:
  - endpoint: tcp://127.0.0.1:5555
cameras:
  cam1:
categories:
  fabric: {class_name: woven fabric, ng_rate: 0.0001, confidence: 0.95}
storage:
  url: sqlite:///results.db
model: {threads: 1}
shifts:
  - name: day
    start: 06:00
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration, 10 OK images in `ok`, and 2 with a white square in `bad`."""
    (tmp_path / "daemon.yaml").write_text(CONFIG)
    for seed in range(12):
        noise = np.random.default_rng(seed).normal(128, 40, (120, 160)).astype(np.float32)
        grey = np.clip(cv2.GaussianBlur(noise, (5, 5), 1.5), 0, 255).astype(np.uint8)
        kind = "ok" if seed < 10 else "bad"
        if kind == "bad":
            grey[30:60, 100:140] = 255
        (tmp_path / kind).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / kind / f"{seed}.png"), grey)
    return tmp_path


def calibrate(folder: Path, *words: str) -> int:
    config = ("--config", str(folder / "daemon.yaml"), "--category", "fabric")
    return main(["calibrate", *config, str(folder / "ok"), *words])


def test_ng_examples_and_the_frames_still_needed_are_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(folder, "--ng-examples", str(folder / "bad"), "--catch", "1") == 0

    printed = capsys.readouterr().out
    assert "at most 100 ppm with 95 % confidence (ng_rate 0.0001) needs 29956" in printed
    assert "2 are NG or REVIEW (100.0%); 0 would pass as OK" in printed
    assert "These images have brightness" in printed


def test_an_image_that_the_daemon_would_not_inspect_calibrates_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(folder / "ok" / "dead.png"), np.zeros((120, 160), np.uint8))

    assert calibrate(folder) == 2
    assert "dead.png: the daemon would not inspect it: contrast 0.0" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_share_to_catch_needs_examples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(folder, "--catch", "0.9") == 2
    assert "name images of defective parts" in capsys.readouterr().err


def test_where_frames_are_kept_the_images_are_kept_too(folder: Path) -> None:
    config = folder / "daemon.yaml"
    config.write_text(CONFIG + "frames: {dir: whole}\n")
    (folder / "ok" / "copy.png").write_bytes((folder / "ok" / "0.png").read_bytes())

    assert calibrate(folder) == 0

    engine = create_engine(f"sqlite:///{folder / 'results.db'}")
    try:
        good = good_images(engine, "L1", "fabric", folder / "whole")
    finally:
        engine.dispose()
    assert {path.parent for path in good} == {folder / "whole" / "calibration" / "L1" / "fabric"}
    assert sorted(path.read_bytes() for path in good) == sorted(
        (folder / "ok" / f"{seed}.png").read_bytes() for seed in range(10)
    )
