"""`zsad calibrate --references`: a bank and thresholds that fit it, or a reason why not."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from sqlalchemy import create_engine, text

from daemon.cli.main import main

CONFIG = """
line: L1
timezone: Europe/Berlin
run_dir: run
sources:
  - {{endpoint: "ipc:///tmp/frames", mode: bind}}
cameras: {{cam1: {{}}}}
categories:
  mesh: {{class_name: wire mesh, references: {references}}}
storage: {{url: "sqlite:///zsad.db"}}
shifts: [{{name: day, start: "06:00"}}]
model: {{references_dir: banks, device: cpu, threads: 1}}
http: {{listen: off}}
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "ok"
    folder.mkdir()
    for seed in range(13):
        image = np.random.default_rng(seed).integers(90, 140, (60, 60, 3), np.uint8)
        cv2.imwrite(str(folder / f"{seed:02}.png"), image)
    return folder


def calibrate(folder: Path, *words: str | Path, references: int = 3) -> int:
    path = folder / "daemon.yaml"
    path.write_text(CONFIG.format(references=references), encoding="utf-8")
    arguments = ["calibrate", "--config", path, "--category", "mesh", *words]
    return main([str(word) for word in arguments])


def test_references_are_drawn_from_the_images_and_the_others_make_the_thresholds(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(tmp_path, images, "--references", "3") == 0

    (bank,) = (tmp_path / "banks").glob("mesh-*.safetensors")
    engine = create_engine(f"sqlite:///{tmp_path / 'zsad.db'}")
    with engine.connect() as connection:
        (row,) = connection.execute(
            text(
                "SELECT m.name, c.n_frames FROM calibration c "
                "JOIN model_version m ON m.id = c.model_version_id"
            )
        ).all()
    engine.dispose()
    assert row.n_frames == 10
    model, _, bank_id = row.name.partition("+refs-")
    assert len(bank_id) == 12
    assert model in bank.name
    assert "+refs-" in capsys.readouterr().out


def test_without_a_bank_the_thresholds_of_a_category_with_references_are_refused(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(tmp_path, images) == 2

    assert "has no bank yet: add --references 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "references", "reason"),
    [
        (["--references", "13"], 3, "images beyond them, 13 were given"),
        (["--references", "1"], 3, "at least 2 references"),
        (["--references", "3"], 0, "references: 0 for 'mesh'"),
    ],
)
def test_references_that_cannot_be_used_are_refused_before_the_model_is_loaded(
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    references: int,
    reason: str,
) -> None:
    assert calibrate(tmp_path, images, *words, references=references) == 2

    assert reason in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "banks").exists()


def test_a_bank_needs_other_frames_for_its_thresholds(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(tmp_path, "--references", images) == 2

    assert "needs images of OK parts too" in " ".join(capsys.readouterr().err.split())
